// The source of the helper that runs in a Zygote's interpreter (zygote/python/zygote.py).
#pragma once

namespace sock::zygote {

extern const char kHelper[];

}  // namespace sock::zygote
