// A Runtime and an ImageStore that only remember: for tests of the CRI's methods.
#pragma once

#include <mutex>
#include <set>

#include "cri/cri.h"

namespace sock::cri {

class FakeCgroups : public sock::runtime::CgroupManager {
 public:
  sock::runtime::CgroupMode mode() const override { return sock::runtime::CgroupMode::kV1; }
  std::string PathFor(const std::string& parent, const std::string& id) const override {
    return parent + "/" + id;
  }
  absl::Status Create(const std::string&, const oci::Resources&) override { return {}; }
  absl::StatusOr<sock::runtime::CgroupEntry> Entry(const std::string&) const override {
    return sock::runtime::CgroupEntry();
  }
  absl::Status Update(const std::string&, const oci::Resources&) override { return {}; }
  absl::StatusOr<sock::runtime::CgroupStats> Stats(const std::string&) const override { return stats; }
  absl::StatusOr<std::vector<pid_t>> Pids(const std::string&) const override { return std::vector<pid_t>(); }
  absl::StatusOr<std::vector<pid_t>> PidsOfFirst(const std::string&) const override {
    return std::vector<pid_t>();
  }
  absl::Status KillAll(const std::string&, int) override { return {}; }
  absl::Status Freeze(const std::string&, bool) override { return {}; }
  absl::Status Remove(const std::string&) override { return {}; }
  absl::Status EnsureParent(const std::string& path) override {
    parents.insert(path);
    return {};
  }
  std::set<std::string> parents;
  sock::runtime::CgroupStats stats;
};

class FakeNetwork : public sock::runtime::PodNetwork {
 public:
  absl::Status Ready() override { return ready; }
  std::string Describe() override { return "fake"; }
  absl::StatusOr<std::string> Prepare(int) override { return ""; }
  bool NeedsPath() override { return false; }
  void Unprepare(const std::string&) override {}
  absl::StatusOr<sock::runtime::PodNetworkResult> Attach(const sock::runtime::PodNetworkRequest&, int,
                                                         const std::string&) override {
    return sock::runtime::PodNetworkResult();
  }
  absl::Status Detach(const sock::runtime::PodNetworkRequest&, const std::string&) override { return {}; }
  absl::Status Adopt(const sock::runtime::PodNetworkRequest&, const std::string&) override { return {}; }
  absl::Status RemoveOrphans() override { return {}; }
  absl::Status SetPodCidr(const std::string& c) override {
    cidr = c;
    return {};
  }
  std::optional<sock::runtime::NetworkCheck> Check(const std::string&, std::chrono::milliseconds) override {
    return check;
  }
  sock::runtime::NetworkCheckCounts CountChecks() const override { return {1, 2}; }
  absl::Status ready;
  std::string cidr;
  std::optional<sock::runtime::NetworkCheck> check;
};

class FakeRuntime : public sock::runtime::Runtime {
 public:
  absl::StatusOr<std::map<std::string, sock::runtime::ContainerState>> Recover(const Known& known) override {
    std::map<std::string, sock::runtime::ContainerState> all;
    for (const auto& c : known.containers) all[c.id] = State(c.id);
    recovered = known.sandboxes.size();
    return all;
  }
  absl::StatusOr<sock::runtime::SandboxInfo> CreateSandbox(const sock::runtime::SandboxSpec& spec) override {
    sandboxes.insert(spec.id);
    sock::runtime::SandboxInfo info;
    info.netns_path = "/fake";
    info.network.ips = {"10.88.0.2"};
    info.network.state = std::string("\xff\0x", 3);
    return info;
  }
  absl::Status StopSandbox(const sock::runtime::SandboxSpec&, const sock::runtime::SandboxInfo&) override {
    return {};
  }
  absl::Status RemoveSandbox(const sock::runtime::SandboxSpec& spec,
                             const sock::runtime::SandboxInfo&) override {
    sandboxes.erase(spec.id);
    return {};
  }
  absl::StatusOr<sock::runtime::ContainerInfo> CreateContainer(
      const sock::runtime::ContainerSpec& spec) override {
    if (!create_error.ok()) return create_error;
    states[spec.id].state = sock::runtime::ProcessState::kCreated;
    return sock::runtime::ContainerInfo{1, {}};
  }
  absl::Status StartContainer(const std::string& id) override {
    if (!start_error.ok()) return start_error;
    states[id].state = sock::runtime::ProcessState::kRunning;
    return {};
  }
  absl::Status StopContainer(const std::string& id, int signal, std::chrono::milliseconds) override {
    last_signal = signal;
    Exit(id, 128 + signal);
    return {};
  }
  absl::Status RemoveContainer(const std::string& id) override {
    states.erase(id);
    return {};
  }
  sock::runtime::ContainerState State(const std::string& id) const override {
    auto it = states.find(id);
    return it == states.end() ? sock::runtime::ContainerState() : it->second;
  }
  absl::StatusOr<sock::runtime::ExecResult> ExecSync(const std::string&,
                                                     const sock::runtime::ExecRequest& r) override {
    return sock::runtime::ExecResult{3, r.args[0], ""};
  }
  absl::Status UpdateResources(const std::string&, const oci::Resources&) override { return {}; }
  absl::StatusOr<Fields> CallZygote(const std::string&, const Fields&, std::chrono::milliseconds) override {
    return absl::AbortedError("no Zygote");
  }
  void KeepParked(const std::string&, uint32_t, int) override {}
  void ResizeParked(const std::string&, int) override {}
  void DropParked(const std::string&) override {}
  size_t CountParked(const std::string&) const override { return 0; }
  void Unpark(const std::string&) override {}
  absl::Status FreezeZygote(const std::string&) override { return {}; }
  absl::StatusOr<sock::runtime::MemoryUse> Memory(const std::string&) const override {
    return sock::runtime::MemoryUse{1, 2, 3, 4};
  }
  absl::Status ReopenLog(const std::string&) override { return {}; }
  absl::StatusOr<sock::runtime::CgroupStats> Stats(const std::string&) const override { return stats; }
  absl::StatusOr<std::vector<sock::runtime::InterfaceStats>> NetworkStats(const std::string&) const override {
    return std::vector<sock::runtime::InterfaceStats>{{"eth0", 1, 2, 3, 4}};
  }
  sock::runtime::PodNetwork& network() override { return fake_network; }
  sock::runtime::CgroupManager& cgroups() override { return fake_cgroups; }
  std::map<std::string, std::string> Verbose(const std::string&) const override { return {}; }

  void Exit(const std::string& id, int code) {
    sock::runtime::ExitInfo exit;
    exit.exit_code = code;
    exit.finished_at = std::chrono::system_clock::now();
    states[id] = {sock::runtime::ProcessState::kExited, 0, exit};
  }

  FakeNetwork fake_network;
  FakeCgroups fake_cgroups;
  absl::Status create_error, start_error;
  sock::runtime::CgroupStats stats{.cpu_usage_ns = 7};
  std::set<std::string> sandboxes;
  std::map<std::string, sock::runtime::ContainerState> states;
  int last_signal = 0;
  size_t recovered = 0;
};

class FakeImages : public oci::ImageStore {
 public:
  absl::StatusOr<oci::Image> Pull(const std::string& r, const oci::Credentials&,
                                  std::function<bool()>) override {
    return Get(r);
  }
  absl::StatusOr<std::vector<oci::Image>> Import(const std::string&, const std::string&) override {
    return std::vector<oci::Image>();
  }
  absl::StatusOr<oci::Image> Get(const std::string& reference) const override {
    if (reference != image.id && reference != "busybox") return absl::NotFoundError("no image");
    return image;
  }
  std::vector<oci::Image> List() const override { return {image}; }
  absl::Status Remove(const std::string&) override { return {}; }
  absl::StatusOr<oci::Rootfs> CreateSnapshot(const std::string& id, const std::string&, uint32_t,
                                             uint32_t) override {
    snapshots.insert(id);
    return oci::Rootfs{{"/lower"}, "/upper", "/work"};
  }
  absl::StatusOr<oci::Rootfs> GetSnapshot(const std::string&) const override { return oci::Rootfs(); }
  absl::Status RemoveSnapshot(const std::string& id) override {
    snapshots.erase(id);
    return {};
  }
  std::vector<std::string> ListSnapshots() const override { return {snapshots.begin(), snapshots.end()}; }
  absl::StatusOr<oci::Usage> SnapshotUsage(const std::string&) const override { return oci::Usage{4096, 1}; }
  absl::StatusOr<oci::Usage> FilesystemUsage() const override { return oci::Usage{1, 1}; }
  std::string root() const override { return "/fake/images"; }

  oci::Image image = [] {
    oci::Image i;
    i.id = "sha256:" + std::string(64, 'a');
    i.config.cmd = {"sh"};
    i.config.stop_signal = "SIGUSR1";
    return i;
  }();
  std::set<std::string> snapshots;
};

}  // namespace sock::cri
