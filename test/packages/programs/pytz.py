# package: pytz
# load: pytz
import datetime
import pytz

zone = pytz.timezone('Europe/Berlin')
print(zone.localize(datetime.datetime(2024, 3, 31, 3)).isoformat(), len(pytz.common_timezones) > 300)
try:
    zone.localize(datetime.datetime(2024, 10, 27, 2, 30), is_dst=None)
except pytz.AmbiguousTimeError as error:
    print(type(error).__name__)
