// A node for tests: a registry on loopback with a busybox image, a daemon of our own in a folder of its own,
// a client.
#pragma once

#include <grpcpp/grpcpp.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "api.grpc.pb.h"

namespace sock::test {

namespace api = ::runtime::v1;

// How many times slower than hardware this machine is, by its SOCK_TEST_SLOWNESS: hack/vm-test emulates one.
int Slowness();
// Whether the kernel is of this version or later.
bool KernelIs(int major, int minor);

// Asks `condition` at short intervals for at most 20 s (times Slowness()); whether it came true. For what has
// no event to wait on, such as another program's readiness.
bool Until(const std::function<bool()>& condition);

class Node {
 public:
  // Starts the registry, pushes the image, writes the configuration and starts the daemon. Fails the test on
  // trouble.
  Node();
  // Removes every pod, ends daemon, monitor and registry, and removes the folder.
  ~Node();

  void StartDaemon();
  void KillDaemon(int signal);  // and waits for its end
  pid_t daemon() const { return daemon_; }
  // Puts new files in the place of these programs in a folder of the node's, as an upgrade does; from the
  // next start of the daemon on those of that folder are run.
  void InstallPrograms(const std::vector<std::string>& names);

  const std::string& dir() const { return dir_; }
  const std::string& listen() const { return listen_; }
  // Where the built-in bridge's addresses lie: "10.X.0.". Each test process has its own.
  const std::string& subnet() const { return subnet_; }
  const std::string& bridge() const { return bridge_; }
  std::string image() const;
  api::RuntimeService::Stub& runtime() { return *runtime_; }
  api::ImageService::Stub& images() { return *images_; }

  grpc::Status Pull(const std::string& reference);
  api::PodSandboxConfig PodConfig(const std::string& name) const;
  // Runs a pod with the handler; returns its id ("" on failure, with the status in `status`).
  std::string RunPod(const api::PodSandboxConfig& config, const std::string& handler = "sock",
                     grpc::Status* status = nullptr);
  api::ContainerConfig ContainerConfig(const std::string& name, std::vector<std::string> command) const;
  std::string Create(const std::string& pod, const api::PodSandboxConfig& pod_config,
                     const api::ContainerConfig& config, grpc::Status* status = nullptr);
  grpc::Status Start(const std::string& container);
  api::ContainerStatus Status(const std::string& container);
  // Waits until the container has exited, at most 20 s.
  api::ContainerStatus WaitExit(const std::string& container);
  std::string Log(const std::string& name) const;  // the CRI log as it stands
  // Waits until the log holds `text`, at most 20 s; returns the log.
  std::string WaitLog(const std::string& name, const std::string& text) const;
  api::ExecSyncResponse Exec(const std::string& container, std::vector<std::string> command,
                             int64_t timeout_s, grpc::Status* status = nullptr);
  grpc::Status RemovePod(const std::string& pod);
  void RemovePods();  // all of them
  // What the runtime's verbose Status tells under `key`, and a container's verbose status.
  nlohmann::json Verbose(const std::string& key);
  nlohmann::json Info(const std::string& container);
  // Runs sockctl with these arguments, for a shell, on this node; what it said on stdout and stderr, and its
  // exit status.
  std::string Sockctl(const std::string& arguments, int* exit = nullptr) const;

  // What of ours is on the machine now: processes, mounts, cgroups, interfaces, named by kind.
  std::vector<std::string> Leftovers() const;

 private:
  std::string program_, dir_, listen_, bridge_, subnet_, cgroup_;
  int registry_port_ = 0;
  pid_t registry_ = -1, daemon_ = -1;
  std::unique_ptr<api::RuntimeService::Stub> runtime_;
  std::unique_ptr<api::ImageService::Stub> images_;
};

}  // namespace sock::test
