#include "runtime/network/nft.h"

#include "runtime/base/text.h"

namespace sock::runtime {

absl::Status Nft::Run(const std::string& commands) {
  std::lock_guard lock(mutex_);
  if (context_ == nullptr) {
    context_.reset(nft_ctx_new(NFT_CTX_DEFAULT));
    if (context_ == nullptr) return absl::InternalError("open nftables");
    nft_ctx_buffer_error(context_.get());
    nft_ctx_buffer_output(context_.get());
  }
  int failed = nft_run_cmd_from_buffer(context_.get(), commands.c_str());
  const char* text = nft_ctx_get_error_buffer(context_.get());
  std::string message = text == nullptr ? "" : text;
  nft_ctx_get_output_buffer(context_.get());  // empties it
  if (failed == 0) return absl::OkStatus();
  message = message.substr(0, message.find('\n'));
  if (message.find("File exists") != std::string::npos)
    return absl::AlreadyExistsError(Cat("nftables: ", message));
  if (message.find("No such file") != std::string::npos)
    return absl::NotFoundError(Cat("nftables: ", message));
  return absl::FailedPreconditionError(Cat("nftables: ", message));
}

}  // namespace sock::runtime
