#include "cri/service.h"

#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <string_view>

#include "api.grpc.pb.h"
#include "cri/event_stream.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::cri {

namespace {

constexpr int kMaxMessage = 16 << 20;
constexpr int kStreamItems = 500;  // in one message of a streamed list
using Clock = std::chrono::steady_clock;

// absl's codes are gRPC's.
grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.raw_code()), std::string(status.message())};
}

template <typename Message>
std::string Subject(const Message& m) {
  if constexpr (requires { m.container_id(); }) {
    return m.container_id();
  } else if constexpr (requires {
                         m.pod_sandbox_id();
                         m.config();
                       }) {
    return Cat(m.pod_sandbox_id(), " ", m.config().metadata().name());
  } else if constexpr (requires { m.pod_sandbox_id(); }) {
    return m.pod_sandbox_id();
  } else if constexpr (requires { m.config().metadata(); }) {
    return Cat(m.config().metadata().namespace_(), "/", m.config().metadata().name());
  } else if constexpr (requires { m.image().image(); }) {
    return m.image().image();
  } else {
    return "";
  }
}

// Logs a call's entry and its outcome, once each, and turns its error into gRPC's.
template <typename Request, typename Response, typename Body>
grpc::Status Serve(const char* name, spdlog::level::level_enum level, const Request& request,
                   Response* response, const Body& body) {
  spdlog::debug("{} {}", name, Subject(request));
  const auto begin = Clock::now();
  absl::Status status = body();
  const double ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  if (status.ok()) {
    spdlog::log(level, "{} {} {} ok {:.2f} ms", name, Subject(request), Subject(*response), ms);
  } else {
    spdlog::log(level == spdlog::level::debug ? level : spdlog::level::warn, "{} {} {} {:.2f} ms: {}", name,
                Subject(request), absl::StatusCodeToString(status.code()), ms, std::string(status.message()));
  }
  return ToGrpc(status);
}

#define SOCK_RPC(Name, Level)                                                                               \
  grpc::Status Name(grpc::ServerContext*, const api::Name##Request* request, api::Name##Response* response) \
      override {                                                                                            \
    return Serve(#Name, spdlog::level::Level, *request, response,                                           \
                 [&] { return cri_->Name(*request, response); });                                           \
  }

// The streamed form of a list: the same items, in messages of a limited number of them.
#define SOCK_STREAM_RPC(Name, List, listed, streamed)                                      \
  grpc::Status Name(grpc::ServerContext*, const api::Name##Request* request,               \
                    grpc::ServerWriter<api::Name##Response>* writer) override {            \
    api::List##Response all;                                                               \
    return Serve(#Name, spdlog::level::debug, *request, &all, [&]() -> absl::Status {      \
      api::List##Request query;                                                            \
      *query.mutable_filter() = request->filter();                                         \
      RETURN_IF_ERROR(cri_->List(query, &all));                                            \
      for (int at = 0; at < all.listed##_size();) {                                        \
        api::Name##Response part;                                                          \
        while (at < all.listed##_size() && part.streamed##_size() < kStreamItems)          \
          part.add_##streamed()->Swap(all.mutable_##listed(at++));                         \
        if (!writer->Write(part)) return absl::CancelledError("the client does not read"); \
      }                                                                                    \
      return absl::OkStatus();                                                             \
    });                                                                                    \
  }

#define SOCK_UNIMPLEMENTED_RPC(Name)                                                                  \
  grpc::Status Name(grpc::ServerContext*, const api::Name##Request*, api::Name##Response*) override { \
    return {grpc::StatusCode::UNIMPLEMENTED, #Name " is not supported"};                              \
  }

class RuntimeService final : public api::RuntimeService::Service {
 public:
  explicit RuntimeService(Cri* cri) : cri_(cri) {}
  SOCK_RPC(Version, debug)
  SOCK_RPC(Status, debug)
  SOCK_RPC(RuntimeConfig, debug)
  SOCK_RPC(UpdateRuntimeConfig, info)
  SOCK_RPC(RunPodSandbox, info)
  SOCK_RPC(StopPodSandbox, info)
  SOCK_RPC(RemovePodSandbox, info)
  SOCK_RPC(PodSandboxStatus, debug)
  SOCK_RPC(ListPodSandbox, debug)
  SOCK_RPC(UpdatePodSandboxResources, info)
  SOCK_RPC(CreateContainer, info)
  SOCK_RPC(StartContainer, info)
  SOCK_RPC(StopContainer, info)
  SOCK_RPC(RemoveContainer, info)
  SOCK_RPC(ContainerStatus, debug)
  SOCK_RPC(ListContainers, debug)
  SOCK_RPC(UpdateContainerResources, info)
  SOCK_RPC(ReopenContainerLog, info)
  SOCK_RPC(ExecSync, debug)
  SOCK_RPC(ContainerStats, debug)
  SOCK_RPC(ListContainerStats, debug)
  SOCK_RPC(PodSandboxStats, debug)
  SOCK_RPC(ListPodSandboxStats, debug)
  grpc::Status GetContainerEvents(grpc::ServerContext* context, const api::GetEventsRequest*,
                                  grpc::ServerWriter<api::ContainerEventResponse>* writer) override {
    return StreamEvents(&cri_->events(), context, writer);
  }
  SOCK_STREAM_RPC(StreamPodSandboxes, ListPodSandbox, items, pod_sandboxes)
  SOCK_STREAM_RPC(StreamContainers, ListContainers, containers, containers)
  SOCK_STREAM_RPC(StreamContainerStats, ListContainerStats, stats, container_stats)
  SOCK_STREAM_RPC(StreamPodSandboxStats, ListPodSandboxStats, stats, pod_sandbox_stats)
  SOCK_UNIMPLEMENTED_RPC(Exec)
  SOCK_UNIMPLEMENTED_RPC(Attach)
  SOCK_UNIMPLEMENTED_RPC(PortForward)
  SOCK_UNIMPLEMENTED_RPC(CheckpointContainer)
  SOCK_UNIMPLEMENTED_RPC(CheckpointPod)
  SOCK_UNIMPLEMENTED_RPC(RestorePod)
  SOCK_UNIMPLEMENTED_RPC(ListMetricDescriptors)
  SOCK_UNIMPLEMENTED_RPC(ListPodSandboxMetrics)
  grpc::Status StreamPodSandboxMetrics(grpc::ServerContext*, const api::StreamPodSandboxMetricsRequest*,
                                       grpc::ServerWriter<api::StreamPodSandboxMetricsResponse>*) override {
    return {grpc::StatusCode::UNIMPLEMENTED, "StreamPodSandboxMetrics is not supported"};
  }

 private:
  Cri* const cri_;
};

class ImageService final : public api::ImageService::Service {
 public:
  explicit ImageService(Cri* cri) : cri_(cri) {}
  SOCK_RPC(ListImages, debug)
  SOCK_RPC(ImageStatus, debug)
  SOCK_RPC(RemoveImage, info)
  SOCK_RPC(ImageFsInfo, debug)
  SOCK_STREAM_RPC(StreamImages, ListImages, images, images)
  grpc::Status PullImage(grpc::ServerContext* context, const api::PullImageRequest* request,
                         api::PullImageResponse* response) override {
    return Serve("PullImage", spdlog::level::info, *request, response, [&] {
      return cri_->PullImage(
          *request, [context] { return context->IsCancelled(); }, response);
    });
  }

 private:
  Cri* const cri_;
};

class GrpcServer final : public Server {
 public:
  GrpcServer(std::string path, Cri* cri) : path_(std::move(path)), runtime_(cri), images_(cri) {}
  ~GrpcServer() override { Stop(0); }

  absl::Status Listen() {
    unlink(path_.c_str());
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(kMaxMessage);
    builder.SetMaxSendMessageSize(kMaxMessage);
    // Threads that have served wait for the next call; by default all but two of them end and are made again.
    builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MIN_POLLERS, 2);
    builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MAX_POLLERS, 16);
    builder.RegisterService(&runtime_);
    builder.RegisterService(&images_);
    builder.AddListeningPort("unix:" + path_, grpc::InsecureServerCredentials());
    // Nobody else may connect between bind and chmod.
    const mode_t old = umask(0117);
    server_ = builder.BuildAndStart();
    umask(old);
    if (!server_) return absl::UnavailableError(Cat("listen on `", path_, "` failed"));
    if (chmod(path_.c_str(), 0660) != 0) return ErrnoStatus(errno, Cat("chmod `", path_, "`"));
    return absl::OkStatus();
  }

  void Stop(int grace_ms) override {
    if (!server_) return;
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(grace_ms));
    server_->Wait();
    server_.reset();
    unlink(path_.c_str());
  }

 private:
  const std::string path_;
  RuntimeService runtime_;
  ImageService images_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const std::string& path, Cri* cri) {
  // sockaddr_un(7): 108 bytes with the final zero.
  if (path.empty() || path[0] != '/' || path.size() > 107) {
    return absl::InvalidArgumentError(Cat("listen path `", path, "` is not absolute or over 107 bytes"));
  }
  RETURN_IF_ERROR(MakeDirs(path.substr(0, path.rfind('/')), 0711));
  auto server = std::make_unique<GrpcServer>(path, cri);
  RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace sock::cri
