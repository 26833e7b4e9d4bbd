#include "cri/events.h"

#include "cri/cri.h"

namespace sock::cri {

api::ContainerEventResponse Cri::MakeEvent(api::ContainerEventType type, const std::string& id,
                                           const std::string& sandbox_id) {
  api::ContainerEventResponse event;
  event.set_container_id(id);
  event.set_container_event_type(type);
  event.set_created_at(NowNs());
  api::PodSandboxStatusRequest pod;
  pod.set_pod_sandbox_id(sandbox_id);
  api::PodSandboxStatusResponse pod_status;
  if (PodSandboxStatus(pod, &pod_status).ok()) *event.mutable_pod_sandbox_status() = pod_status.status();
  for (const ContainerPtr& container : ContainersOf(sandbox_id)) {
    api::ContainerStatusRequest request;
    request.set_container_id(container->id);
    api::ContainerStatusResponse status;
    if (ContainerStatus(request, &status).ok()) *event.add_containers_statuses() = status.status();
  }
  return event;
}

void Cri::Emit(api::ContainerEventType type, const std::string& id, const std::string& sandbox_id) {
  if (events_.HasListeners()) events_.Publish(MakeEvent(type, id, sandbox_id));
}

}  // namespace sock::cri
