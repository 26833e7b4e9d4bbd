#include <algorithm>
#include <csignal>
#include <shared_mutex>

#include "cri/cri.h"
#include "cri/snapshots.h"
#include "runtime/base/text.h"

namespace sock::cri {

absl::Status Cri::RecordExit(Container& container, const sock::runtime::ExitInfo& exit) {
  bool first = false;
  absl::Status status = container.Update(
      [&](ContainerRecord& r) {
        if (r.finished_at) return;
        first = true;
        r.finished_at =
            std::chrono::duration_cast<std::chrono::nanoseconds>(exit.finished_at.time_since_epoch()).count();
        if (r.finished_at <= 0) r.finished_at = NowNs();
        r.exit_code = exit.exit_code;
        r.reason = !exit.reason.empty() ? exit.reason : exit.exit_code == 0 ? "Completed" : "Error";
        r.message = exit.message;
      },
      true);
  if (first) Emit(api::CONTAINER_STOPPED_EVENT, container.id, container.Get()->sandbox_id);
  return status;
}

void Cri::OnExit(const std::string& id, const sock::runtime::ExitInfo& exit) {
  {
    std::shared_lock lock(exits_mutex_);
    if (zygote::Zygotes* zygotes = zygotes_; zygotes != nullptr && zygotes->OnExit(id)) return;
  }
  auto found = containers_.Find(id);
  if (found.ok()) RecordExit(**found, exit).IgnoreError();
}

sock::runtime::ExitInfo ExitOrUnknown(const sock::runtime::ContainerState& state, const char* unknown) {
  if (state.exit) return *state.exit;
  sock::runtime::ExitInfo exit;
  exit.exit_code = 255;
  exit.reason = "Unknown";
  exit.message = unknown;
  exit.finished_at = std::chrono::system_clock::now();
  return exit;
}

absl::Status Cri::EndContainer(Container& container, int signal, std::chrono::milliseconds grace) {
  RETURN_IF_ERROR(runtime_->StopContainer(container.id, signal, grace));
  if (container.Get()->finished_at) return absl::OkStatus();
  return RecordExit(container,
                    ExitOrUnknown(runtime_->State(container.id), "it is gone and how it ended is not known"));
}

absl::Status Cri::StopContainer(const api::StopContainerRequest& request, api::StopContainerResponse*) {
  auto found = containers_.Find(request.container_id());
  if (absl::IsNotFound(found.status())) return absl::OkStatus();
  RETURN_IF_ERROR(found.status());
  auto record = (*found)->Get();
  if (record->finished_at) return absl::OkStatus();
  // Seconds; the runtime counts milliseconds. No operation lock: a second stop with a shorter grace does not
  // wait for the first.
  const int64_t seconds = std::clamp<int64_t>(request.timeout(), 0, 365ll * 24 * 3600);
  return EndContainer(**found, record->stop_signal ? record->stop_signal : SIGTERM,
                      std::chrono::seconds(seconds));
}

absl::Status Cri::RemoveContainerLocked(Container& container) {
  if (!container.Get()->finished_at) {
    RETURN_IF_ERROR(EndContainer(container, SIGKILL, std::chrono::milliseconds(0)));
  }
  RETURN_IF_ERROR(runtime_->RemoveContainer(container.id));
  RETURN_IF_ERROR(RemoveSnapshots(*images_, container.id, container.Get()->config));
  RETURN_IF_ERROR(containers_.Remove(container.id));
  Emit(api::CONTAINER_DELETED_EVENT, container.id, container.Get()->sandbox_id);
  return absl::OkStatus();
}

absl::Status Cri::RemoveContainer(const api::RemoveContainerRequest& request, api::RemoveContainerResponse*) {
  auto found = containers_.Find(request.container_id());
  if (absl::IsNotFound(found.status())) return absl::OkStatus();
  RETURN_IF_ERROR(found.status());
  std::unique_lock op((*found)->op);
  return RemoveContainerLocked(**found);
}

}  // namespace sock::cri
