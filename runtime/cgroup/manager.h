// What v1 and v2 do alike. Not for other rooms.
#pragma once

#include "runtime/cgroup/internal.h"

namespace sock::runtime::cgroup {

class TreeManager : public CgroupManager {
 public:
  explicit TreeManager(bool systemd) : systemd_(systemd) {}

  std::string PathFor(const std::string& parent, const std::string& id) const override {
    return ContainerPath(parent, id, systemd_);
  }
  absl::Status Create(const std::string& path, const oci::Resources& resources) override;
  absl::Status Update(const std::string& path, const oci::Resources& resources) override;
  absl::StatusOr<CgroupStats> Stats(const std::string& path) const override;
  absl::StatusOr<CgroupEntry> Entry(const std::string& path) const override;
  absl::StatusOr<std::vector<pid_t>> Pids(const std::string& path) const override;
  absl::StatusOr<std::vector<pid_t>> PidsOfFirst(const std::string& path) const override;
  absl::Status Remove(const std::string& path) override;
  absl::Status EnsureParent(const std::string& path) override;

 protected:
  // The mount points, each once.
  virtual std::vector<std::string> Roots() const = 0;
  // Makes the normalized `path` everywhere, ready for limits.
  virtual absl::Status Make(const std::string& path, std::vector<std::string>* made) = 0;
  // Writes checked limits; all or nothing, but for a `fresh` cgroup: that one was made just now, so that its
  // state is the kernel's own, and is removed where this fails.
  virtual absl::Status Limit(const std::string& path, const oci::Resources& resources, bool fresh) = 0;
  virtual CgroupStats Read(const std::string& path) const = 0;

  std::vector<std::string> Dirs(const std::string& path) const;
  // NOT_FOUND where the cgroup is missing from a hierarchy.
  absl::StatusOr<std::string> Find(const std::string& path) const;

  const bool systemd_;
};

}  // namespace sock::runtime::cgroup
