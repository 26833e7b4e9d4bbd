#include "cri/convert.h"
#include "cri/cri.h"
#include "runtime/base/text.h"

namespace sock::cri {

absl::Status Cri::StartContainer(const api::StartContainerRequest& request, api::StartContainerResponse*) {
  ASSIGN_OR_RETURN(ContainerPtr container, containers_.Find(request.container_id()));
  std::unique_lock op(container->op);
  auto record = container->Get();
  if (record->state() != api::CONTAINER_CREATED) {
    return absl::FailedPreconditionError(Cat("container `", record->id, "` is in state ",
                                             api::ContainerState_Name(record->state()), ", not created"));
  }
  ASSIGN_OR_RETURN(SandboxPtr sandbox, sandboxes_.Find(record->sandbox_id));
  if (sandbox->Get()->state() != api::SANDBOX_READY) {
    return absl::FailedPreconditionError(Cat("sandbox `", sandbox->id, "` is not ready"));
  }
  const int64_t now = NowNs();
  absl::Status started = runtime_->StartContainer(record->id);
  // Whether it runs can't be told now: the caller asks again.
  if (absl::IsUnavailable(started)) return started;
  if (!started.ok()) {
    // The program could not be run: the container has ended, and its status tells why.
    sock::runtime::ExitInfo exit;
    exit.exit_code = 128;
    exit.reason = "StartError";
    exit.message = std::string(started.message());
    exit.finished_at = std::chrono::system_clock::now();
    RecordExit(*container, exit).IgnoreError();
    return started;
  }
  RETURN_IF_ERROR(container->Update([&](ContainerRecord& r) { r.started_at = now; }, true));
  Emit(api::CONTAINER_STARTED_EVENT, container->id, record->sandbox_id);
  return absl::OkStatus();
}

absl::Status Cri::UpdateContainerResources(const api::UpdateContainerResourcesRequest& request,
                                           api::UpdateContainerResourcesResponse*) {
  ASSIGN_OR_RETURN(ContainerPtr container, containers_.Find(request.container_id()));
  std::unique_lock op(container->op);
  if (container->Get()->state() == api::CONTAINER_EXITED) {
    return absl::FailedPreconditionError(Cat("container `", container->id, "` has exited"));
  }
  ASSIGN_OR_RETURN(oci::Resources resources, ToResources(request.linux()));
  RETURN_IF_ERROR(runtime_->UpdateResources(container->id, resources));
  // What the request leaves out stays as it was.
  return container->Update(
      [&](ContainerRecord& r) {
        api::LinuxContainerResources* kept = r.config.mutable_linux()->mutable_resources();
        if (request.linux().hugepage_limits_size()) kept->clear_hugepage_limits();
        kept->MergeFrom(request.linux());
      },
      true);
}

absl::Status Cri::ReopenContainerLog(const api::ReopenContainerLogRequest& request,
                                     api::ReopenContainerLogResponse*) {
  ASSIGN_OR_RETURN(ContainerPtr container, containers_.Find(request.container_id()));
  if (container->Get()->state() != api::CONTAINER_RUNNING) {
    return absl::FailedPreconditionError(Cat("container `", container->id, "` is not running"));
  }
  return runtime_->ReopenLog(container->id);
}

}  // namespace sock::cri
