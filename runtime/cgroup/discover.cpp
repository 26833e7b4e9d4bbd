#include <libcgroup.h>
#include <mntent.h>

#include <algorithm>
#include <cstdio>

#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/cgroup/internal.h"

namespace sock::runtime {
namespace cgroup {
namespace {

struct Mounts {
  std::map<std::string, bool> is_v2;  // mount point -> cgroup2?
  std::string unified;
};

Mounts ReadMounts() {
  Mounts mounts;
  FILE* file = setmntent("/proc/self/mounts", "re");
  if (file == nullptr) return mounts;
  mntent entry;
  char buffer[8192];
  while (getmntent_r(file, &entry, buffer, sizeof buffer) != nullptr) {
    std::string_view type = entry.mnt_type;
    if (type != "cgroup" && type != "cgroup2") continue;
    mounts.is_v2[entry.mnt_dir] = type == "cgroup2";
    // The first one counts: later ones are other views of it, such as containers' mounts.
    if (type == "cgroup2" && mounts.unified.empty()) mounts.unified = entry.mnt_dir;
  }
  endmntent(file);
  return mounts;
}

}  // namespace

absl::StatusOr<Layout> Discover() {
  Mounts mounts = ReadMounts();
  Layout layout;
  layout.unified = mounts.unified;
  if (int error = cgroup_init(); error != 0 && layout.unified.empty()) {
    return absl::FailedPreconditionError(Cat("discover cgroups: ", cgroup_strerror(error)));
  } else if (error == 0) {
    void* handle = nullptr;
    cgroup_mount_point point;
    int more = cgroup_get_controller_begin(&handle, &point);
    for (; more == 0; more = cgroup_get_controller_next(&handle, &point)) {
      std::string name = point.name;
      auto mount = mounts.is_v2.find(point.path);
      if (mount == mounts.is_v2.end() || mount->second || name.starts_with("name=")) continue;
      layout.controllers.emplace(name, point.path);
    }
    cgroup_get_controller_end(&handle);
  }
  if (layout.controllers.empty()) {
    if (layout.unified.empty()) {
      return absl::FailedPreconditionError("discover cgroups: no cgroup file system is mounted");
    }
    layout.mode = CgroupMode::kV2;
  } else {
    layout.mode = layout.unified.empty() ? CgroupMode::kV1 : CgroupMode::kHybrid;
  }
  return layout;
}

}  // namespace cgroup

namespace {

absl::Status CheckSystemd() {
  if (!cgroup::Exists("/run/systemd/system")) {  // sd_booted(3)
    return absl::FailedPreconditionError(
        "cgroup driver `systemd`: this machine was not booted with systemd (no `/run/systemd/system`); use "
        "`cgroupfs`");
  }
  return absl::UnimplementedError(
      "cgroup driver `systemd`: scopes are not made over D-Bus; use `cgroupfs`, here and in kubelet");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CgroupManager>> CgroupManager::Open(const std::string& driver) {
  if (driver != "cgroupfs" && driver != "systemd") {
    return absl::InvalidArgumentError(Cat("cgroup driver `", driver, "`: must be `cgroupfs` or `systemd`"));
  }
  bool systemd = driver == "systemd";
  if (systemd) RETURN_IF_ERROR(CheckSystemd());
  ASSIGN_OR_RETURN(cgroup::Layout layout, cgroup::Discover());
  if (layout.mode == CgroupMode::kV2) {
    std::string have = Cat(" ", cgroup::ReadText(layout.unified + "/cgroup.controllers"), " ");
    std::ranges::replace(have, '\n', ' ');
    for (const char* needed : {"cpu", "memory", "pids"}) {
      if (have.find(Cat(" ", needed, " ")) == have.npos) {
        return absl::FailedPreconditionError(
            Cat("discover cgroups: controller `", needed, "` is not given to `", layout.unified, "`"));
      }
    }
    RETURN_IF_ERROR_AS(cgroup::EnableControllers(layout.unified), "discover cgroups");
    return cgroup::MakeV2(layout.unified, systemd);
  }
  for (const char* needed : {"cpu", "memory"}) {
    if (!layout.controllers.contains(needed)) {
      return absl::FailedPreconditionError(Cat("discover cgroups: controller `", needed, "` is not mounted"));
    }
  }
  return cgroup::MakeV1(std::move(layout), systemd);
}

}  // namespace sock::runtime
