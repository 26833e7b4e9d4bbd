#include "cri/run_pod.h"

#include <getopt.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <iostream>
#include <string>

#include "runtime/base/ids.h"

namespace sock::cri {
namespace {

namespace api = ::runtime::v1;

struct Wish {
  std::string handler;
  api::PodSandboxConfig pod;
  api::ContainerConfig container;
};

int Usage(const std::string& problem) {
  std::cerr << "sockctl: " << problem << "\nusage: sockctl " << kRunUsage << "\n";
  return 2;
}

bool AddMount(const std::string& text, api::ContainerConfig& config) {
  size_t first = text.find(':');
  if (first == std::string::npos) return false;
  size_t second = text.find(':', first + 1);
  std::string options = second == std::string::npos ? "" : text.substr(second + 1);
  if (!options.empty() && options != "ro") return false;
  api::Mount* mount = config.add_mounts();
  mount->set_host_path(text.substr(0, first));
  mount->set_container_path(
      text.substr(first + 1, second == std::string::npos ? second : second - first - 1));
  mount->set_readonly(options == "ro");
  return true;
}

// 0, or the exit status of bad usage.
int Parse(int argc, char** argv, Wish& wish) {
  std::string name = "pod", name_space = "default", log_dir;
  const option options[] = {
      {"image", 1, nullptr, 'i'},      {"handler", 1, nullptr, 'h'}, {"name", 1, nullptr, 'n'},
      {"namespace", 1, nullptr, 's'},  {"log-dir", 1, nullptr, 'l'}, {"mount", 1, nullptr, 'm'},
      {"annotation", 1, nullptr, 'a'}, {"env", 1, nullptr, 'e'},     {nullptr, 0, nullptr, 0}};
  optind = 0;  // getopt_long(3): start anew with another argument vector
  for (int c; (c = getopt_long(argc, argv, "+", options, nullptr)) != -1;) {
    std::string value = optarg ? optarg : "";
    size_t equals = value.find('=');
    switch (c) {
      case 'i':
        wish.container.mutable_image()->set_image(value);
        break;
      case 'h':
        wish.handler = value;
        break;
      case 'n':
        name = value;
        break;
      case 's':
        name_space = value;
        break;
      case 'l':
        log_dir = value;
        break;
      case 'm':
        if (!AddMount(value, wish.container))
          return Usage("--mount `" + value + "` is not HOST:CONTAINER[:ro]");
        break;
      case 'a':
        if (equals == std::string::npos) return Usage("--annotation `" + value + "` is not K=V");
        (*wish.pod.mutable_annotations())[value.substr(0, equals)] = value.substr(equals + 1);
        break;
      case 'e': {
        if (equals == std::string::npos) return Usage("--env `" + value + "` is not K=V");
        auto* env = wish.container.add_envs();
        env->set_key(value.substr(0, equals));
        env->set_value(value.substr(equals + 1));
        break;
      }
      default:
        return Usage("see the options");
    }
  }
  if (wish.container.image().image().empty()) return Usage("--image is missing");
  for (int i = optind; i < argc; ++i) wish.container.add_command(argv[i]);
  auto* metadata = wish.pod.mutable_metadata();
  metadata->set_name(name);
  metadata->set_namespace_(name_space);
  metadata->set_uid(NewId().substr(0, 32));
  wish.pod.set_hostname(name);
  wish.container.mutable_metadata()->set_name(name);
  if (!log_dir.empty()) {
    wish.pod.set_log_directory(log_dir);
    wish.container.set_log_path(name + ".log");
  }
  return 0;
}

grpc::Status Remove(api::RuntimeService::Stub& runtime, const std::string& pod) {
  grpc::ClientContext context;
  api::RemovePodSandboxRequest request;
  api::RemovePodSandboxResponse response;
  request.set_pod_sandbox_id(pod);
  return runtime.RemovePodSandbox(&context, request, &response);
}

grpc::Status StartContainer(api::RuntimeService::Stub& runtime, const Wish& wish, const std::string& pod,
                            std::string& container, std::string& ip) {
  grpc::ClientContext creating, starting, asking;
  api::CreateContainerRequest create;
  api::CreateContainerResponse created;
  create.set_pod_sandbox_id(pod);
  *create.mutable_config() = wish.container;
  *create.mutable_sandbox_config() = wish.pod;
  grpc::Status status = runtime.CreateContainer(&creating, create, &created);
  if (!status.ok()) return status;
  container = created.container_id();
  api::StartContainerRequest start;
  api::StartContainerResponse started;
  start.set_container_id(container);
  status = runtime.StartContainer(&starting, start, &started);
  if (!status.ok()) return status;
  api::PodSandboxStatusRequest ask;
  api::PodSandboxStatusResponse answer;
  ask.set_pod_sandbox_id(pod);
  status = runtime.PodSandboxStatus(&asking, ask, &answer);
  ip = answer.status().network().ip();
  return status;
}

}  // namespace

int RunPod(api::RuntimeService::Stub& runtime, int argc, char** argv) {
  Wish wish;
  if (int problem = Parse(argc, argv, wish)) return problem;
  grpc::ClientContext context;
  api::RunPodSandboxRequest request;
  api::RunPodSandboxResponse response;
  *request.mutable_config() = wish.pod;
  request.set_runtime_handler(wish.handler);
  grpc::Status status = runtime.RunPodSandbox(&context, request, &response);
  std::string container, ip;
  if (status.ok()) {
    status = StartContainer(runtime, wish, response.pod_sandbox_id(), container, ip);
    if (!status.ok()) Remove(runtime, response.pod_sandbox_id());
  }
  if (!status.ok()) {
    std::cerr << "sockctl: " << status.error_message() << "\n";
    return 1;
  }
  printf("%s %s %s\n", response.pod_sandbox_id().c_str(), container.c_str(), ip.c_str());
  return 0;
}

}  // namespace sock::cri
