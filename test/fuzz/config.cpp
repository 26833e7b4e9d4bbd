#include "cri/config.h"

#include "test/fuzz/fuzz.h"

FUZZ(config) { sock::cri::ParseConfig(std::string(input)).IgnoreError(); }
