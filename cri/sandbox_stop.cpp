#include <csignal>

#include "cri/convert.h"
#include "cri/cri.h"
#include "runtime/base/text.h"

namespace sock::cri {

std::vector<Cri::ContainerPtr> Cri::ContainersOf(const std::string& sandbox_id) const {
  std::vector<ContainerPtr> all;
  for (ContainerPtr& container : containers_.List()) {
    if (container->Get()->sandbox_id == sandbox_id) all.push_back(std::move(container));
  }
  return all;
}

absl::Status Cri::StopSandboxLocked(Sandbox& sandbox) {
  auto record = sandbox.Get();
  absl::Status first;
  for (const ContainerPtr& container : ContainersOf(sandbox.id)) {
    if (container->Get()->finished_at) continue;
    first.Update(EndContainer(*container, SIGKILL, std::chrono::milliseconds(0)));
  }
  RETURN_IF_ERROR(first);
  ASSIGN_OR_RETURN(sock::runtime::SandboxSpec spec, ToSandboxSpec(record->id, record->config));
  // Also where it is stopped already: a retry takes away what an earlier failure left.
  RETURN_IF_ERROR(runtime_->StopSandbox(spec, record->info));
  if (zygote::Zygotes* zygotes = zygotes_; zygotes != nullptr) zygotes->OnSandboxEnd(sandbox.id);
  if (record->stopped_at) return absl::OkStatus();
  RETURN_IF_ERROR(sandbox.Update([](SandboxRecord& r) { r.stopped_at = NowNs(); }));
  Emit(api::CONTAINER_STOPPED_EVENT, sandbox.id, sandbox.id);
  return absl::OkStatus();
}

absl::Status Cri::StopPodSandbox(const api::StopPodSandboxRequest& request, api::StopPodSandboxResponse*) {
  auto found = sandboxes_.Find(request.pod_sandbox_id());
  if (absl::IsNotFound(found.status())) return absl::OkStatus();
  RETURN_IF_ERROR(found.status());
  std::unique_lock op((*found)->op);
  return StopSandboxLocked(**found);
}

absl::Status Cri::RemovePodSandbox(const api::RemovePodSandboxRequest& request,
                                   api::RemovePodSandboxResponse*) {
  auto found = sandboxes_.Find(request.pod_sandbox_id());
  if (absl::IsNotFound(found.status())) return absl::OkStatus();
  RETURN_IF_ERROR(found.status());
  Sandbox& sandbox = **found;
  std::unique_lock op(sandbox.op);
  RETURN_IF_ERROR(StopSandboxLocked(sandbox));
  for (const ContainerPtr& container : ContainersOf(sandbox.id)) {
    std::unique_lock container_op(container->op);
    RETURN_IF_ERROR(RemoveContainerLocked(*container));
  }
  auto record = sandbox.Get();
  ASSIGN_OR_RETURN(sock::runtime::SandboxSpec spec, ToSandboxSpec(record->id, record->config));
  RETURN_IF_ERROR(runtime_->RemoveSandbox(spec, record->info));
  RETURN_IF_ERROR(RemoveSandboxFiles(sandbox.id));
  // Kubelet takes no event without the sandbox's status: the last one it had.
  const auto event = MakeEvent(api::CONTAINER_DELETED_EVENT, sandbox.id, sandbox.id);
  RETURN_IF_ERROR(sandboxes_.Remove(sandbox.id));
  events_.Publish(event);
  return absl::OkStatus();
}

}  // namespace sock::cri
