#include "oci/runtime_spec.h"

#include "runtime/base/text.h"

namespace sock::oci {

// Every part ends with a byte that names cannot contain.
std::string Fingerprint(const Seccomp& s) {
  std::string text;
  auto add = [&](const auto& part) {
    Append(text, part);
    text.push_back('\0');
  };
  auto add_optional = [&](const std::optional<uint32_t>& v) {
    if (v) {
      add(*v);
    } else {
      add('-');
    }
  };
  auto add_all = [&](const std::vector<std::string>& list) {
    add(list.size());
    for (const std::string& item : list) add(item);
  };
  add(s.default_action);
  add_optional(s.default_errno_ret);
  add_all(s.architectures);
  add_all(s.flags);
  for (const SeccompSyscall& rule : s.syscalls) {
    add_all(rule.names);
    add(rule.action);
    add_optional(rule.errno_ret);
    add(rule.args.size());
    for (const SeccompArg& arg : rule.args) {
      add(arg.index);
      add(arg.value);
      add(arg.value_two);
      add(arg.op);
    }
  }
  return text;
}

}  // namespace sock::oci
