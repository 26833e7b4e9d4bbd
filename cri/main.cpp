// cri-sockd: the daemon. SIGTERM and SIGINT end the server and leave pods running.
#include <getopt.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/synchronization/mutex.h"
#include "cri/cri.h"
#include "cri/metrics.h"
#include "cri/service.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace {

struct Flags {
  std::string listen = "/run/cri-sock/cri-sock.sock", state = "/run/cri-sock", root = "/var/lib/cri-sock",
              config = "/etc/cri-sock/config.toml", log_level = "info", monitor;
};

constexpr char kUsage[] =
    "usage: cri-sockd [--listen SOCKET] [--state DIR] [--root DIR] [--config FILE]\n"
    "                 [--log-level trace|debug|info|warn|error] [--monitor PROGRAM] [--version]\n";

// -1: go on; else the exit status.
int ParseFlags(int argc, char** argv, Flags& flags) {
  const option options[] = {
      {"listen", 1, nullptr, 'l'},  {"state", 1, nullptr, 's'},     {"root", 1, nullptr, 'r'},
      {"config", 1, nullptr, 'c'},  {"log-level", 1, nullptr, 'L'}, {"monitor", 1, nullptr, 'm'},
      {"version", 0, nullptr, 'v'}, {"help", 0, nullptr, 'h'},      {nullptr, 0, nullptr, 0}};
  for (int c; (c = getopt_long(argc, argv, "", options, nullptr)) != -1;) {
    switch (c) {
      case 'l':
        flags.listen = optarg;
        break;
      case 's':
        flags.state = optarg;
        break;
      case 'r':
        flags.root = optarg;
        break;
      case 'c':
        flags.config = optarg;
        break;
      case 'L':
        flags.log_level = optarg;
        break;
      case 'm':
        flags.monitor = optarg;
        break;
      case 'v':
        puts("cri-sockd " CRI_SOCK_VERSION);
        return 0;
      case 'h':
        fputs(kUsage, stdout);
        return 0;
      default:
        fputs(kUsage, stderr);
        return 2;
    }
  }
  if (optind != argc) {
    fputs(kUsage, stderr);
    return 2;
  }
  return -1;
}

// Held until the process ends: two daemons never share a state directory.
absl::StatusOr<sock::Fd> Lock(const std::string& path) {
  ASSIGN_OR_RETURN(sock::Fd fd, sock::OpenPath(path, O_RDWR | O_CREAT, 0600));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return absl::FailedPreconditionError(
          sock::Cat("`", path, "` is locked: another daemon or `sockctl images import` runs"));
    }
    return sock::ErrnoStatus(errno, sock::Cat("lock `", path, "`"));
  }
  return fd;
}

absl::Status Run(const Flags& flags, const sigset_t& ends) {
  ASSIGN_OR_RETURN(sock::cri::Config config, sock::cri::LoadConfig(flags.config));
  RETURN_IF_ERROR(sock::MakeDirs(flags.state, 0711));
  RETURN_IF_ERROR(sock::MakeDirs(flags.root, 0711));
  ASSIGN_OR_RETURN(sock::Fd state_lock, Lock(flags.state + "/daemon.lock"));
  ASSIGN_OR_RETURN(sock::Fd root_lock, Lock(flags.root + "/daemon.lock"));

  sock::oci::ImageStoreOptions image_options;
  image_options.root = flags.root + "/images";
  image_options.certs_dir = config.certs_dir;
  image_options.parallel_downloads = config.parallel_downloads;
  ASSIGN_OR_RETURN_AS(auto images, sock::oci::ImageStore::Open(image_options), "open image store");

  sock::runtime::RuntimeOptions options;
  options.state_dir = flags.state;
  options.monitor_program = flags.monitor;
  if (options.monitor_program.empty()) {
    std::error_code error;
    auto self = std::filesystem::read_symlink("/proc/self/exe", error);
    options.monitor_program = (self.parent_path() / "cri-sock-monitor").string();
  }
  options.cgroup_driver = config.cgroup_driver;
  options.spare_sandboxes = config.spare_sandboxes;
  options.network.cni_conf_dir = config.cni_conf_dir;
  options.network.cni_cache_dir = flags.root + "/cni";
  options.network.cni_bin_dirs = config.cni_bin_dirs;
  options.network.bridge = config.bridge;
  options.network.subnet = config.subnet;
  options.network.on_check = [](const std::string& id, const absl::Status& status) {
    if (status.ok())
      spdlog::info("network of sandbox {} is again as its plugins made it", id);
    else
      spdlog::warn("network of sandbox {}: {}", id, std::string(status.message()));
  };

  sock::cri::Cri cri(config, flags.state);
  ASSIGN_OR_RETURN_AS(
      auto runtime,
      sock::runtime::Runtime::Open(options,
                                   [&cri](const std::string& id, const sock::runtime::ExitInfo& exit) {
                                     spdlog::info("container {} exited: {} {} {}", id, exit.exit_code,
                                                  exit.reason, exit.message);
                                     cri.OnExit(id, exit);
                                   }),
      "open runtime");
  cri.Use(runtime.get(), images.get());
  std::vector<std::string> warnings;
  absl::Status recovered = cri.Recover(warnings);
  for (const std::string& warning : warnings) spdlog::warn("recovery: {}", warning);
  if (!recovered.ok()) return sock::Annotate(recovered, "recover");

  sock::zygote::ZygotesOptions zygote_options;
  zygote_options.state_file = flags.state + "/zygotes.json";
  zygote_options.kinds_file = flags.state + "/zygote-kinds.json";
  zygote_options.parked = config.parked;
  zygote_options.import_limit = std::chrono::seconds(config.import_seconds);
  zygote_options.memory_limit = int64_t{config.zygote_mib} << 20;
  zygote_options.learn = config.learn;
  zygote_options.parked_most = config.parked_most;
  zygote_options.idle = std::chrono::seconds(config.zygote_idle_s);
  zygote_options.rotate_age = std::chrono::seconds(config.rotate_s);
  zygote_options.rotate_forks = static_cast<uint64_t>(config.rotate_forks);
  zygote_options.memory_budget = static_cast<uint64_t>(config.zygote_memory_mib) << 20;
  zygote_options.cgroup_parent = config.zygote_cgroup;
  sock::zygote::Zygotes zygotes(zygote_options, runtime.get(), images.get());
  cri.UseZygotes(&zygotes);
  absl::Cleanup no_zygotes = [&] { cri.UseZygotes(nullptr); };

  std::jthread sampler([&cri](const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any stopped;
    std::unique_lock lock(mutex);
    while (!stop.stop_requested()) {
      cri.SampleUsage();
      stopped.wait_for(lock, stop, std::chrono::seconds(sock::cri::Cri::kSampleSeconds),
                       [] { return false; });
    }
  });
  std::unique_ptr<sock::cri::MetricsServer> metrics;
  if (!config.metrics_listen.empty()) {
    ASSIGN_OR_RETURN_AS(
        metrics, sock::cri::MetricsServer::Start(config.metrics_listen, [&cri] { return cri.Metrics(); }),
        "config key `metrics.listen`");
  }
  ASSIGN_OR_RETURN(auto server, sock::cri::Server::Start(flags.listen, &cri));
  spdlog::info("cri-sockd {} serves {}", CRI_SOCK_VERSION, flags.listen);
  int signal = 0;
  sigwait(&ends, &signal);
  spdlog::info("signal {}: ending, pods stay", signal);
  server->Stop(2000);
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  if (int status = ParseFlags(argc, argv, flags); status >= 0) return status;
#ifdef NDEBUG
  // Debian's Abseil looks for lock cycles at every Lock(), under one lock of the whole process.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  // Before any thread is made, so that all of them inherit it.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("cri-sockd"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  spdlog::set_level(spdlog::level::from_str(flags.log_level));
  absl::Status status = Run(flags, ends);
  if (!status.ok()) {
    spdlog::error("{}", std::string(status.message()));
    return 1;
  }
  return 0;
}
