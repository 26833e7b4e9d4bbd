#include <algorithm>

#include "cri/cri.h"
#include "runtime/base/text.h"

namespace sock::cri {

absl::Status Cri::ExecSync(const api::ExecSyncRequest& request, api::ExecSyncResponse* response) {
  if (request.cmd().empty()) return absl::InvalidArgumentError("cmd is empty");
  if (request.timeout() < 0) return absl::InvalidArgumentError("timeout is negative");
  ASSIGN_OR_RETURN(ContainerPtr container, containers_.Find(request.container_id()));
  if (container->Get()->state() != api::CONTAINER_RUNNING) {
    return absl::FailedPreconditionError(Cat("container `", container->id, "` is not running"));
  }
  sock::runtime::ExecRequest exec;
  exec.args.assign(request.cmd().begin(), request.cmd().end());
  exec.timeout = std::chrono::seconds(std::min<int64_t>(request.timeout(), 365ll * 24 * 3600));
  // Both streams together stay below the largest gRPC message.
  exec.output_limit = (8 << 20) - (64 << 10);
  ASSIGN_OR_RETURN(sock::runtime::ExecResult result, runtime_->ExecSync(container->id, exec));
  response->set_exit_code(result.exit_code);
  response->set_stdout(std::move(result.out));
  response->set_stderr(std::move(result.err));
  return absl::OkStatus();
}

}  // namespace sock::cri
