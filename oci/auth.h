// Who we are to a registry: basic authorization, or a token of the server that it names (the distribution
// project's token protocol).
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "oci/transport.h"

namespace sock::oci {

// The credentials if they are meant for `url`, a server of `registry`; none otherwise.
Credentials MeantFor(const Credentials& credentials, const std::string& url, const std::string& registry,
                     bool mirror);

// Thread-safe. Keeps what opened a repository for a user.
class Authenticator {
 public:
  // A request of x.host; when it is answered with 401, once more with authorization.
  Outcome Ask(Exchange& x, const Reference& reference, const Credentials& credentials,
              const RegistryTimes& times);

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> tokens_;  // guarded by mutex_; by server, repository and user
};

}  // namespace sock::oci
