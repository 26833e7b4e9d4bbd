#include "runtime/container/seccomp_profile.h"
#include "test/fuzz/fuzz.h"

FUZZ(seccomp) { sock::runtime::ParseSeccompProfile(std::string(input), {"CAP_SYS_ADMIN"}).IgnoreError(); }
