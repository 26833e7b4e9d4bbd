// A fuzzer of one parser: FUZZ(name) { … input … }. libFuzzer runs it over what it invents; corpus_test runs
// it over the seeds and the findings in corpus/name. It must not crash, hang, leak, nor fail a CHECK.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string_view>

namespace sock::fuzz {
using Target = void (*)(std::string_view input);
bool Register(const char* name, Target target);  // corpus_test's
}  // namespace sock::fuzz

#define CHECK(condition) \
  if (!(condition)) std::abort()

#ifdef CRI_SOCK_LIBFUZZER
#define FUZZ(name)                                                          \
  static void Fuzz(std::string_view);                                       \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { \
    Fuzz({reinterpret_cast<const char*>(data), size});                      \
    return 0;                                                               \
  }                                                                         \
  static void Fuzz(std::string_view input)
#else
#define FUZZ(name)                                                                    \
  static void Fuzz(std::string_view);                                                 \
  [[maybe_unused]] static const bool registered = sock::fuzz::Register(#name, &Fuzz); \
  static void Fuzz(std::string_view input)
#endif
