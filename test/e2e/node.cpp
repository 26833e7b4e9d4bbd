#include "test/e2e/node.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::test {

int Slowness() {
  const char* times = getenv("SOCK_TEST_SLOWNESS");
  return times == nullptr ? 1 : atoi(times);
}

bool KernelIs(int major, int minor) {
  utsname kernel;
  int has_major = 0, has_minor = 0;
  EXPECT_EQ(uname(&kernel), 0);
  EXPECT_EQ(sscanf(kernel.release, "%d.%d", &has_major, &has_minor), 2);
  return std::pair(has_major, has_minor) >= std::pair(major, minor);
}

namespace {

using std::chrono::steady_clock;
const auto kPatience = std::chrono::seconds(20) * Slowness();

int FreePort() {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  bind(fd, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port);
}

pid_t Spawn(const std::vector<std::string>& args, const std::string& output) {
  std::vector<char*> argv;
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  pid_t pid = fork();
  if (pid == 0) {
    int out = open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(out, 1);
    dup2(out, 2);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  return pid;
}

std::string HowItEnded(pid_t pid) {
  int status;
  if (waitpid(pid, &status, WNOHANG) <= 0) return "it runs";
  return WIFEXITED(status) ? Cat("exit code ", WEXITSTATUS(status)) : Cat("signal ", WTERMSIG(status));
}

bool Listens(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  bool ok = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return ok;
}

}  // namespace

bool Until(const std::function<bool()>& condition) {
  for (auto end = steady_clock::now() + kPatience; steady_clock::now() < end; poll(nullptr, 0, 10)) {
    if (condition()) return true;
  }
  return false;
}

Node::Node() : program_(DAEMON) {
  char name[] = "/tmp/sock-e2e-XXXXXX";
  EXPECT_NE(mkdtemp(name), nullptr);
  dir_ = name;
  listen_ = dir_ + "/cri.sock";
  // Two test programs that run at once must not take each other's bridge down.
  bridge_ = Cat("csocke", getpid() % 100000);
  subnet_ = Cat("10.", 150 + getpid() % 100, ".0.");
  cgroup_ = Cat("cri-sock-e2e-", getpid());
  registry_port_ = FreePort();
  std::ofstream(dir_ + "/registry.yml")
      << "version: 0.1\nstorage: {filesystem: {rootdirectory: " << dir_
      << "/registry}}\nhttp: {addr: \"127.0.0.1:" << registry_port_ << "\"}\n";
  registry_ = Spawn({"docker-registry", "serve", dir_ + "/registry.yml"}, dir_ + "/registry.log");
  EXPECT_TRUE(Until([&] { return Listens(registry_port_); })) << "no registry";
  std::string make =
      Cat(SOURCE_DIR "/hack/images/make-image --busybox /bin/busybox ", dir_, "/layout && skopeo copy -q ",
          "--dest-tls-verify=false oci:", dir_, "/layout:latest docker://", image());
  EXPECT_EQ(system(make.c_str()), 0);
  std::ofstream(dir_ + "/config.toml")
      << "[bridge]\nname = \"" << bridge_ << "\"\nsubnet = \"" << subnet_ << "0/24\"\n"
      << "[cni]\nconf_dir = \"" << dir_ << "/cni\"\nbin_dirs = [\"/opt/cni/bin\", \"/usr/lib/cni\", \""
      << dir_ << "/cni-bin\"]\n"
      << "[zygotes]\ncgroup_parent = \"/" << cgroup_ << "/zygotes\"\n"
      << "trust_domains = { shared = [\"team-a\", \"team-b\"] }\n";
  std::filesystem::create_directories(dir_ + "/logs");
  StartDaemon();
}

Node::~Node() {
  if (daemon_ > 0) {
    grpc::ClientContext context;
    api::ListPodSandboxResponse pods;
    if (runtime_->ListPodSandbox(&context, {}, &pods).ok()) {
      for (const auto& pod : pods.items()) EXPECT_TRUE(RemovePod(pod.id()).ok());
    }
    // Without containers and daemon the monitor ends by itself.
    KillDaemon(SIGTERM);
  }
  if (registry_ > 0) {
    kill(registry_, SIGKILL);
    waitpid(registry_, nullptr, 0);
  }
  (void)system(Cat("ip link delete ", bridge_, " 2>/dev/null; nft delete table ip cri_sock_", bridge_,
                   " 2>/dev/null; nft delete table inet cri_sock_", bridge_,
                   " 2>/dev/null; find /sys/fs/cgroup -depth -type d -path '*/", cgroup_,
                   "*' -exec rmdir {} +")
                   .c_str());
  if (testing::Test::HasFailure()) {
    if (auto log = ReadFile(dir_ + "/daemon.log", 64 << 20); log.ok())
      fprintf(stderr, "--- daemon:\n%s", log->c_str());
  }
  absl::Status removed = RemoveTree(dir_);
  EXPECT_TRUE(removed.ok()) << removed;
}

void Node::StartDaemon() {
  daemon_ = Spawn({program_, "--listen", listen_, "--state", dir_ + "/run", "--root", dir_ + "/lib",
                   "--config", dir_ + "/config.toml"},
                  dir_ + "/daemon.log");
  // A pool of its own: the connection of a daemon that was killed is not waited for.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(16 << 20);  // as kubelet's
  auto channel = grpc::CreateCustomChannel("unix:" + listen_, grpc::InsecureChannelCredentials(), arguments);
  EXPECT_TRUE(channel->WaitForConnected(std::chrono::system_clock::now() + kPatience))
      << "no daemon; " << HowItEnded(daemon_);
  runtime_ = api::RuntimeService::NewStub(channel);
  images_ = api::ImageService::NewStub(channel);
}

void Node::KillDaemon(int signal) {
  kill(daemon_, signal);
  waitpid(daemon_, nullptr, 0);
  daemon_ = -1;
}

void Node::InstallPrograms(const std::vector<std::string>& names) {
  const std::filesystem::path from = std::filesystem::path(DAEMON).parent_path(), to = dir_ + "/bin";
  std::filesystem::create_directories(to);
  for (const std::string& name : names) {
    // A new file in the place of one that may run; bytes after an ELF file's end change nothing but the file.
    std::filesystem::copy_file(from / name, to / "new");
    std::ofstream(to / "new", std::ios::app) << "installed at " << time(nullptr);
    std::filesystem::rename(to / "new", to / name);
  }
  program_ = to / "cri-sockd";
}

std::string Node::image() const { return Cat("127.0.0.1:", registry_port_, "/busybox:latest"); }

grpc::Status Node::Pull(const std::string& reference) {
  grpc::ClientContext context;
  api::PullImageRequest request;
  api::PullImageResponse response;
  request.mutable_image()->set_image(reference);
  return images_->PullImage(&context, request, &response);
}

api::PodSandboxConfig Node::PodConfig(const std::string& name) const {
  api::PodSandboxConfig config;
  config.mutable_metadata()->set_name(name);
  config.mutable_metadata()->set_namespace_("default");
  config.mutable_metadata()->set_uid("uid-" + name);
  config.set_hostname(name);
  config.set_log_directory(dir_ + "/logs");
  config.mutable_linux()->set_cgroup_parent("/" + cgroup_);
  return config;
}

std::string Node::RunPod(const api::PodSandboxConfig& config, const std::string& handler,
                         grpc::Status* status) {
  grpc::ClientContext context;
  api::RunPodSandboxRequest request;
  api::RunPodSandboxResponse response;
  *request.mutable_config() = config;
  request.set_runtime_handler(handler);
  grpc::Status result = runtime_->RunPodSandbox(&context, request, &response);
  if (status != nullptr) {
    *status = result;
  } else {
    EXPECT_TRUE(result.ok()) << result.error_message();
  }
  return response.pod_sandbox_id();
}

api::ContainerConfig Node::ContainerConfig(const std::string& name, std::vector<std::string> command) const {
  api::ContainerConfig config;
  config.mutable_metadata()->set_name(name);
  config.mutable_image()->set_image(image());
  config.set_log_path(name + ".log");
  for (const std::string& word : command) config.add_command(word);
  return config;
}

std::string Node::Create(const std::string& pod, const api::PodSandboxConfig& pod_config,
                         const api::ContainerConfig& config, grpc::Status* status) {
  grpc::ClientContext context;
  api::CreateContainerRequest request;
  api::CreateContainerResponse response;
  request.set_pod_sandbox_id(pod);
  *request.mutable_config() = config;
  *request.mutable_sandbox_config() = pod_config;
  grpc::Status result = runtime_->CreateContainer(&context, request, &response);
  if (status != nullptr) {
    *status = result;
  } else {
    EXPECT_TRUE(result.ok()) << result.error_message();
  }
  return response.container_id();
}

grpc::Status Node::Start(const std::string& container) {
  grpc::ClientContext context;
  api::StartContainerRequest request;
  api::StartContainerResponse response;
  request.set_container_id(container);
  return runtime_->StartContainer(&context, request, &response);
}

api::ContainerStatus Node::Status(const std::string& container) {
  grpc::ClientContext context;
  api::ContainerStatusRequest request;
  api::ContainerStatusResponse response;
  request.set_container_id(container);
  grpc::Status status = runtime_->ContainerStatus(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.status();
}

api::ContainerStatus Node::WaitExit(const std::string& container) {
  api::ContainerStatus status;
  EXPECT_TRUE(Until([&] {
    status = Status(container);
    return status.state() == api::CONTAINER_EXITED;
  })) << "still running";
  return status;
}

std::string Node::Log(const std::string& name) const {
  return ReadFile(dir_ + "/logs/" + name + ".log").value_or("");
}

std::string Node::WaitLog(const std::string& name, const std::string& text) const {
  std::string log;
  EXPECT_TRUE(Until([&] {
    log = Log(name);
    return log.find(text) != std::string::npos;
  })) << "no `"
      << text << "` in: " << log;
  return log;
}

api::ExecSyncResponse Node::Exec(const std::string& container, std::vector<std::string> command,
                                 int64_t timeout_s, grpc::Status* status) {
  grpc::ClientContext context;
  api::ExecSyncRequest request;
  api::ExecSyncResponse response;
  request.set_container_id(container);
  for (const std::string& word : command) request.add_cmd(word);
  request.set_timeout(timeout_s);
  grpc::Status result = runtime_->ExecSync(&context, request, &response);
  if (status != nullptr) {
    *status = result;
  } else {
    EXPECT_TRUE(result.ok()) << result.error_message();
  }
  return response;
}

void Node::RemovePods() {
  grpc::ClientContext context;
  api::ListPodSandboxResponse pods;
  ASSERT_TRUE(runtime_->ListPodSandbox(&context, {}, &pods).ok());
  for (const auto& pod : pods.items()) EXPECT_TRUE(RemovePod(pod.id()).ok());
}

nlohmann::json Node::Verbose(const std::string& key) {
  grpc::ClientContext context;
  api::StatusRequest request;
  request.set_verbose(true);
  api::StatusResponse response;
  EXPECT_TRUE(runtime_->Status(&context, request, &response).ok());
  return nlohmann::json::parse(response.info().at(key));
}

nlohmann::json Node::Info(const std::string& container) {
  grpc::ClientContext context;
  api::ContainerStatusRequest request;
  request.set_container_id(container);
  request.set_verbose(true);
  api::ContainerStatusResponse response;
  EXPECT_TRUE(runtime_->ContainerStatus(&context, request, &response).ok());
  return nlohmann::json::parse(response.info().at("info"));
}

grpc::Status Node::RemovePod(const std::string& pod) {
  grpc::ClientContext stopping, removing;
  api::StopPodSandboxRequest stop;
  api::StopPodSandboxResponse stopped;
  stop.set_pod_sandbox_id(pod);
  grpc::Status status = runtime_->StopPodSandbox(&stopping, stop, &stopped);
  if (!status.ok()) return status;
  api::RemovePodSandboxRequest remove;
  api::RemovePodSandboxResponse removed;
  remove.set_pod_sandbox_id(pod);
  return runtime_->RemovePodSandbox(&removing, remove, &removed);
}

std::string Node::Sockctl(const std::string& arguments, int* exit) const {
  const std::string program = std::filesystem::path(DAEMON).parent_path() / "sockctl";
  FILE* said = popen(Cat(program, " --socket ", listen_, " ", arguments, " 2>&1").c_str(), "re");
  std::string text;
  for (int c; (c = fgetc(said)) != EOF;) text += static_cast<char>(c);
  const int status = pclose(said);
  if (exit != nullptr) {
    *exit = WEXITSTATUS(status);
  } else {
    EXPECT_EQ(status, 0) << arguments << ": " << text;
  }
  return text;
}

std::vector<std::string> Node::Leftovers() const {
  std::vector<std::string> found;
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    // The daemon's own two mounts hold the mount namespace of its sandboxes (runtime/pins.h).
    if (line.find(dir_) != std::string::npos && line.find(dir_ + "/run/pins") == std::string::npos) {
      found.push_back("mount " + line);
    }
  }
  std::error_code ignored;
  for (const std::string& root :
       {"/sys/fs/cgroup/memory/" + cgroup_, "/sys/fs/cgroup/pids/" + cgroup_, "/sys/fs/cgroup/" + cgroup_}) {
    for (const auto& entry : std::filesystem::directory_iterator(root, ignored)) {
      if (entry.is_directory()) found.push_back("cgroup " + entry.path().string());
    }
  }
  for (const char* folder : {"/run/sandboxes", "/run/containers", "/run/netns", "/run/sandbox-files",
                             "/lib/images/snapshots", "/lib/snapshots"}) {
    for (const auto& entry : std::filesystem::directory_iterator(dir_ + folder, ignored)) {
      found.push_back("file " + entry.path().string());
    }
  }
  return found;
}

}  // namespace sock::test
