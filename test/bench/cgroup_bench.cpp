// cgroup-bench: making a cgroup with two limits, and removing it, by libcgroup and by our own writes.
#include <libcgroup.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "runtime/base/text.h"
#include "runtime/cgroup/cgroup.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kRounds = 300;
constexpr int64_t kMemory = 64 << 20;
constexpr uint64_t kShares = 102;

class Times {
 public:
  template <typename Call>
  bool Add(Call call) {
    auto begin = Clock::now();
    bool ok = call();
    micros_.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    return ok;
  }
  double Median() {
    std::sort(micros_.begin(), micros_.end());
    return micros_[micros_.size() / 2];
  }

 private:
  std::vector<double> micros_;
};

int Fail(const std::string& what) {
  fprintf(stderr, "cgroup-bench: %s\n", what.c_str());
  return 1;
}

cgroup* Describe(const std::string& name, const std::vector<std::string>& controllers, bool v2) {
  cgroup* group = cgroup_new_cgroup(name.c_str());
  for (const std::string& each : controllers) {
    cgroup_controller* controller = cgroup_add_controller(group, each.c_str());
    if (controller == nullptr) continue;
    if (each == "memory")
      cgroup_set_value_int64(controller, v2 ? "memory.max" : "memory.limit_in_bytes", kMemory);
    if (each == "cpu") cgroup_set_value_uint64(controller, v2 ? "cpu.weight" : "cpu.shares", kShares);
  }
  return group;
}

}  // namespace

int main() {
  auto manager = sock::runtime::CgroupManager::Open();
  if (!manager.ok()) return Fail(std::string(manager.status().message()));
  const bool v2 = (*manager)->mode() == sock::runtime::CgroupMode::kV2;
  Times init, made, removed, our_made, our_removed;
  if (!init.Add([] { return cgroup_init() == 0; })) return Fail("cgroup_init failed");

  std::vector<std::string> controllers;
  void* handle = nullptr;
  cgroup_mount_point point;
  for (int more = cgroup_get_controller_begin(&handle, &point); more == 0;
       more = cgroup_get_controller_next(&handle, &point))
    if (std::string name = point.name; !name.starts_with("name=") && name != "cgroup")
      controllers.push_back(name);
  cgroup_get_controller_end(&handle);

  sock::oci::Resources resources;
  resources.memory_limit = kMemory;
  resources.cpu_shares = kShares;
  for (int i = 0; i < kRounds; ++i) {  // in turns, so that the machine's moods meet both
    const std::string name = sock::Cat("cgroup-bench-", i);
    cgroup* group = Describe(name, controllers, v2);
    bool ok = made.Add([&] { return cgroup_create_cgroup(group, 0) == 0; });
    ok = removed.Add([&] { return cgroup_delete_cgroup(group, 1) == 0; }) && ok;
    cgroup_free(&group);
    if (!ok)
      return Fail(sock::Cat("libcgroup failed on `", name, "`: ", cgroup_strerror(cgroup_get_last_errno())));
    absl::Status status;
    our_made.Add([&] { return (status = (*manager)->Create(name, resources)).ok(); });
    our_removed.Add([&] {
      status.Update((*manager)->Remove(name));
      return true;
    });
    if (!status.ok()) return Fail(std::string(status.message()));
  }
  printf("%zu controllers, %d rounds, medians in µs\n", controllers.size(), kRounds);
  printf("libcgroup  init %.0f  create %.0f  delete %.0f\n", init.Median(), made.Median(), removed.Median());
  printf("by hand    init -  create %.0f  delete %.0f\n", our_made.Median(), our_removed.Median());
  return 0;
}
