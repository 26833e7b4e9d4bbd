// pod-bench: what a pod costs, measured over the CRI alone, so that every runtime is asked the same.
//
// A pod counts as started when the first line of its container stands in the container's log file, and as
// removed when the runtime does not know it any more. Nothing is believed: the line's form, the exit code and
// the absence of what was removed are checked, and the first thing that is wrong ends the run.
#include <arpa/inet.h>
#include <dirent.h>
#include <getopt.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_split.h"
#include "api.grpc.pb.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::bench {
namespace {

namespace api = ::runtime::v1;
namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr char kUsage[] =
    "usage: pod-bench --endpoint SOCKET --image REF [--handler NAME] [--cgroup PATH]\n"
    "                 [--python TEXT | --command WORDS] [--annotation KEY=VALUE]… [--http PORT] MODE…\n"
    "  start N            N pods, one after the other\n"
    "  first N            N pods, each the first of a kind, by its labels and environment\n"
    "  mispredicted N     N pods of one kind whose environment is another than that of the one before\n"
    "  churn WORKERS S    pods made and removed by WORKERS at once for S seconds\n"
    "  density N,N…       that many pods at once: memory, the List calls, and the start of 20 more\n"
    "PATH: the cgroup (below the root of each hierarchy) that holds the runtime in PATH/runtime; pods go to "
    "PATH/pods.\n"
    "TEXT: the workload is `python3 -c TEXT`, which prints a line and sleeps, instead of a shell; WORDS are "
    "another.\n"
    "PORT: a pod counts as started when it has answered GET / there, with 200 and a body.\n"
    "Prints one JSON object per mode.\n";
constexpr char kLabel[] = "pod-bench-run";
constexpr auto kTimeout = 60s;

using Runtime = api::RuntimeService::Stub;
using Images = api::ImageService::Stub;

double Ms(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

struct Options {
  std::string endpoint, image, handler, cgroup, python, command, http;
  std::vector<std::pair<std::string, std::string>> annotations;
};

struct Pod {
  std::string name, id, container, log_dir;
  std::string kind, variant;  // a label, and a variable that Zygotes are told apart by; empty: none
  api::PodSandboxConfig config;
};

// The first record of a CRI log, "TIME STREAM TAG TEXT\n"; false while there is none.
absl::StatusOr<bool> HasFirstLine(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path);
  if (absl::IsNotFound(text.status())) return false;
  RETURN_IF_ERROR(text.status());
  size_t end = text->find('\n');
  if (end == std::string::npos) return false;
  std::string line = text->substr(0, end);
  size_t space = line.find(' ');
  if (space < 20 || space == std::string::npos || line[10] != 'T' || line.substr(space) != " stdout F up")
    return absl::DataLossError(Cat("`", line, "` is not the record that was written"));
  return true;
}

// The answer of a web server to GET /, to its end. A network that is not ready is asked again, as any client
// would.
absl::Status Fetch(const std::string& ip, const std::string& port) {
  sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(std::stoi(port)))};
  if (inet_pton(AF_INET, ip.c_str(), &address.sin_addr) != 1)
    return absl::InvalidArgumentError(Cat("`", ip, "` is no address"));
  Fd fd;
  for (const auto end = Clock::now() + kTimeout;;) {
    fd = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (fd.valid() && connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) break;
    if (errno != EHOSTUNREACH || Clock::now() > end)
      return ErrnoStatus(errno, Cat("connect to ", ip, ":", port));
  }
  const std::string request = Cat("GET / HTTP/1.0\r\nHost: ", ip, "\r\n\r\n");
  if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
    return ErrnoStatus(errno, Cat("ask ", ip, ":", port));
  std::string answer;
  char buffer[65536];
  for (ssize_t n; (n = read(fd.get(), buffer, sizeof buffer)) != 0;) {
    if (n < 0) return ErrnoStatus(errno, Cat("answer of ", ip, ":", port));
    answer.append(buffer, static_cast<size_t>(n));
  }
  const size_t head = answer.find("\r\n\r\n");
  if (!answer.starts_with("HTTP/1.") || answer.substr(8, 5) != " 200 " || head == std::string::npos ||
      head + 4 == answer.size())
    return absl::DataLossError(Cat(ip, ":", port, " answers `", answer.substr(0, answer.find('\r')), "`"));
  return absl::OkStatus();
}

// Sleeps in inotify(7): a client that polls would slow what it measures.
class LogWatch {
 public:
  static absl::StatusOr<LogWatch> Open(const std::string& path) {
    // A thread keeps its descriptor, as closing one waits 15 ms for the kernel; a watch ends with its folder.
    thread_local const Fd inotify(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    LogWatch watch;
    watch.path_ = path;
    watch.fd_ = inotify.get();
    if (inotify_add_watch(watch.fd_, path.substr(0, path.rfind('/')).c_str(),
                          IN_CREATE | IN_MODIFY | IN_MOVED_TO) < 0)
      return ErrnoStatus(errno, Cat("watch `", path, "`"));
    return watch;
  }
  absl::Status Wait() {
    for (auto end = Clock::now() + kTimeout;;) {
      ASSIGN_OR_RETURN(bool there, HasFirstLine(path_));
      if (there) return absl::OkStatus();
      pollfd entry{fd_, POLLIN, 0};
      if (poll(&entry, 1, static_cast<int>(Ms(end - Clock::now()))) == 0)
        return absl::DeadlineExceededError(Cat("no line in `", path_, "`"));
      char events[4096];
      while (read(fd_, events, sizeof events) > 0) {
      }
    }
  }

 private:
  std::string path_;
  int fd_ = -1;
};

class Bench {
 public:
  explicit Bench(Options options) : options_(std::move(options)) {
    auto channel = grpc::CreateChannel("unix:" + options_.endpoint, grpc::InsecureChannelCredentials());
    runtime_ = api::RuntimeService::NewStub(channel);
    images_ = api::ImageService::NewStub(channel);
  }

  absl::Status Open() {
    char dir[] = "/tmp/pod-bench-XXXXXX";
    if (mkdtemp(dir) == nullptr) return ErrnoStatus(errno, "make a folder");
    dir_ = dir;
    run_ = fs::path(dir).filename().string();
    api::VersionResponse version;
    RETURN_IF_ERROR(Call("Version", *runtime_, &Runtime::Version, {}, &version));
    name_ = Cat(version.runtime_name(), " ", version.runtime_version());
    api::ImageStatusRequest ask;
    ask.mutable_image()->set_image(options_.image);
    api::ImageStatusResponse image;
    RETURN_IF_ERROR(Call("ImageStatus", *images_, &Images::ImageStatus, ask, &image));
    if (image.image().id().empty()) {
      api::PullImageRequest pull;
      *pull.mutable_image() = ask.image();
      api::PullImageResponse pulled;
      RETURN_IF_ERROR(Call("PullImage", *images_, &Images::PullImage, pull, &pulled));
      RETURN_IF_ERROR(Call("ImageStatus", *images_, &Images::ImageStatus, ask, &image));
    }
    if (image.image().id().empty()) return absl::NotFoundError("the image is absent after its pull");
    image_id_ = image.image().id();
    return absl::OkStatus();
  }

  // Nothing of this run may be left, whatever happened before.
  absl::Status Close() {
    absl::Status result;
    api::ListPodSandboxResponse pods;
    result.Update(ListPods(&pods));
    for (const auto& pod : pods.items()) {
      Pod gone{.id = pod.id()};
      result.Update(Remove(gone, nullptr));
    }
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
    return result;
  }

  absl::StatusOr<json> Start(int count) {
    json result = {{"mode", "start"}, {"runtime", name_}};
    for (int i = -2; i < count; ++i) {  // two to warm up
      json times;
      Pod pod;
      RETURN_IF_ERROR(Run(pod, &times));
      RETURN_IF_ERROR(Remove(pod, &times));
      if (i >= 0) AddTimes(result, times);
    }
    RETURN_IF_ERROR(NothingLeft());
    return result;
  }

  // Each is alone: what the runtime does behind the one before (a Zygote is made) is given time to end.
  absl::StatusOr<json> First(int count) {
    json result = {{"mode", "first"}, {"runtime", name_}};
    for (int i = 0; i < count; ++i) {
      json times;
      Pod pod{.kind = Cat(run_, "-", i), .variant = Cat(run_, "-", i)};
      RETURN_IF_ERROR(Run(pod, &times));
      RETURN_IF_ERROR(Remove(pod, &times));
      AddTimes(result, times);
      std::this_thread::sleep_for(3s);
    }
    RETURN_IF_ERROR(NothingLeft());
    return result;
  }

  absl::StatusOr<json> Mispredicted(int count) {
    json result = {{"mode", "mispredicted"}, {"runtime", name_}};
    for (int i = -4; i < count; ++i) {  // both are made before
      json times;
      Pod pod{.variant = i % 2 == 0 ? "even" : "odd"};
      RETURN_IF_ERROR(Run(pod, &times));
      RETURN_IF_ERROR(Remove(pod, &times));
      if (i < 0) std::this_thread::sleep_for(3s);
      if (i >= 0) AddTimes(result, times);
    }
    RETURN_IF_ERROR(NothingLeft());
    return result;
  }

  absl::StatusOr<json> Churn(int workers, double seconds) {
    json result = {{"mode", "churn"}, {"runtime", name_}, {"workers", workers}};
    std::mutex mutex;
    absl::Status first;
    std::atomic<int> pods{0};
    std::atomic<bool> failed{false};
    const double cpu = CgroupCpuMs(), machine = MachineCpuMs();
    const auto begin = Clock::now();
    const auto end =
        begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    std::vector<std::thread> threads;
    for (int w = 0; w < workers; ++w)
      threads.emplace_back([&] {
        while (Clock::now() < end && !failed) {
          json times;
          Pod pod;
          absl::Status status = Run(pod, &times);
          if (status.ok()) status = Remove(pod, &times);
          std::lock_guard lock(mutex);
          first.Update(status);
          if (!status.ok()) {
            failed = true;
          } else {
            ++pods;
            AddTimes(result, times);
          }
        }
      });
    for (std::thread& thread : threads) thread.join();
    const double wall = Ms(Clock::now() - begin) / 1000;
    RETURN_IF_ERROR(first);
    result["pods"] = pods.load();
    result["pods_per_s"] = pods / wall;
    if (!options_.cgroup.empty()) result["cpu_ms_per_pod"] = (CgroupCpuMs() - cpu) / pods;
    result["machine_cpu_ms_per_pod"] = (MachineCpuMs() - machine) / pods;
    RETURN_IF_ERROR(NothingLeft());
    return result;
  }

  absl::StatusOr<json> Density(const std::vector<int>& counts) {
    json result = {{"mode", "density"}, {"runtime", name_}};
    {  // what is loaded at the first pod is not the first pod's
      Pod pod;
      RETURN_IF_ERROR(Run(pod, nullptr));
      RETURN_IF_ERROR(Remove(pod, nullptr));
    }
    const auto none = Memory();
    result["memory_kib"]["0"] = none.first;
    const double available = MemAvailableKib();
    std::vector<Pod> pods;
    for (int count : counts) {
      while (pods.size() < static_cast<size_t>(count)) {
        json times;
        pods.emplace_back();
        RETURN_IF_ERROR(Run(pods.back(), &times));
        result["starts"].push_back(times["total"]);
      }
      auto [memory, workloads] = Memory();
      if (!options_.cgroup.empty() && workloads != count)
        return absl::InternalError(Cat(workloads, " workloads run, not ", count));
      result["memory_kib"][Cat(count)] = memory;
      result["machine_kib"][Cat(count)] = available - MemAvailableKib();
    }
    for (int i = 0; i < 50; ++i) {
      api::ListPodSandboxResponse listed;
      auto begin = Clock::now();
      RETURN_IF_ERROR(ListPods(&listed));
      result["list_pods"].push_back(Ms(Clock::now() - begin));
      if (listed.items_size() != static_cast<int>(pods.size()))
        return absl::InternalError(
            Cat("ListPodSandbox tells ", listed.items_size(), " of ", pods.size(), " pods"));
      api::ListContainersResponse containers;
      begin = Clock::now();
      RETURN_IF_ERROR(Call("ListContainers", *runtime_, &Runtime::ListContainers, {}, &containers));
      result["list_containers"].push_back(Ms(Clock::now() - begin));
      if (containers.containers_size() < static_cast<int>(pods.size()))
        return absl::InternalError("ListContainers tells too few");
    }
    for (int i = 0; i < 20; ++i) {
      json times;
      Pod pod;
      RETURN_IF_ERROR(Run(pod, &times));
      RETURN_IF_ERROR(Remove(pod, &times));
      result["more"]["total"].push_back(times["total"]);
      result["more"]["teardown"].push_back(times["teardown"]);
    }
    auto begin = Clock::now();
    for (Pod& pod : pods) RETURN_IF_ERROR(Remove(pod, nullptr));
    result["remove_all_ms"] = Ms(Clock::now() - begin);
    RETURN_IF_ERROR(NothingLeft());
    return result;
  }

 private:
  template <typename Stub, typename Request, typename Response>
  static absl::Status Call(const char* name, Stub& stub,
                           grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                           const std::type_identity_t<Request>& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kTimeout);
    grpc::Status status = (stub.*method)(&context, request, response);
    if (status.ok()) return absl::OkStatus();
    return {static_cast<absl::StatusCode>(status.error_code()), Cat(name, ": ", status.error_message())};
  }

  absl::Status ListPods(api::ListPodSandboxResponse* response) {
    api::ListPodSandboxRequest request;
    (*request.mutable_filter()->mutable_label_selector())[kLabel] = run_;
    return Call("ListPodSandbox", *runtime_, &Runtime::ListPodSandbox, request, response);
  }

  static void AddTimes(json& result, const json& times) {
    for (const auto& [phase, ms] : times.items()) result["phases"][phase].push_back(ms);
  }

  // What kubelet sends for a plain pod.
  void Configure(Pod& pod, api::ContainerConfig& container) {
    auto* metadata = pod.config.mutable_metadata();
    metadata->set_name(pod.name);
    metadata->set_namespace_("bench");
    metadata->set_uid(pod.name);
    pod.config.set_hostname(pod.name);
    pod.config.set_log_directory(pod.log_dir);
    (*pod.config.mutable_labels())[kLabel] = run_;
    pod.config.mutable_dns_config()->add_servers("10.96.0.10");
    pod.config.mutable_dns_config()->add_searches("bench.svc.cluster.local");
    if (!options_.cgroup.empty())
      pod.config.mutable_linux()->set_cgroup_parent("/" + options_.cgroup + "/pods");
    auto* sandbox = pod.config.mutable_linux()->mutable_security_context();
    sandbox->mutable_namespace_options()->set_pid(api::CONTAINER);
    sandbox->mutable_seccomp()->set_profile_type(api::SecurityProfile::RuntimeDefault);

    container.mutable_metadata()->set_name("main");
    container.mutable_image()->set_image(image_id_);
    container.mutable_image()->set_user_specified_image(options_.image);
    for (const auto& [key, value] : options_.annotations) (*pod.config.mutable_annotations())[key] = value;
    const std::vector<std::string> shell{"/bin/sh", "-c", "echo up; exec sleep 3600"},
        python{"python3", "-c", options_.python};
    const std::vector<std::string> other = absl::StrSplit(options_.command, ' ', absl::SkipEmpty());
    for (const std::string& word : !other.empty() ? other : options_.python.empty() ? shell : python)
      container.add_command(word);
    if (!pod.kind.empty()) (*pod.config.mutable_labels())["kind"] = pod.kind;
    if (!pod.variant.empty()) {
      auto* variable = container.add_envs();
      variable->set_key("PYTHONBENCH");
      variable->set_value(pod.variant);
    }
    container.set_log_path("main.log");
    (*container.mutable_labels())[kLabel] = run_;
    auto* resources = container.mutable_linux()->mutable_resources();
    resources->set_cpu_period(100000);
    resources->set_cpu_shares(102);
    resources->set_memory_limit_in_bytes(256 << 20);
    resources->set_oom_score_adj(1000);
    auto* security = container.mutable_linux()->mutable_security_context();
    *security->mutable_namespace_options() = sandbox->namespace_options();
    security->mutable_seccomp()->set_profile_type(api::SecurityProfile::RuntimeDefault);
    for (const char* path :
         {"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
          "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"})
      security->add_masked_paths(path);
    for (const char* path : {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"})
      security->add_readonly_paths(path);
  }

  absl::Status Run(Pod& pod, json* times) {
    pod.name = Cat(run_, "-", next_++);
    pod.log_dir = dir_ + "/" + pod.name;
    RETURN_IF_ERROR(MakeDirs(pod.log_dir, 0755));
    api::CreateContainerRequest create;
    Configure(pod, *create.mutable_config());
    ASSIGN_OR_RETURN(LogWatch watch, LogWatch::Open(pod.log_dir + "/main.log"));

    const auto begin = Clock::now();
    api::RunPodSandboxRequest run;
    *run.mutable_config() = pod.config;
    run.set_runtime_handler(options_.handler);
    api::RunPodSandboxResponse sandbox;
    RETURN_IF_ERROR(Call("RunPodSandbox", *runtime_, &Runtime::RunPodSandbox, run, &sandbox));
    pod.id = sandbox.pod_sandbox_id();
    const auto ran = Clock::now();
    api::PodSandboxStatusResponse status;
    if (!options_.http.empty()) {
      api::PodSandboxStatusRequest ask;
      ask.set_pod_sandbox_id(pod.id);
      RETURN_IF_ERROR(Call("PodSandboxStatus", *runtime_, &Runtime::PodSandboxStatus, ask, &status));
    }
    create.set_pod_sandbox_id(pod.id);
    *create.mutable_sandbox_config() = pod.config;
    api::CreateContainerResponse container;
    RETURN_IF_ERROR(Call("CreateContainer", *runtime_, &Runtime::CreateContainer, create, &container));
    pod.container = container.container_id();
    const auto created = Clock::now();
    api::StartContainerRequest start;
    start.set_container_id(pod.container);
    api::StartContainerResponse started;
    RETURN_IF_ERROR(Call("StartContainer", *runtime_, &Runtime::StartContainer, start, &started));
    const auto answered = Clock::now();
    RETURN_IF_ERROR(watch.Wait());
    const auto line = Clock::now();
    if (!options_.http.empty()) {
      RETURN_IF_ERROR(Fetch(status.status().network().ip(), options_.http));
    }
    const auto ready = Clock::now();
    if (times != nullptr) {
      (*times)["run"] = Ms(ran - begin);
      (*times)["create"] = Ms(created - ran);
      (*times)["start"] = Ms(answered - created);
      (*times)["line"] = Ms(line - answered);
      if (!options_.http.empty()) (*times)["http"] = Ms(ready - line);
      (*times)["total"] = Ms(ready - begin);
    }
    return absl::OkStatus();
  }

  // In the order that kubelet uses. Without a container's id, all of the pod at once.
  absl::Status Remove(Pod& pod, json* times) {
    Clock::duration took{};
    auto timed = [&](const char* phase, auto&& call) -> absl::Status {
      const auto begin = Clock::now();
      RETURN_IF_ERROR(call());
      const auto one = Clock::now() - begin;
      took += one;
      if (times != nullptr) (*times)[phase] = Ms(one);
      return absl::OkStatus();
    };
    if (!pod.container.empty()) {
      api::StopContainerRequest stop;
      stop.set_container_id(pod.container);
      api::StopContainerResponse stopped;
      RETURN_IF_ERROR(timed("stop_container", [&] {
        return Call("StopContainer", *runtime_, &Runtime::StopContainer, stop, &stopped);
      }));
      api::ContainerStatusRequest ask;
      ask.set_container_id(pod.container);
      api::ContainerStatusResponse status;
      RETURN_IF_ERROR(Call("ContainerStatus", *runtime_, &Runtime::ContainerStatus, ask, &status));
      if (status.status().state() != api::CONTAINER_EXITED || status.status().exit_code() != 137)
        return absl::InternalError(Cat("a killed container is in state ",
                                       api::ContainerState_Name(status.status().state()), " with exit code ",
                                       status.status().exit_code()));
    }
    api::StopPodSandboxRequest stop_pod;
    stop_pod.set_pod_sandbox_id(pod.id);
    api::StopPodSandboxResponse stopped_pod;
    RETURN_IF_ERROR(timed("stop_pod", [&] {
      return Call("StopPodSandbox", *runtime_, &Runtime::StopPodSandbox, stop_pod, &stopped_pod);
    }));
    if (!pod.container.empty()) {
      api::RemoveContainerRequest remove;
      remove.set_container_id(pod.container);
      api::RemoveContainerResponse removed;
      RETURN_IF_ERROR(timed("remove_container", [&] {
        return Call("RemoveContainer", *runtime_, &Runtime::RemoveContainer, remove, &removed);
      }));
    }
    api::RemovePodSandboxRequest remove_pod;
    remove_pod.set_pod_sandbox_id(pod.id);
    api::RemovePodSandboxResponse removed_pod;
    RETURN_IF_ERROR(timed("remove_pod", [&] {
      return Call("RemovePodSandbox", *runtime_, &Runtime::RemovePodSandbox, remove_pod, &removed_pod);
    }));
    if (times != nullptr) (*times)["teardown"] = Ms(took);
    api::PodSandboxStatusRequest ask;
    ask.set_pod_sandbox_id(pod.id);
    api::PodSandboxStatusResponse status;
    absl::Status gone = Call("PodSandboxStatus", *runtime_, &Runtime::PodSandboxStatus, ask, &status);
    if (!absl::IsNotFound(gone)) return absl::InternalError(Cat("removed pod `", pod.id, "` is still known"));
    std::error_code ignored;
    if (!pod.log_dir.empty()) fs::remove_all(pod.log_dir, ignored);
    return absl::OkStatus();
  }

  absl::Status NothingLeft() {
    api::ListPodSandboxResponse pods;
    RETURN_IF_ERROR(ListPods(&pods));
    if (pods.items_size() > 0) return absl::InternalError(Cat(pods.items_size(), " pods are left"));
    api::ListContainersRequest ask;
    (*ask.mutable_filter()->mutable_label_selector())[kLabel] = run_;
    api::ListContainersResponse containers;
    RETURN_IF_ERROR(Call("ListContainers", *runtime_, &Runtime::ListContainers, ask, &containers));
    if (containers.containers_size() > 0)
      return absl::InternalError(Cat(containers.containers_size(), " containers are left"));
    for (const std::string& root : Roots())
      for (pid_t pid : Pids(root + "/pods"))
        return absl::InternalError(Cat("process ", pid, " is left in ", root, "/pods"));
    return absl::OkStatus();
  }

  // ---- what the machine says

  // PATH in every hierarchy that has it.
  std::vector<std::string> Roots() const {
    std::vector<std::string> roots;
    std::error_code ignored;
    if (options_.cgroup.empty()) return roots;
    if (std::string v2 = "/sys/fs/cgroup/" + options_.cgroup; fs::exists(v2, ignored)) roots.push_back(v2);
    for (const auto& entry : fs::directory_iterator("/sys/fs/cgroup", ignored))
      if (std::string dir = entry.path().string() + "/" + options_.cgroup;
          fs::exists(dir + "/cgroup.procs", ignored))
        roots.push_back(dir);
    return roots;
  }

  static std::vector<pid_t> Pids(const std::string& dir) {
    std::vector<pid_t> pids;
    std::error_code ignored;
    auto add = [&](const std::string& one) {
      std::ifstream in(one + "/cgroup.procs");
      for (pid_t pid; in >> pid;) pids.push_back(pid);
    };
    add(dir);
    for (const auto& entry : fs::recursive_directory_iterator(dir, ignored))
      if (entry.is_directory(ignored)) add(entry.path().string());
    return pids;
  }

  // Of the runtime and all that it started, living and dead, the workload too. -1: not known.
  double CgroupCpuMs() const {
    for (const std::string& root : Roots()) {
      if (std::ifstream in(root + "/cpuacct.usage"); in) {
        double ns = 0;
        in >> ns;
        return ns / 1e6;
      }
      std::ifstream in(root + "/cpu.stat");
      for (std::string key, value; in >> key >> value;)
        if (key == "usage_usec") return std::stod(value) / 1e3;
    }
    return -1;
  }

  // Of the whole machine since boot, the kernel's own threads, this program and strangers too (proc(5),
  // /proc/stat).
  static double MachineCpuMs() {
    std::ifstream in("/proc/stat");
    std::string cpu;
    double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0;
    in >> cpu >> user >> nice >> system >> idle >> iowait >> irq >> softirq;
    return (user + nice + system + irq + softirq) * 1000 / static_cast<double>(sysconf(_SC_CLK_TCK));
  }

  static double MemAvailableKib() {
    std::ifstream in("/proc/meminfo");
    double kib = 0;
    for (std::string key, unit; in >> key >> kib && std::getline(in, unit);)
      if (key == "MemAvailable:") return kib;
    return 0;
  }

  // KiB of proportional set size of what runs in PATH and is no workload, and the number of workloads.
  std::pair<double, int> Memory() const {
    double kib = 0;
    int workloads = 0;
    std::set<pid_t> pids;
    for (const std::string& root : Roots())
      for (pid_t pid : Pids(root)) pids.insert(pid);
    for (pid_t pid : pids) {
      std::string command = ReadFile(Cat("/proc/", pid, "/cmdline")).value_or("");
      if (command.starts_with(std::string("sleep\0"
                                          "3600\0",
                                          11))) {
        ++workloads;
        continue;
      }
      std::ifstream in(Cat("/proc/", pid, "/smaps_rollup"));
      for (std::string line; std::getline(in, line);)
        if (line.starts_with("Pss:")) kib += std::stod(line.substr(4));
    }
    return {kib, workloads};
  }

  const Options options_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Images> images_;
  std::string dir_, run_, name_, image_id_;
  std::atomic<int> next_{0};
};

absl::Status Measure(Bench& bench, const std::vector<std::string>& words) {
  auto number = [](const std::string& text) { return std::strtod(text.c_str(), nullptr); };
  for (size_t i = 0; i < words.size();) {
    absl::StatusOr<json> result =
        absl::InvalidArgumentError(Cat("`", words[i], "` is no mode, or lacks numbers"));
    if (words[i] == "start" && i + 1 < words.size()) {
      result = bench.Start(static_cast<int>(number(words[i + 1])));
      i += 2;
    } else if (words[i] == "first" && i + 1 < words.size()) {
      result = bench.First(static_cast<int>(number(words[i + 1])));
      i += 2;
    } else if (words[i] == "mispredicted" && i + 1 < words.size()) {
      result = bench.Mispredicted(static_cast<int>(number(words[i + 1])));
      i += 2;
    } else if (words[i] == "churn" && i + 2 < words.size()) {
      result = bench.Churn(static_cast<int>(number(words[i + 1])), number(words[i + 2]));
      i += 3;
    } else if (words[i] == "density" && i + 1 < words.size()) {
      std::vector<int> counts;
      for (size_t at = 0; at != std::string::npos && at < words[i + 1].size();) {
        counts.push_back(static_cast<int>(number(words[i + 1].substr(at))));
        at = words[i + 1].find(',', at);
        if (at != std::string::npos) ++at;
      }
      result = bench.Density(counts);
      i += 2;
    }
    RETURN_IF_ERROR(result.status());
    printf("%s\n", result->dump().c_str());
    fflush(stdout);
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Options options;
  const ::option names[] = {
      {"endpoint", 1, nullptr, 'e'}, {"image", 1, nullptr, 'i'},  {"handler", 1, nullptr, 'h'},
      {"cgroup", 1, nullptr, 'c'},   {"python", 1, nullptr, 'p'}, {"annotation", 1, nullptr, 'a'},
      {"command", 1, nullptr, 'w'},  {"http", 1, nullptr, 't'},   {nullptr, 0, nullptr, 0}};
  for (int c; (c = getopt_long(argc, argv, "", names, nullptr)) != -1;) {
    if (c == 'e') options.endpoint = optarg;
    if (c == 'i') options.image = optarg;
    if (c == 'h') options.handler = optarg;
    if (c == 'c') options.cgroup = optarg;
    if (c == 'p') options.python = optarg;
    if (c == 'w') options.command = optarg;
    if (c == 't') options.http = optarg;
    if (c == 'a') {
      const std::string pair = optarg;
      const size_t at = std::min(pair.find('='), pair.size());
      options.annotations.emplace_back(pair.substr(0, at), pair.substr(std::min(at + 1, pair.size())));
    }
    if (c == '?') options.endpoint.clear(), optind = argc;
  }
  if (options.endpoint.empty() || options.image.empty() || optind >= argc) {
    fputs(kUsage, stderr);
    return 2;
  }
  Bench bench(std::move(options));
  absl::Status status = bench.Open();
  if (status.ok()) status = Measure(bench, {argv + optind, argv + argc});
  absl::Status closed = bench.Close();
  if (status.ok()) status = closed;
  if (status.ok()) return 0;
  fprintf(stderr, "pod-bench: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace sock::bench

int main(int argc, char** argv) { return sock::bench::Main(argc, argv); }
