# exit: -11
import faulthandler, resource, signal, os, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
print(faulthandler.is_enabled())
sys.stdout.flush()
faulthandler.enable(**({'c_stack': False} if sys.version_info >= (3, 14) else {}))
def f(): os.kill(os.getpid(), signal.SIGSEGV)
f()
