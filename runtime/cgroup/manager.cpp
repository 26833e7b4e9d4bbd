#include "runtime/cgroup/manager.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime::cgroup {

namespace {

bool MadeNow(const std::vector<std::string>& made, const std::vector<std::string>& dirs) {
  return std::ranges::all_of(
      dirs, [&](const std::string& dir) { return std::ranges::find(made, dir) != made.end(); });
}

}  // namespace

std::vector<std::string> TreeManager::Dirs(const std::string& path) const {
  std::vector<std::string> dirs = Roots();
  for (std::string& dir : dirs) dir += "/" + path;
  return dirs;
}

absl::StatusOr<std::string> TreeManager::Find(const std::string& path) const {
  ASSIGN_OR_RETURN(std::string clean, Normalize(path, systemd_));
  for (const std::string& dir : Dirs(clean)) {
    if (!Exists(dir)) return absl::NotFoundError(Cat("cgroup `", dir, "`: does not exist"));
  }
  return clean;
}

absl::Status TreeManager::Create(const std::string& path, const oci::Resources& resources) {
  RETURN_IF_ERROR(CheckResources(resources, mode() == CgroupMode::kV2));
  ASSIGN_OR_RETURN(std::string clean, Normalize(path, systemd_));
  std::vector<std::string> made;
  absl::Status status = Make(clean, &made);
  if (status.ok()) status = Limit(clean, resources, MadeNow(made, Dirs(clean)));
  if (!status.ok()) {
    for (auto dir = made.rbegin(); dir != made.rend(); ++dir) rmdir(dir->c_str());
  }
  return status;
}

absl::Status TreeManager::Update(const std::string& path, const oci::Resources& resources) {
  RETURN_IF_ERROR(CheckResources(resources, mode() == CgroupMode::kV2));
  ASSIGN_OR_RETURN(std::string clean, Find(path));
  return Limit(clean, resources, false);
}

absl::StatusOr<CgroupStats> TreeManager::Stats(const std::string& path) const {
  ASSIGN_OR_RETURN(std::string clean, Find(path));
  return Read(clean);
}

absl::StatusOr<CgroupEntry> TreeManager::Entry(const std::string& path) const {
  ASSIGN_OR_RETURN(std::string clean, Normalize(path, systemd_));
  CgroupEntry entry;
  // A thread that moves itself by `tasks` takes no lock against forks and exits, where `cgroup.procs` waits
  // for an RCU grace period, 10 to 20 ms (kernel/cgroup/cgroup.c, cgroup_procs_write_start). A forked child
  // is one thread.
  for (const std::string& dir : Dirs(clean)) {
    ASSIGN_OR_RETURN(Fd procs, OpenPath(dir + "/tasks", O_WRONLY));
    entry.procs.push_back(std::move(procs));
  }
  return entry;
}

absl::StatusOr<std::vector<pid_t>> TreeManager::Pids(const std::string& path) const {
  ASSIGN_OR_RETURN(std::string clean, Find(path));
  return PidsOf(Dirs(clean));
}

absl::StatusOr<std::vector<pid_t>> TreeManager::PidsOfFirst(const std::string& path) const {
  ASSIGN_OR_RETURN(std::string clean, Normalize(path, systemd_));
  return PidsOf({Dirs(clean).front()});
}

absl::Status TreeManager::Remove(const std::string& path) {
  ASSIGN_OR_RETURN(std::string clean, Normalize(path, systemd_));
  // The first that is busy speaks for all: its processes are in the others too.
  for (const std::string& dir : Dirs(clean)) RETURN_IF_ERROR(RemoveCgroup(dir));
  return absl::OkStatus();
}

absl::Status TreeManager::EnsureParent(const std::string& path) {
  ASSIGN_OR_RETURN(std::string clean, Normalize(path, systemd_));
  std::vector<std::string> made;
  absl::Status status = Make(clean, &made);
  if (!status.ok()) {
    for (auto dir = made.rbegin(); dir != made.rend(); ++dir) rmdir(dir->c_str());
  }
  return status;
}

}  // namespace sock::runtime::cgroup
