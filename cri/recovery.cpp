#include <filesystem>
#include <set>

#include "cri/convert.h"
#include "cri/cri.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::cri {

absl::Status Cri::Recover(std::vector<std::string>& warnings) {
  auto warn = [&](const std::string& what, const absl::Status& status) {
    if (!status.ok()) warnings.push_back(Cat(what, ": ", status.message()));
  };
  RETURN_IF_ERROR(sandboxes_.Load(warnings));
  RETURN_IF_ERROR(containers_.Load(warnings));

  sock::runtime::Runtime::Known known;
  for (const SandboxPtr& sandbox : sandboxes_.List()) {
    auto record = sandbox->Get();
    if (record->stopped_at) continue;
    auto spec = ToSandboxSpec(record->id, record->config);
    if (!spec.ok()) {
      warn(Cat("recover sandbox `", record->id, "`"), spec.status());
      sandbox->Update([](SandboxRecord& r) { r.stopped_at = NowNs(); }, true).IgnoreError();
      continue;
    }
    known.sandboxes.push_back({*std::move(spec), record->info});
  }
  for (const ContainerPtr& container : containers_.List()) {
    auto record = container->Get();
    if (!sandboxes_.Find(record->sandbox_id).ok()) {
      warn(Cat("forget container `", record->id, "` of no sandbox"), containers_.Remove(record->id));
      continue;
    }
    known.containers.push_back({record->id, record->sandbox_id, record->cgroup_path, record->log_path});
  }

  ASSIGN_OR_RETURN(auto states, runtime_->Recover(known));
  for (const ContainerPtr& container : containers_.List()) {
    if (container->Get()->finished_at) continue;
    sock::runtime::ContainerState state = states[container->id];
    switch (state.state) {
      case sock::runtime::ProcessState::kCreated:
        break;
      case sock::runtime::ProcessState::kRunning:
        // The daemon ended between GO and its record.
        if (!container->Get()->started_at) {
          warn(Cat("record container `", container->id, "`"),
               container->Update([](ContainerRecord& r) { r.started_at = NowNs(); }, true));
        }
        break;
      case sock::runtime::ProcessState::kExited:
      case sock::runtime::ProcessState::kGone:
        warn(Cat("record exit of `", container->id, "`"),
             RecordExit(*container,
                        ExitOrUnknown(state, "it ended while nothing watched it, and how is not known")));
        break;
    }
  }

  // What an interrupted creation or removal left.
  for (const std::string& id : images_->ListSnapshots()) {
    // An image volume's begins with the container's id (snapshots.h).
    if (!containers_.Find(id.substr(0, id.find('.'))).ok())
      warn(Cat("remove snapshot `", id, "`"), images_->RemoveSnapshot(id));
  }
  std::vector<std::string> orphans;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(state_dir_ + "/sandbox-files", error);
       !error && it != end(it); it.increment(error)) {
    std::string id = it->path().filename().string();
    if (!sandboxes_.Find(id).ok()) orphans.push_back(id);
  }
  for (const std::string& id : orphans)
    warn(Cat("remove files of sandbox `", id, "`"), RemoveSandboxFiles(id));
  return absl::OkStatus();
}

}  // namespace sock::cri
