#include "oci/auth.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "oci/digest.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxToken = 1 << 20;

std::string TokenKey(const RegistryHost& host, const Reference& reference, const Credentials& c) {
  Sha256Hash hash;
  for (const std::string* text : {&c.username, &c.password, &c.auth, &c.identity_token, &c.registry_token}) {
    hash.Update(text->data(), text->size());
    hash.Update("", 1);
  }
  return Cat(host.url, " ", reference.repository, " ", hash.Digest());
}

// The user and password that `credentials` carry; both empty: none.
absl::StatusOr<std::pair<std::string, std::string>> UserPassword(const Credentials& credentials) {
  if (!credentials.username.empty() || !credentials.password.empty() || credentials.auth.empty()) {
    return std::make_pair(credentials.username, credentials.password);
  }
  std::string text;
  if (!absl::Base64Unescape(credentials.auth, &text)) {
    return absl::InvalidArgumentError("credentials: `auth` is not base64");
  }
  size_t colon = text.find(':');
  if (colon == std::string::npos) return absl::InvalidArgumentError("credentials: `auth` has no colon");
  std::string password = text.substr(colon + 1);
  while (!password.empty() && password.back() == '\0') password.pop_back();
  return std::make_pair(text.substr(0, colon), password);
}

// The value of an Authorization header that answers the challenges; empty: nothing can. `failed` gets the
// token server's Outcome if it is why there is none.
absl::StatusOr<std::string> Authorize(const Exchange& x, const Reference& reference,
                                      const Credentials& credentials, const RegistryTimes& times,
                                      Outcome& failed) {
  ASSIGN_OR_RETURN(auto user, UserPassword(credentials));
  std::string basic = user.first.empty() && user.second.empty()
                          ? ""
                          : "Basic " + absl::Base64Escape(Cat(user.first, ":", user.second));
  for (const Challenge& challenge : x.challenges) {
    if (challenge.scheme == "basic" && !basic.empty()) return basic;
    if (challenge.scheme != "bearer") continue;
    if (!credentials.registry_token.empty()) return "Bearer " + credentials.registry_token;
    auto param = [&](const char* name) {
      auto found = challenge.params.find(name);
      return found == challenge.params.end() ? std::string() : found->second;
    };
    std::string realm = param("realm"), scope = param("scope"), service = param("service");
    if (!realm.starts_with("https://") && !realm.starts_with("http://"))
      return absl::UnavailableError(Cat("registry `", reference.host, "` names no token server"));
    if (realm.starts_with("http://") && x.url.starts_with("https://"))
      return absl::UnavailableError(Cat("registry `", reference.host, "` names a token server without TLS"));
    if (scope.empty()) scope = Cat("repository:", reference.repository, ":pull");
    Exchange ask;
    std::string body;
    ask.cancelled = x.cancelled;
    ask.body = [&](std::string_view bytes) {
      body += bytes;
      return body.size() > kMaxToken ? absl::ResourceExhaustedError("a token is over 1 MiB")
                                     : absl::OkStatus();
    };
    ask.host = x.host;  // its certificates may be the registry's CA's
    if (!credentials.identity_token.empty()) {
      ask.url = realm;
      ask.form = Cat("grant_type=refresh_token&service=", Escape(service),
                     "&client_id=cri-sock&scope=", Escape(scope),
                     "&refresh_token=", Escape(credentials.identity_token));
    } else {
      ask.url = Cat(realm, realm.find('?') == std::string::npos ? "?" : "&", "service=", Escape(service),
                    "&scope=", Escape(scope));
      ask.authorization = basic;
    }
    Outcome outcome = Perform(ask, times);
    failed = outcome;
    if (!outcome.status.ok())
      return Annotate(outcome.status, Cat("ask for a token of `", reference.host, "`"));
    Json token = Json::parse(body, nullptr, false);
    for (const char* key : {"token", "access_token"})
      if (token.is_object() && token.contains(key) && token[key].is_string())
        return "Bearer " + token[key].get<std::string>();
    return absl::UnavailableError(Cat("the token server of `", reference.host, "` gave no token"));
  }
  return std::string();
}

}  // namespace

Credentials MeantFor(const Credentials& credentials, const std::string& url, const std::string& registry,
                     bool mirror) {
  auto host_of = [](std::string text) {
    if (size_t scheme = text.find("://"); scheme != std::string::npos) text.erase(0, scheme + 3);
    text = LowerCase(text.substr(0, text.find('/')));
    return text == "index.docker.io" || text == "registry-1.docker.io" ? std::string("docker.io") : text;
  };
  if (credentials.server_address.empty()) return credentials;
  std::string meant = host_of(credentials.server_address);
  if (meant == host_of(url) || (!mirror && meant == host_of(registry))) return credentials;
  return {};
}

Outcome Authenticator::Ask(Exchange& x, const Reference& reference, const Credentials& credentials,
                           const RegistryTimes& times) {
  const std::string key = TokenKey(*x.host, reference, credentials);
  {
    std::lock_guard lock(mutex_);
    if (auto found = tokens_.find(key); found != tokens_.end()) x.authorization = found->second;
  }
  for (int round = 0;; ++round) {
    Outcome outcome = Perform(x, times);
    if (x.code != 401 || x.redirected || round > 0) return outcome;
    Outcome failed;
    absl::StatusOr<std::string> answer = Authorize(x, reference, credentials, times, failed);
    if (!answer.ok()) return {answer.status(), failed.retry, failed.unreachable, failed.after};
    if (answer->empty()) return outcome;
    x.authorization = *answer;
    std::lock_guard lock(mutex_);
    if (tokens_.size() > 1000) tokens_.clear();
    tokens_[key] = *answer;
  }
}

}  // namespace sock::oci
