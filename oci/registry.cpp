#include "oci/registry.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <condition_variable>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "absl/strings/escaping.h"
#include "oci/digest.h"
#include "oci/hosts.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

using Json = nlohmann::json;
using Cancelled = std::function<bool()>;
using Sink = std::function<absl::Status(std::string_view)>;

constexpr size_t kMaxManifest = 4 << 20, kMaxToken = 1 << 20, kMaxErrorBody = 16 << 10;
constexpr int kMaxRedirects = 10, kAttempts = 5, kMirrorAttempts = 2, kMaxResumes = 100;
constexpr const char* kManifestTypes =
    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json";

struct Challenge {
  std::string scheme;  // lower case
  std::map<std::string, std::string> params;
};

std::string LowerCase(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

// RFC 9110, 11.6.1: challenges in one WWW-Authenticate value.
std::vector<Challenge> ParseChallenges(std::string_view text) {
  std::vector<Challenge> out;
  size_t i = 0;
  auto skip = [&](std::string_view set) {
    while (i < text.size() && set.find(text[i]) != std::string_view::npos) ++i;
  };
  while (true) {
    skip(" \t,");
    size_t start = i;
    while (i < text.size() && std::string_view(" \t,=\"").find(text[i]) == std::string_view::npos) ++i;
    if (i == start) return out;  // the end, or not the grammar
    std::string word = LowerCase(text.substr(start, i - start));
    skip(" \t");
    if (i >= text.size() || text[i] != '=' || out.empty()) {
      out.push_back({word, {}});
      continue;
    }
    ++i;
    skip(" \t");
    std::string value;
    if (i < text.size() && text[i] == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) {
        if (text[i] == '\\' && i + 1 < text.size()) ++i;
        value += text[i];
      }
      if (i < text.size()) ++i;
    } else {
      while (i < text.size() && text[i] != ',' && text[i] != ' ') value += text[i++];
    }
    out.back().params[word] = value;
  }
}

struct Outcome {
  absl::Status status;
  bool retry = false;
  std::chrono::seconds after{0};  // the server's Retry-After
};

// One request with its redirects, and its answer.
struct Exchange {
  std::string url, authorization, form;
  std::vector<std::string> headers;
  const RegistryHost* host = nullptr;
  Sink body;  // gets the body of a 2xx answer
  const Cancelled* cancelled = nullptr;

  CURL* curl = nullptr;
  long code = 0;
  bool redirected = false;
  std::vector<Challenge> challenges;
  std::string content_type, content_range, docker_digest, error_body;
  absl::Status sink_status;
  bool was_cancelled = false;
};

bool AskCancelled(const Cancelled& cancelled) { return cancelled && cancelled(); }

size_t OnHeader(char* data, size_t size, size_t count, void* user) {
  auto& x = *static_cast<Exchange*>(user);
  std::string_view line(data, size * count);
  if (line.starts_with("HTTP/")) {
    x.challenges.clear();
    x.content_type = x.content_range = x.docker_digest = "";
  }
  size_t colon = line.find(':');
  if (colon == std::string_view::npos) return size * count;
  std::string name = LowerCase(line.substr(0, colon));
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.front()))) value.remove_prefix(1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.back()))) value.remove_suffix(1);
  if (name == "www-authenticate") {
    for (Challenge& each : ParseChallenges(value)) x.challenges.push_back(std::move(each));
  } else if (name == "content-type") {
    x.content_type = LowerCase(value.substr(0, value.find_first_of("; ")));
  } else if (name == "content-range") {
    x.content_range = std::string(value);
  } else if (name == "docker-content-digest") {
    x.docker_digest = std::string(value);
  }
  return size * count;
}

size_t OnBody(char* data, size_t size, size_t count, void* user) {
  auto& x = *static_cast<Exchange*>(user);
  std::string_view bytes(data, size * count);
  curl_easy_getinfo(x.curl, CURLINFO_RESPONSE_CODE, &x.code);
  if (x.code < 200 || x.code > 299) {
    x.error_body.append(bytes.substr(0, kMaxErrorBody - std::min(kMaxErrorBody, x.error_body.size())));
    return bytes.size();
  }
  x.sink_status = x.body(bytes);
  return x.sink_status.ok() ? bytes.size() : CURL_WRITEFUNC_ERROR;
}

int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& x = *static_cast<Exchange*>(user);
  x.was_cancelled = AskCancelled(*x.cancelled);
  return x.was_cancelled ? 1 : 0;
}

// "https://host:443"; empty if it is not a URL.
std::string Origin(const std::string& url) {
  std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parsed(curl_url(), curl_url_cleanup);
  if (!parsed || curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return "";
  auto part = [&](CURLUPart which) {
    char* text = nullptr;
    std::string out;
    if (curl_url_get(parsed.get(), which, &text, CURLU_DEFAULT_PORT) == CURLUE_OK) out = text;
    curl_free(text);
    return out;
  };
  return LowerCase(Cat(part(CURLUPART_SCHEME), "://", part(CURLUPART_HOST), ":", part(CURLUPART_PORT)));
}

std::string Escape(const std::string& text) {
  char* escaped = curl_easy_escape(nullptr, text.c_str(), static_cast<int>(text.size()));
  std::string out = escaped ? escaped : "";
  curl_free(escaped);
  return out;
}

absl::StatusOr<std::string> ReadCas(const std::vector<std::string>& files) {
  std::string all;
  std::vector<std::string> paths = files;
  if (const char* system = curl_version_info(CURLVERSION_NOW)->cainfo) paths.push_back(system);
  for (size_t i = 0; i < paths.size(); ++i) {
    std::ifstream stream(paths[i]);
    std::stringstream text;
    text << stream.rdbuf();
    if (!stream.is_open() && i < files.size()) {
      return absl::InvalidArgumentError(Cat("ca file `", paths[i], "`: cannot be read"));
    }
    all += text.str() + "\n";
  }
  return all;
}

bool WorthRetrying(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
      return true;
    default:
      return false;
  }
}

// What the server says in its error document, on one line.
std::string Explanation(const std::string& body) {
  Json json = Json::parse(body, nullptr, false);
  std::string out;
  if (json.is_object() && json.contains("errors") && json["errors"].is_array() && !json["errors"].empty()) {
    const Json& first = json["errors"][0];
    for (const char* key : {"code", "message"}) {
      if (first.is_object() && first.contains(key) && first[key].is_string()) {
        out += (out.empty() ? "" : ": ") + first[key].get<std::string>();
      }
    }
  } else if (json.is_object() && json.contains("details") && json["details"].is_string()) {
    out = json["details"].get<std::string>();
  }
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  if (out.size() > 512) out.resize(512);
  return out.empty() ? out : ": " + out;
}

Outcome AnswerOutcome(const Exchange& x) {
  if (x.code >= 200 && x.code <= 299) return {absl::OkStatus()};
  std::string text = Cat("HTTP status ", x.code, Explanation(x.error_body));
  curl_off_t after = 0;
  curl_easy_getinfo(x.curl, CURLINFO_RETRY_AFTER, &after);
  switch (x.code) {
    case 401:
      return {absl::UnauthenticatedError(text)};
    case 403:
      return {absl::PermissionDeniedError(text)};
    case 404:
    case 410:
      return {absl::NotFoundError(text)};
    case 408:
    case 429:
      return {absl::UnavailableError(text), true, std::chrono::seconds(after)};
    default:
      return {absl::UnavailableError(text), x.code >= 500 && x.code != 501, std::chrono::seconds(after)};
  }
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

// The credentials if they are meant for `url`, a server of `registry`; none otherwise.
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

// Waits `time`, in slices, so that a cancelled pull ends soon. False: it was cancelled.
bool Pause(std::chrono::milliseconds time, const Cancelled& cancelled) {
  auto end = std::chrono::steady_clock::now() + time;
  std::mutex mutex;
  std::condition_variable never;
  std::unique_lock lock(mutex);
  while (std::chrono::steady_clock::now() < end) {
    if (AskCancelled(cancelled)) return false;
    never.wait_until(lock, std::min(end, std::chrono::steady_clock::now() + std::chrono::milliseconds(200)));
  }
  return true;
}

}  // namespace

struct RegistryClient::Impl {
  std::string certs_dir;
  RegistryTimes times;
  std::mutex mutex;
  std::map<std::string, std::string> tokens;  // guarded by mutex; by server, repository and user

  // Carries out one request, redirects followed by hand: what is secret goes to the first origin only.
  Outcome Perform(Exchange& x);
  // The value of an Authorization header that answers the challenges; empty: nothing can.
  // `failed` gets the token server's Outcome if it is why there is none.
  absl::StatusOr<std::string> Authorize(const Exchange& x, const Reference& reference,
                                        const Credentials& credentials, Outcome& failed);
  // A request with authorization, tried anew while that may help.
  Outcome Ask(Exchange& x, const Reference& reference, const Credentials& credentials);
  std::string TokenKey(const RegistryHost& host, const Reference& reference, const Credentials& credentials) {
    return Cat(host.url, " ", reference.repository, " ", Sha(credentials));
  }
  static std::string Sha(const Credentials& c) {
    Sha256Hash hash;
    for (const std::string* text :
         {&c.username, &c.password, &c.auth, &c.identity_token, &c.registry_token}) {
      hash.Update(text->data(), text->size());
      hash.Update("", 1);
    }
    return hash.Digest();
  }
};

Outcome RegistryClient::Impl::Perform(Exchange& x) {
  std::string url = x.url;
  const std::string first_origin = Origin(url);
  for (int redirects = 0;; ++redirects) {
    std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
    if (!curl) return {absl::ResourceExhaustedError("make a curl handle")};
    x.curl = curl.get();
    x.code = 0;
    x.error_body.clear();
    x.sink_status = absl::OkStatus();
    const bool same = Origin(url) == first_origin;
    curl_slist* list = nullptr;
    auto add = [&](const std::string& header) { list = curl_slist_append(list, header.c_str()); };
    for (const std::string& header : x.headers) add(header);
    if (same && !x.authorization.empty()) add("Authorization: " + x.authorization);
    if (same && x.host)
      for (const std::string& header : x.host->headers) add(header);
    std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(list, curl_slist_free_all);
    auto set = [&](CURLoption option, auto value) { curl_easy_setopt(curl.get(), option, value); };
    set(CURLOPT_URL, url.c_str());
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_PROTOCOLS_STR, url.starts_with("http:") ? "http,https" : "https");
    set(CURLOPT_USERAGENT, "cri-sock/" CRI_SOCK_VERSION);
    set(CURLOPT_HTTPHEADER, headers.get());
    set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(times.connect.count()));
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(times.stall.count()));
    set(CURLOPT_HEADERFUNCTION, OnHeader);
    set(CURLOPT_HEADERDATA, &x);
    set(CURLOPT_WRITEFUNCTION, OnBody);
    set(CURLOPT_WRITEDATA, &x);
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, OnProgress);
    set(CURLOPT_XFERINFODATA, &x);
    if (!x.form.empty() && redirects == 0) set(CURLOPT_POSTFIELDS, x.form.c_str());
    std::string ca;
    if (same && x.host) {
      if (x.host->skip_verify) {
        set(CURLOPT_SSL_VERIFYPEER, 0L);
        set(CURLOPT_SSL_VERIFYHOST, 0L);
      }
      if (!x.host->ca.empty()) {
        absl::StatusOr<std::string> all = ReadCas(x.host->ca);
        if (!all.ok()) return {all.status()};
        ca = *std::move(all);
        curl_blob blob{ca.data(), ca.size(), CURL_BLOB_NOCOPY};
        curl_easy_setopt(curl.get(), CURLOPT_CAINFO_BLOB, &blob);
      }
      if (!x.host->client_cert.empty()) {
        set(CURLOPT_SSLCERT, x.host->client_cert.c_str());
        set(CURLOPT_SSLKEY, (x.host->client_key.empty() ? x.host->client_cert : x.host->client_key).c_str());
      }
    }
    CURLcode result = curl_easy_perform(curl.get());
    if (x.was_cancelled) return {absl::CancelledError("the pull was cancelled")};
    if (!x.sink_status.ok()) return {x.sink_status};
    if (result != CURLE_OK)
      return {absl::UnavailableError(Cat("GET `", x.url, "`: ", curl_easy_strerror(result))),
              WorthRetrying(result)};
    curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &x.code);
    char* next = nullptr;
    curl_easy_getinfo(curl.get(), CURLINFO_REDIRECT_URL, &next);
    if (x.code < 300 || x.code > 399 || next == nullptr) return AnswerOutcome(x);
    if (redirects >= kMaxRedirects)
      return {absl::UnavailableError(Cat("GET `", x.url, "`: too many redirects"))};
    url = next;
    x.redirected = true;
  }
}

absl::StatusOr<std::string> RegistryClient::Impl::Authorize(const Exchange& x, const Reference& reference,
                                                            const Credentials& credentials, Outcome& failed) {
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
    // A token server at the registry's own origin is trusted by the same certificates.
    if (Origin(realm) == Origin(x.url)) ask.host = x.host;
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
    Outcome outcome = Perform(ask);
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

Outcome RegistryClient::Impl::Ask(Exchange& x, const Reference& reference, const Credentials& credentials) {
  const std::string key = TokenKey(*x.host, reference, credentials);
  {
    std::lock_guard lock(mutex);
    if (auto found = tokens.find(key); found != tokens.end()) x.authorization = found->second;
  }
  for (int round = 0;; ++round) {
    Outcome outcome = Perform(x);
    if (x.code != 401 || x.redirected || round > 0) return outcome;
    Outcome failed;
    absl::StatusOr<std::string> answer = Authorize(x, reference, credentials, failed);
    if (!answer.ok()) return {answer.status(), failed.retry, failed.after};
    if (answer->empty()) return outcome;
    x.authorization = *answer;
    std::lock_guard lock(mutex);
    if (tokens.size() > 1000) tokens.clear();
    tokens[key] = *answer;
  }
}

RegistryClient::RegistryClient(std::string certs_dir, RegistryTimes times) : impl_(std::make_unique<Impl>()) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  impl_->certs_dir = std::move(certs_dir);
  impl_->times = times;
}

RegistryClient::~RegistryClient() = default;

absl::StatusOr<FetchedManifest> RegistryClient::FetchManifest(const Reference& reference,
                                                              const std::string& tag_or_digest,
                                                              const Credentials& credentials,
                                                              const std::function<bool()>& cancelled) {
  if (!IsDigest(tag_or_digest) && !IsTag(tag_or_digest))
    return absl::InvalidArgumentError(Cat("`", tag_or_digest, "` is neither a tag nor a digest"));
  ASSIGN_OR_RETURN(std::vector<RegistryHost> hosts, ResolveHosts(impl_->certs_dir, reference.host));
  absl::Status last = absl::UnavailableError(Cat("no server is configured for `", reference.host, "`"));
  for (const RegistryHost& host : hosts) {
    if (IsDigest(tag_or_digest) ? !host.pull : !host.resolve) continue;
    Credentials meant = MeantFor(credentials, host.url, reference.host, host.mirror);
    auto back_off = impl_->times.back_off;
    for (int attempt = 0; attempt < (host.mirror ? kMirrorAttempts : kAttempts); ++attempt) {
      FetchedManifest fetched;
      Exchange x;
      x.host = &host;
      x.cancelled = &cancelled;
      x.url = Cat(host.url, "/", reference.repository, "/manifests/", tag_or_digest,
                  host.mirror ? "?ns=" + Escape(reference.host) : "");
      x.headers = {kManifestTypes};
      x.body = [&](std::string_view bytes) {
        fetched.bytes += bytes;
        return fetched.bytes.size() > kMaxManifest ? absl::ResourceExhaustedError("a manifest is over 4 MiB")
                                                   : absl::OkStatus();
      };
      Outcome outcome = impl_->Ask(x, reference, meant);
      if (outcome.status.ok()) {
        Sha256Hash hash;
        hash.Update(fetched.bytes.data(), fetched.bytes.size());
        fetched.digest = hash.Digest();
        fetched.media_type = x.content_type;
        std::string promised = IsDigest(tag_or_digest) ? tag_or_digest : x.docker_digest;
        if (!promised.empty() && promised.starts_with("sha256:") && promised != fetched.digest)
          return absl::DataLossError(
              Cat("the manifest's digest is `", fetched.digest, "`, not `", promised, "`"));
        return fetched;
      }
      last =
          Annotate(outcome.status, Cat("fetch manifest `", tag_or_digest, "` of `", reference.Name(), "`"));
      if (absl::IsCancelled(last)) return last;
      if (!outcome.retry) break;
      auto wait = std::max<std::chrono::milliseconds>(
          back_off, std::min<std::chrono::milliseconds>(outcome.after, impl_->times.longest));
      if (!Pause(wait, cancelled)) return absl::CancelledError("the pull was cancelled");
      back_off = std::min(back_off * 2, impl_->times.back_off * 16);
    }
  }
  return last;
}

absl::Status RegistryClient::FetchBlob(const Reference& reference, const std::string& digest, uint64_t size,
                                       const Credentials& credentials, const Sink& sink,
                                       const std::function<bool()>& cancelled) {
  if (!IsDigest(digest)) return absl::InvalidArgumentError(Cat("`", digest, "` is not a digest"));
  ASSIGN_OR_RETURN(std::vector<RegistryHost> hosts, ResolveHosts(impl_->certs_dir, reference.host));
  absl::Status last = absl::UnavailableError(Cat("no server is configured for `", reference.host, "`"));
  Sha256Hash hash;
  uint64_t taken = 0;  // bytes that the sink has
  int resumes = 0;
  for (const RegistryHost& host : hosts) {
    if (!host.pull) continue;
    Credentials meant = MeantFor(credentials, host.url, reference.host, host.mirror);
    auto back_off = impl_->times.back_off;
    for (int attempt = 0; attempt < (host.mirror ? kMirrorAttempts : kAttempts);) {
      const uint64_t before = taken;
      uint64_t position = 0;
      bool placed = false;
      Exchange x;
      x.host = &host;
      x.cancelled = &cancelled;
      x.url = Cat(host.url, "/", reference.repository, "/blobs/", digest,
                  host.mirror ? "?ns=" + Escape(reference.host) : "");
      if (taken > 0) x.headers.push_back(Cat("Range: bytes=", taken, "-"));
      x.body = [&](std::string_view bytes) -> absl::Status {
        if (!placed) {
          // A server that ignores Range sends all of it anew: what is there already is passed over.
          if (x.code == 206) {
            if (!x.content_range.starts_with(Cat("bytes ", before, "-")))
              return absl::DataLossError(Cat("blob `", digest, "`: the server sent another range"));
            position = before;
          }
          placed = true;
        }
        if (position < taken) {
          uint64_t skip = std::min<uint64_t>(taken - position, bytes.size());
          position += skip;
          bytes.remove_prefix(skip);
        }
        if (bytes.empty()) return absl::OkStatus();
        if (taken + bytes.size() > size)
          return absl::DataLossError(Cat("blob `", digest, "` is larger than the ", size, " bytes promised"));
        RETURN_IF_ERROR(sink(bytes));
        hash.Update(bytes.data(), bytes.size());
        taken += bytes.size();
        position += bytes.size();
        return absl::OkStatus();
      };
      Outcome outcome = impl_->Ask(x, reference, meant);
      // Cut off after the last byte: there is nothing left to ask for.
      const bool whole = size > 0 && taken == size && outcome.retry;
      if (outcome.status.ok() || whole) {
        std::string got = hash.Digest();
        if (taken != size)
          return absl::DataLossError(
              Cat("blob `", digest, "` has ", taken, " bytes, not the ", size, " promised"));
        if (got != digest) return absl::DataLossError(Cat("blob `", digest, "` has digest `", got, "`"));
        return absl::OkStatus();
      }
      if (!x.sink_status.ok()) return outcome.status;
      last = Annotate(outcome.status, Cat("fetch blob `", digest, "` of `", reference.Name(), "`"));
      if (absl::IsCancelled(last)) return last;
      if (!outcome.retry) break;
      // What brings the blob forward is no failed attempt, as long as it ends some day.
      if (taken > before && ++resumes < kMaxResumes) {
        back_off = impl_->times.back_off;
      } else {
        ++attempt;
      }
      auto wait = std::max<std::chrono::milliseconds>(
          back_off, std::min<std::chrono::milliseconds>(outcome.after, impl_->times.longest));
      if (!Pause(wait, cancelled)) return absl::CancelledError("the pull was cancelled");
      back_off = std::min(back_off * 2, impl_->times.back_off * 16);
    }
  }
  return last;
}

}  // namespace sock::oci
