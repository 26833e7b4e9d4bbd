# package: python-dateutil
# load: dateutil.parser dateutil.rrule dateutil.tz dateutil.relativedelta
# env: TZ=America/New_York
import datetime
from dateutil import parser, relativedelta, rrule, tz

print(parser.parse('3rd of May 2021, 5pm'), datetime.date(2024, 1, 31) + relativedelta.relativedelta(months=1))
print([d.date().isoformat() for d in rrule.rrule(rrule.MONTHLY, byweekday=rrule.FR(-1), count=3, dtstart=datetime.datetime(2024, 1, 1))])
print(datetime.datetime(2024, 7, 1, tzinfo=tz.tzlocal()).utcoffset(), datetime.datetime(2024, 7, 1, tzinfo=tz.gettz('Europe/Paris')).tzname())
