#include "runtime/monitor/verify.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "runtime/base/path.h"
#include "runtime/base/pidref.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime::monitor {
namespace {

absl::Status Differs(std::string_view what, std::string_view is, std::string_view wanted) {
  return absl::FailedPreconditionError(
      Cat("the forked process's ", what, " is `", is, "`, not `", wanted, "`"));
}

std::string Word(const std::map<std::string, std::string>& status, const std::string& key) {
  auto found = status.find(key);
  return found == status.end() ? std::string() : found->second;
}

// All four ids of a line "Uid:", real, effective, saved and of the file system.
absl::Status CheckIds(const std::map<std::string, std::string>& status, const std::string& key, uint32_t id) {
  const std::string wanted = Cat(id, "\t", id, "\t", id, "\t", id), is = Word(status, key);
  return is == wanted ? absl::OkStatus() : Differs(key, is, wanted);
}

absl::Status CheckGroups(const std::string& line, std::vector<uint32_t> wanted) {
  std::vector<uint32_t> is;
  for (absl::string_view word : absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty())) {
    uint32_t group = 0;
    if (!absl::SimpleAtoi(word, &group)) return Differs("Groups", line, "numbers");
    is.push_back(group);
  }
  std::sort(is.begin(), is.end());
  std::sort(wanted.begin(), wanted.end());
  return is == wanted ? absl::OkStatus() : Differs("Groups", line, fmt::format("{}", fmt::join(wanted, " ")));
}

absl::Status CheckCapabilities(const std::map<std::string, std::string>& status, const Plan& plan) {
  uint64_t known = 0;
  if (absl::StatusOr<std::string> last = ReadFile("/proc/sys/kernel/cap_last_cap", 64); last.ok()) {
    int number = 0;
    if (absl::SimpleAtoi(*last, &number) && number >= 0 && number < 63) known = (2ull << number) - 1;
  }
  const struct {
    const char* key;
    uint64_t most;
    bool exact;
  } sets[] = {{"CapBnd", plan.cap_bounding(), false},
              {"CapPrm", plan.cap_permitted(), true},
              {"CapEff", plan.cap_effective(), true},
              {"CapInh", plan.cap_inheritable(), true},
              {"CapAmb", plan.cap_ambient(), true}};
  for (const auto& set : sets) {
    const std::string text = Word(status, set.key);
    uint64_t is = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), is, 16);
    // Never more than is allowed; less only where the whole node has less to give.
    if (error != std::errc() || end != text.data() + text.size() || (is & ~(set.most & known)) != 0 ||
        (set.exact && is != (set.most & known)))
      return Differs(set.key, text, fmt::format("{:016x}", set.most & known));
  }
  return absl::OkStatus();
}

// The newest filter is the plan's, byte for byte. The kernel counts from the oldest.
absl::Status CheckFilter(pid_t pid, uint64_t index, const Plan& plan) {
  auto ask = [&](long what, uint64_t argument, void* data) {
    return syscall(SYS_ptrace, what, pid, argument, data);
  };
  const long length = ask(PTRACE_SECCOMP_GET_FILTER, index, nullptr);
  if (length < 0) return ErrnoStatus(errno, "read the forked process's seccomp filter");
  std::vector<sock_filter> code(static_cast<size_t>(length));
  seccomp_metadata metadata{index, 0};
  if (ask(PTRACE_SECCOMP_GET_FILTER, index, code.data()) < 0 ||
      ask(PTRACE_SECCOMP_GET_METADATA, sizeof metadata, &metadata) < 0)
    return ErrnoStatus(errno, "read the forked process's seccomp filter");
  const std::string_view bytes(reinterpret_cast<const char*>(code.data()), code.size() * sizeof code[0]);
  if (bytes != plan.seccomp() || ((metadata.flags ^ plan.seccomp_flags()) & SECCOMP_FILTER_FLAG_LOG) != 0)
    return absl::FailedPreconditionError("the forked process has another seccomp filter");
  return absl::OkStatus();
}

absl::Status CheckDescriptors(const std::string& proc, const Expected& expected) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir((proc + "/fd").c_str()), closedir);
  if (!dir) return ErrnoStatus(errno, "list the forked process's descriptors");
  int channels = 0;
  while (const dirent* entry = readdir(dir.get())) {
    int number = 0;
    if (!absl::SimpleAtoi(entry->d_name, &number)) continue;
    struct stat st;
    if (stat((proc + "/fd/" + entry->d_name).c_str(), &st) < 0)
      return ErrnoStatus(errno, Cat("look at the forked process's descriptor ", number));
    const FileIdentity identity{st.st_dev, st.st_ino};
    if (number <= 2) {
      if (identity != expected.descriptors[number])
        return absl::FailedPreconditionError(
            Cat("the forked process's descriptor ", number, " is not the one that it was given"));
    } else if (identity == expected.channel && channels == 0) {
      ++channels;
    } else {
      return absl::FailedPreconditionError(Cat("the forked process has descriptor ", number, " open"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

FileIdentity IdentityOf(int fd) {
  struct stat st;
  if (fstat(fd, &st) < 0) return {};
  return {st.st_dev, st.st_ino};
}

absl::StatusOr<Place> PlaceOf(pid_t pid, const char* link) {
  struct statx st;
  if (statx(AT_FDCWD, Cat("/proc/", pid, "/", link).c_str(), AT_STATX_DONT_SYNC, STATX_INO | STATX_MNT_ID,
            &st) < 0)
    return ErrnoStatus(errno, Cat("look at the ", link, " of process ", pid));
  return Place{st.stx_dev_major, st.stx_dev_minor, st.stx_ino, st.stx_mnt_id};
}

absl::Status VerifyForked(pid_t pid, const Expected& expected) {
  const std::string proc = Cat("/proc/", pid);
  ASSIGN_OR_RETURN_AS(std::string text, ReadFile(proc + "/status", 1 << 16), "look at the forked process");
  std::map<std::string, std::string> status;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const size_t colon = line.find(":\t");
    if (colon != absl::string_view::npos)
      status[std::string(line.substr(0, colon))] = std::string(line.substr(colon + 2));
  }
  if (ParentOf(pid) != expected.parent) return Differs("parent", Cat(ParentOf(pid)), Cat(expected.parent));
  if (Word(status, "Threads") != "1") return Differs("number of threads", Word(status, "Threads"), "1");
  if (expected.first_in_pid_ns && !Word(status, "NSpid").ends_with("\t1"))
    return Differs("NSpid", Word(status, "NSpid"), "1 in its own namespace");
  RETURN_IF_ERROR(CheckIds(status, "Uid", expected.host_uid));
  RETURN_IF_ERROR(CheckIds(status, "Gid", expected.host_gid));
  RETURN_IF_ERROR(CheckGroups(Word(status, "Groups"), expected.host_groups));
  RETURN_IF_ERROR(CheckCapabilities(status, *expected.plan));
  const char* privileges = expected.plan->no_new_privileges() ? "1" : "0";
  if (Word(status, "NoNewPrivs") != privileges)
    return Differs("NoNewPrivs", Word(status, "NoNewPrivs"), privileges);
  // "Seccomp_filters" is there from Linux 5.9.
  const std::string filters = Cat(expected.seccomp_filters);
  if (Word(status, "Seccomp_filters") != filters)
    return Differs("number of seccomp filters", Word(status, "Seccomp_filters"), filters);
  if (const Plan& plan = *expected.plan; !plan.seccomp().empty())
    RETURN_IF_ERROR(CheckFilter(pid, static_cast<uint64_t>(expected.seccomp_filters) - 1, plan));
  for (const auto& [kind, identity] : expected.namespaces) {
    struct stat st;
    if (stat(Cat(proc, "/ns/", kind).c_str(), &st) < 0)
      return ErrnoStatus(errno, Cat("look at the forked process's ", kind, " namespace"));
    if (FileIdentity{st.st_dev, st.st_ino} != identity)
      return absl::FailedPreconditionError(Cat("the forked process is in another ", kind, " namespace"));
  }
  for (const auto& [link, place] : {std::pair{"root", &expected.root}, {"cwd", &expected.cwd}}) {
    ASSIGN_OR_RETURN(const Place is, PlaceOf(pid, link));
    if (is != *place) return absl::FailedPreconditionError(Cat("the forked process has another ", link));
  }
  if (!expected.mounts.empty()) {
    ASSIGN_OR_RETURN_AS(const std::string mounts, ReadFile(proc + "/mountinfo", 1 << 22),
                        "look at the forked process's mounts");
    if (mounts != expected.mounts)
      return absl::FailedPreconditionError("the forked process has changed its mounts");
  }
  struct stat st;
  if (stat((proc + "/ns/cgroup").c_str(), &st) < 0)
    return ErrnoStatus(errno, "look at the forked process's cgroup namespace");
  if (FileIdentity{st.st_dev, st.st_ino} == expected.own_cgroup_ns)
    return absl::FailedPreconditionError("the forked process is in the host's cgroup namespace");
  ASSIGN_OR_RETURN_AS(std::string cgroups, ReadFile(proc + "/cgroup", 1 << 16),
                      "look at the forked process's cgroups");
  if (cgroups != expected.cgroups)
    return absl::FailedPreconditionError("the forked process is in another cgroup");
  return CheckDescriptors(proc, expected);
}

}  // namespace sock::runtime::monitor
