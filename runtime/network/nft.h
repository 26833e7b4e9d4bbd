// nftables through libnftables(3), in nft(8)'s language.
#pragma once

#include <nftables/libnftables.h>

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"

namespace sock::runtime {

class Nft {
 public:
  // Runs all of `commands` in one transaction: all of them take place or none. For many threads.
  // ALREADY_EXISTS where the kernel says so, else FAILED_PRECONDITION with nft's own message.
  absl::Status Run(const std::string& commands);

 private:
  struct Free {
    void operator()(nft_ctx* context) const { nft_ctx_free(context); }
  };
  std::mutex mutex_;
  std::unique_ptr<nft_ctx, Free> context_;
};

}  // namespace sock::runtime
