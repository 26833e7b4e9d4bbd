#include "runtime/container/seccomp.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string_view>

#include "runtime/base/fd.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

constexpr size_t kCacheLimit = 256;  // descriptions; the cache starts anew past it

absl::StatusOr<uint32_t> ActionOf(const std::string& name, std::optional<uint32_t> value) {
  const uint32_t data = value.value_or(EPERM);
  if ((name == "SCMP_ACT_ERRNO" || name == "SCMP_ACT_TRACE") && data > 0xffff)
    return absl::InvalidArgumentError(Cat("seccomp: errno ", data, " is too large"));
  if (name == "SCMP_ACT_ALLOW") return SCMP_ACT_ALLOW;
  if (name == "SCMP_ACT_ERRNO") return SCMP_ACT_ERRNO(data);
  if (name == "SCMP_ACT_KILL" || name == "SCMP_ACT_KILL_THREAD") return SCMP_ACT_KILL_THREAD;
  if (name == "SCMP_ACT_KILL_PROCESS") return SCMP_ACT_KILL_PROCESS;
  if (name == "SCMP_ACT_TRAP") return SCMP_ACT_TRAP;
  if (name == "SCMP_ACT_TRACE") return SCMP_ACT_TRACE(data);
  if (name == "SCMP_ACT_LOG") return SCMP_ACT_LOG;
  if (name == "SCMP_ACT_NOTIFY") return absl::UnimplementedError("seccomp: action `SCMP_ACT_NOTIFY`");
  return absl::InvalidArgumentError(Cat("seccomp: unknown action `", name, "`"));
}

absl::StatusOr<scmp_compare> OperatorOf(const std::string& name) {
  static const std::map<std::string, scmp_compare> known = {{"SCMP_CMP_NE", SCMP_CMP_NE},
                                                            {"SCMP_CMP_LT", SCMP_CMP_LT},
                                                            {"SCMP_CMP_LE", SCMP_CMP_LE},
                                                            {"SCMP_CMP_EQ", SCMP_CMP_EQ},
                                                            {"SCMP_CMP_GE", SCMP_CMP_GE},
                                                            {"SCMP_CMP_GT", SCMP_CMP_GT},
                                                            {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ}};
  auto at = known.find(name);
  if (at == known.end()) return absl::InvalidArgumentError(Cat("seccomp: unknown operator `", name, "`"));
  return at->second;
}

// Whether code for `arch` can run on this machine.
bool Runnable(uint32_t arch) {
  switch (seccomp_arch_native()) {
    case SCMP_ARCH_X86_64:
      return arch == SCMP_ARCH_X86_64 || arch == SCMP_ARCH_X86 || arch == SCMP_ARCH_X32;
    case SCMP_ARCH_AARCH64:
      return arch == SCMP_ARCH_AARCH64 || arch == SCMP_ARCH_ARM;
    default:
      return arch == seccomp_arch_native();
  }
}

absl::Status AddArchitectures(scmp_filter_ctx filter, const std::vector<std::string>& names) {
  constexpr std::string_view prefix = "SCMP_ARCH_";
  for (const std::string& name : names) {
    std::string plain = name.starts_with(prefix) ? name.substr(prefix.size()) : "";
    for (char& c : plain) c = c >= 'A' && c <= 'Z' ? c + 32 : c;
    const uint32_t arch = plain.empty() ? 0 : seccomp_arch_resolve_name(plain.c_str());
    if (!arch) return absl::InvalidArgumentError(Cat("seccomp: unknown architecture `", name, "`"));
    if (!Runnable(arch)) continue;
    if (int rc = seccomp_arch_add(filter, arch); rc < 0 && rc != -EEXIST)
      return ErrnoStatus(-rc, Cat("seccomp: add architecture `", name, "`"));
  }
  return absl::OkStatus();
}

absl::Status AddSyscall(scmp_filter_ctx filter, const oci::SeccompSyscall& rule, uint32_t default_action) {
  ASSIGN_OR_RETURN(const uint32_t action, ActionOf(rule.action, rule.errno_ret));
  std::vector<scmp_arg_cmp> args;
  std::set<uint32_t> indexes;
  for (const oci::SeccompArg& arg : rule.args) {
    ASSIGN_OR_RETURN(const scmp_compare op, OperatorOf(arg.op));
    if (arg.index > 5) return absl::InvalidArgumentError(Cat("seccomp: argument index ", arg.index));
    // Where a mask is compared, the first value is the mask.
    args.push_back({arg.index, op, arg.value, arg.value_two});
    indexes.insert(arg.index);
  }
  if (action == default_action) return absl::OkStatus();  // libseccomp refuses such a rule
  for (const std::string& name : rule.names) {
    const int number = seccomp_syscall_resolve_name(name.c_str());
    if (number == __NR_SCMP_ERROR) continue;
    int rc = 0;
    if (indexes.size() == args.size()) {
      rc = seccomp_rule_add_array(filter, action, number, args.size(), args.data());
    } else {  // one argument compared more than once: any of the comparisons matches
      for (size_t i = 0; i < args.size() && (rc == 0 || rc == -EEXIST); ++i)
        rc = seccomp_rule_add_array(filter, action, number, 1, &args[i]);
    }
    if (rc < 0 && rc != -EEXIST)
      return WithCode(ErrnoStatus(-rc, Cat("seccomp: rule for `", name, "`")),
                      absl::StatusCode::kInvalidArgument);
  }
  return absl::OkStatus();
}

// An allow-list answers calls that are newer than itself with ENOSYS, so that a C library falls back to the
// older call instead of failing: instructions that stand before the filter, for the native architecture.
std::string NewerCalls(const oci::Seccomp& seccomp) {
  int newest = -1;
  for (const oci::SeccompSyscall& rule : seccomp.syscalls)
    for (const std::string& name : rule.names)
      newest = std::max(newest, seccomp_syscall_resolve_name_arch(SCMP_ARCH_NATIVE, name.c_str()));
  if (newest < 0 || seccomp.default_action != "SCMP_ACT_ERRNO" ||
      seccomp.default_errno_ret.value_or(EPERM) != EPERM)
    return "";
  constexpr uint32_t kX32Bit = 0x40000000;
  const std::array<sock_filter, 6> code = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, seccomp_arch_native(), 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, static_cast<uint32_t>(newest), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
  }};
  return {reinterpret_cast<const char*>(code.data()), sizeof code};
}

absl::StatusOr<std::string> Compile(const oci::Seccomp& seccomp) {
  ASSIGN_OR_RETURN(const uint32_t action, ActionOf(seccomp.default_action, seccomp.default_errno_ret));
  for (const std::string& flag : seccomp.flags) {
    if (flag != "SECCOMP_FILTER_FLAG_TSYNC" && flag != "SECCOMP_FILTER_FLAG_LOG" &&
        flag != "SECCOMP_FILTER_FLAG_SPEC_ALLOW" && flag != "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")
      return absl::InvalidArgumentError(Cat("seccomp: unknown flag `", flag, "`"));
  }
  std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(seccomp_init(action), seccomp_release);
  if (!filter) return absl::ResourceExhaustedError("seccomp: new filter");
  // Bad architectures' calls meet the default action; a balanced tree makes the many allowed ones cheap.
  seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  RETURN_IF_ERROR(AddArchitectures(filter.get(), seccomp.architectures));
  for (const oci::SeccompSyscall& rule : seccomp.syscalls)
    RETURN_IF_ERROR(AddSyscall(filter.get(), rule, action));
  Fd memory(memfd_create("seccomp", MFD_CLOEXEC));
  if (!memory.valid()) return ErrnoStatus(errno, "seccomp: memfd_create");
  if (int rc = seccomp_export_bpf(filter.get(), memory.get()); rc < 0)
    return ErrnoStatus(-rc, "seccomp: compile filter");
  const off_t size = lseek(memory.get(), 0, SEEK_END);
  if (size <= 0) return ErrnoStatus(errno, "seccomp: size of filter");
  std::string code(static_cast<size_t>(size), '\0');
  if (pread(memory.get(), code.data(), code.size(), 0) != size)
    return ErrnoStatus(errno, "seccomp: read filter");
  code.insert(0, NewerCalls(seccomp));
  const size_t instructions = code.size() / sizeof(sock_filter);
  if (instructions > BPF_MAXINSNS)
    return absl::InvalidArgumentError(
        Cat("seccomp: profile needs ", instructions, " instructions, at most ", BPF_MAXINSNS));
  return code;
}

}  // namespace

// Every part ends with a byte that names cannot contain.
std::string Fingerprint(const oci::Seccomp& s) {
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
  for (const oci::SeccompSyscall& rule : s.syscalls) {
    add_all(rule.names);
    add(rule.action);
    add_optional(rule.errno_ret);
    add(rule.args.size());
    for (const oci::SeccompArg& arg : rule.args) {
      add(arg.index);
      add(arg.value);
      add(arg.value_two);
      add(arg.op);
    }
  }
  return text;
}

absl::StatusOr<std::string> CompileSeccomp(const oci::Seccomp& seccomp) {
  static std::mutex mutex;
  static auto& cache = *new std::map<std::string, std::string>;
  std::string key = Fingerprint(seccomp);
  // Held while compiling: many containers that start at once with one profile compile it once.
  std::lock_guard lock(mutex);
  if (auto at = cache.find(key); at != cache.end()) return at->second;
  ASSIGN_OR_RETURN(std::string code, Compile(seccomp));
  if (cache.size() >= kCacheLimit) cache.clear();
  cache[std::move(key)] = code;
  return code;
}

}  // namespace sock::runtime
