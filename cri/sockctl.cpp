// sockctl: a small client of the daemon for people, and `doctor`, which tells what this machine lacks.
#include <getopt.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "api.grpc.pb.h"
#include "cri/doctor.h"
#include "cri/import_images.h"
#include "cri/run_pod.h"
#include "runtime/base/text.h"

namespace {

namespace api = ::runtime::v1;
using sock::Cat;

constexpr char kUsage[] =
    "usage: sockctl [--socket SOCKET] [--root DIR] COMMAND\n"
    "  version | pods | ps [-a] | images | pull REF | images import PATH [NAME]\n"
    "  logs ID | exec ID CMD... | stop-pod ID | rm-pod ID | zygotes [--json] | why ID | doctor\n";

int Fail(const grpc::Status& status) {
  std::cerr << "sockctl: " << status.error_message() << "\n";
  return 1;
}

std::string Age(int64_t created_ns) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const int64_t s = now.tv_sec - created_ns / 1000000000;
  if (s < 120) return Cat(s, "s");
  if (s < 7200) return Cat(s / 60, "m");
  return s < 172800 ? Cat(s / 3600, "h") : Cat(s / 86400, "d");
}

// The JSON that a verbose answer holds under `key`; discarded where another runtime tells none.
nlohmann::json Verbose(const google::protobuf::Map<std::string, std::string>& info, const std::string& key) {
  auto found = info.find(key);
  return nlohmann::json::parse(found == info.end() ? "" : found->second, nullptr, false);
}

class Client {
 public:
  explicit Client(const std::string& socket) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(16 << 20);
    auto channel = grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
    runtime_ = api::RuntimeService::NewStub(channel);
    images_ = api::ImageService::NewStub(channel);
  }

  int Version() {
    grpc::ClientContext context;
    api::VersionResponse r;
    if (auto s = runtime_->Version(&context, {}, &r); !s.ok()) return Fail(s);
    fmt::print("{} {} (CRI {})\n", r.runtime_name(), r.runtime_version(), r.runtime_api_version());
    return 0;
  }

  int Pods() {
    grpc::ClientContext context;
    api::ListPodSandboxResponse r;
    if (auto s = runtime_->ListPodSandbox(&context, {}, &r); !s.ok()) return Fail(s);
    fmt::print("{:13} {:5} {:9} {:20} {}\n", "ID", "AGE", "STATE", "NAMESPACE", "NAME");
    for (const auto& p : r.items()) {
      fmt::print("{:.13} {:5} {:9} {:20} {}\n", p.id(), Age(p.created_at()),
                 p.state() == api::SANDBOX_READY ? "ready" : "not ready", p.metadata().namespace_(),
                 p.metadata().name());
    }
    return 0;
  }

  int Ps(bool all) {
    grpc::ClientContext context;
    api::ListContainersRequest q;
    if (!all) q.mutable_filter()->mutable_state()->set_state(api::CONTAINER_RUNNING);
    api::ListContainersResponse r;
    if (auto s = runtime_->ListContainers(&context, q, &r); !s.ok()) return Fail(s);
    static const char* const states[] = {"created", "running", "exited", "unknown"};
    fmt::print("{:13} {:13} {:5} {:8} {:24} {}\n", "ID", "POD", "AGE", "STATE", "NAME", "IMAGE");
    for (const auto& c : r.containers()) {
      fmt::print("{:.13} {:.13} {:5} {:8} {:24} {}\n", c.id(), c.pod_sandbox_id(), Age(c.created_at()),
                 states[c.state() & 3], c.metadata().name(), c.image().image());
    }
    return 0;
  }

  int Images() {
    grpc::ClientContext context;
    api::ListImagesResponse r;
    if (auto s = images_->ListImages(&context, {}, &r); !s.ok()) return Fail(s);
    fmt::print("{:20} {:>10} {}\n", "ID", "KIB", "NAME");
    for (const auto& i : r.images()) {
      fmt::print("{:.20} {:>10} {}\n", i.id(), i.size() / 1024,
                 i.repo_tags_size()      ? i.repo_tags(0)
                 : i.repo_digests_size() ? i.repo_digests(0)
                                         : "-");
    }
    return 0;
  }

  int Pull(const std::string& reference) {
    grpc::ClientContext context;
    api::PullImageRequest q;
    q.mutable_image()->set_image(reference);
    api::PullImageResponse r;
    if (auto s = images_->PullImage(&context, q, &r); !s.ok()) return Fail(s);
    fmt::print("{}\n", r.image_ref());
    return 0;
  }

  int Logs(const std::string& id) {
    grpc::ClientContext context;
    api::ContainerStatusRequest q;
    q.set_container_id(id);
    api::ContainerStatusResponse r;
    if (auto s = runtime_->ContainerStatus(&context, q, &r); !s.ok()) return Fail(s);
    std::ifstream file(r.status().log_path());
    if (!file) {
      std::cerr << "sockctl: open log `" << r.status().log_path() << "` failed\n";
      return 1;
    }
    // The CRI's log format: time, stream, tag (P: the line goes on), text.
    for (std::string line; std::getline(file, line);) {
      const size_t stream = line.find(' '), tag = line.find(' ', stream + 1), text = line.find(' ', tag + 1);
      if (text == std::string::npos) continue;
      std::ostream& out = line.compare(stream + 1, 6, "stderr") == 0 ? std::cerr : std::cout;
      out << line.substr(text + 1);
      if (line[tag + 1] != 'P') out << '\n';
    }
    return 0;
  }

  // The Zygotes as a table, or with `json` as the daemon tells them.
  int Zygotes(bool json) {
    grpc::ClientContext context;
    api::StatusRequest q;
    q.set_verbose(true);
    api::StatusResponse r;
    if (auto s = runtime_->Status(&context, q, &r); !s.ok()) return Fail(s);
    const nlohmann::json all = Verbose(r.info(), "zygotes");
    if (!all.is_array()) {
      std::cerr << "sockctl: the runtime tells of no Zygotes\n";
      return 1;
    }
    if (json) {
      fmt::print("{}\n", all.dump(2));
      return 0;
    }
    fmt::print("{:<13}{:<11}{:<15}{:>5}{:>7}{:>7}{:>12}{:>8}{:>9}{:>8}{:>8}{:>8}{:>6}  {}\n", "KEY", "STATE",
               "IMAGE", "AGE", "HITS", "MISSES", "PREDICTED", "SAVED s", "MiB", "PRIVATE", "PODS", "POD MiB",
               "READY", "LAST MISS");
    for (const nlohmann::json& one : all) {
      const bool ready = one.value("state", "") == "ready";
      const std::string image = one.value("image", "");  // after "sha256:"
      const nlohmann::json none = nlohmann::json::object();
      const nlohmann::json own = one.value("memory", none), pods = one.value("containersMemory", none);
      const double count = one.value("containers", 0.0);
      // Of those foretold: taken up / ended without.
      fmt::print(
          "{:<13}{:<11}{:<15}{:>5}{:>7}{:>7}{:>12}{:>8.1f}{:>9.1f}{:>8.1f}{:>8}{:>8.2f}{:>6}  {}\n",
          one.value("key", "").substr(0, 12), one.value("frozen", false) ? "frozen" : one.value("state", ""),
          image.substr(std::min<size_t>(7, image.size()), 12),
          ready ? Age(one.value("madeAt", int64_t{0})) : "-", one.value("hits", 0), one.value("misses", 0),
          Cat(one.value("predictedHits", 0), "/", one.value("predictedMisses", 0)),
          one.value("savedMilliseconds", 0.0) / 1000, one.value("memoryBytes", 0.0) / (1 << 20),
          own.value("privateBytes", 0.0) / (1 << 20), one.value("containers", 0),
          count > 0 ? pods.value("privateBytes", 0.0) / count / (1 << 20) : 0, one.value("parked", 0),
          ready ? one.value("lastMiss", "") : one.value("reason", ""));
    }
    return 0;
  }

  // Whether the container was forked, and why not.
  int Why(const std::string& id) {
    grpc::ClientContext context;
    api::ContainerStatusRequest q;
    q.set_container_id(id);
    q.set_verbose(true);
    api::ContainerStatusResponse r;
    if (auto s = runtime_->ContainerStatus(&context, q, &r); !s.ok()) return Fail(s);
    const nlohmann::json info = Verbose(r.info(), "info");
    if (!info.is_object()) {
      std::cerr << "sockctl: the runtime tells nothing of how it was started\n";
      return 1;
    }
    if (info.value("forked", false))
      fmt::print("forked from Zygote {}\n", info.value("zygote", ""));
    else
      fmt::print("started plainly: {}\n", info.value("notForked", "its pod's handler is not `sock`"));
    return 0;
  }

  int Exec(const std::string& id, char** command) {
    grpc::ClientContext context;
    api::ExecSyncRequest q;
    q.set_container_id(id);
    for (; *command; ++command) q.add_cmd(*command);
    api::ExecSyncResponse r;
    if (auto s = runtime_->ExecSync(&context, q, &r); !s.ok()) return Fail(s);
    std::cout << r.stdout();
    std::cerr << r.stderr();
    return r.exit_code();
  }

  int Run(int argc, char** argv) { return sock::cri::RunPod(*runtime_, argc, argv); }

  // StopPodSandbox or RemovePodSandbox.
  template <typename Request, typename Response>
  int OnPod(grpc::Status (api::RuntimeService::Stub::*method)(grpc::ClientContext*, const Request&,
                                                              Response*),
            const std::string& id) {
    grpc::ClientContext context;
    Request q;
    q.set_pod_sandbox_id(id);
    Response r;
    auto s = ((*runtime_).*method)(&context, q, &r);
    return s.ok() ? 0 : Fail(s);
  }
  int StopPod(const std::string& id) { return OnPod(&api::RuntimeService::Stub::StopPodSandbox, id); }
  int RmPod(const std::string& id) { return OnPod(&api::RuntimeService::Stub::RemovePodSandbox, id); }

 private:
  std::unique_ptr<api::RuntimeService::Stub> runtime_;
  std::unique_ptr<api::ImageService::Stub> images_;
};

}  // namespace

int main(int argc, char** argv) {
  std::string socket = "/run/cri-sock/cri-sock.sock";
  [[maybe_unused]] std::string root = "/var/lib/cri-sock";
  const option options[] = {{"socket", 1, nullptr, 's'},
                            {"root", 1, nullptr, 'r'},
                            {"help", 0, nullptr, 'h'},
                            {nullptr, 0, nullptr, 0}};
  for (int c; (c = getopt_long(argc, argv, "+", options, nullptr)) != -1;) {
    if (c == 's') {
      socket = optarg;
    } else if (c == 'r') {
      root = optarg;
    } else {
      fputs(kUsage, c == 'h' ? stdout : stderr);
      return c == 'h' ? 0 : 2;
    }
  }
  const int n = argc - optind;
  char** a = argv + optind;
  const std::string command = n > 0 ? a[0] : "";
  if (command == "doctor" && n == 1) return sock::cri::Doctor();
#ifdef SOCK_IMPORT
  if (command == "images" && (n == 3 || n == 4) && std::string(a[1]) == "import") {
    return sock::cri::ImportImages(root, a[2], n == 4 ? a[3] : "");
  }
#endif
  Client client(socket);
  if (command == "version" && n == 1) return client.Version();
  if (command == "pods" && n == 1) return client.Pods();
  if (command == "ps" && n == 1) return client.Ps(false);
  if (command == "ps" && n == 2 && std::string(a[1]) == "-a") return client.Ps(true);
  if (command == "images" && n == 1) return client.Images();
  if (command == "pull" && n == 2) return client.Pull(a[1]);
  if (command == "logs" && n == 2) return client.Logs(a[1]);
  if (command == "zygotes" && n == 1) return client.Zygotes(false);
  if (command == "zygotes" && n == 2 && std::string(a[1]) == "--json") return client.Zygotes(true);
  if (command == "why" && n == 2) return client.Why(a[1]);
  if (command == "exec" && n >= 3) return client.Exec(a[1], a + 2);
  if (command == "run") return client.Run(n, a);
  if (command == "stop-pod" && n == 2) return client.StopPod(a[1]);
  if (command == "rm-pod" && n == 2) return client.RmPod(a[1]);
  std::cerr << kUsage << "  " << sock::cri::kRunUsage << "\n";
  return 2;
}
