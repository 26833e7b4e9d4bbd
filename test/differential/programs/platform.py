import platform, os
print(platform.node() == os.uname().nodename, platform.python_version(), platform.python_implementation(), platform.system())
