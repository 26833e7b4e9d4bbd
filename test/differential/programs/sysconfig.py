import sysconfig, site
print(sysconfig.get_path('stdlib'), site.getsitepackages(), site.ENABLE_USER_SITE)
