# env: TZ=XYZ-3:30
import time, datetime
print(time.tzname, time.strftime('%Z %z', time.localtime(0)), datetime.datetime.fromtimestamp(0))
