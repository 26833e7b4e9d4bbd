#include "oci/transport.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

using Json = nlohmann::json;
using Cancelled = std::function<bool()>;

constexpr size_t kMaxErrorBody = 16 << 10;
constexpr int kMaxRedirects = 10;

bool AskCancelled(const Cancelled& cancelled) { return cancelled && cancelled(); }

size_t OnHeader(char* data, size_t size, size_t count, void* user) {
  auto& x = *static_cast<Exchange*>(user);
  std::string_view line(data, size * count);
  if (line.starts_with("HTTP/")) {
    x.challenges.clear();
    x.content_range = x.docker_digest = "";
  }
  size_t colon = line.find(':');
  if (colon == std::string_view::npos) return size * count;
  std::string name = LowerCase(line.substr(0, colon));
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.front()))) value.remove_prefix(1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.back()))) value.remove_suffix(1);
  if (name == "www-authenticate") {
    for (Challenge& each : ParseChallenges(value)) x.challenges.push_back(std::move(each));
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

std::string UrlPart(const std::string& url, std::initializer_list<CURLUPart> parts) {
  std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parsed(curl_url(), curl_url_cleanup);
  if (!parsed || curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return "";
  std::string out;
  for (CURLUPart which : parts) {
    char* text = nullptr;
    if (which == CURLUPART_HOST && !out.empty()) out += "//";
    if (curl_url_get(parsed.get(), which, &text, CURLU_DEFAULT_PORT) == CURLUE_OK) out += Cat(text, ":");
    curl_free(text);
  }
  if (!out.empty()) out.pop_back();
  return LowerCase(out);
}

std::string HostName(const std::string& url) { return UrlPart(url, {CURLUPART_HOST}); }

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

bool Unreachable(CURLcode code) {
  return code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
         code == CURLE_COULDNT_RESOLVE_PROXY;
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
      return {absl::UnavailableError(text), true, false, std::chrono::seconds(after)};
    default:
      return {absl::UnavailableError(text), x.code >= 500 && x.code != 501, false,
              std::chrono::seconds(after)};
  }
}

}  // namespace

std::string LowerCase(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

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

std::string Origin(const std::string& url) {
  return UrlPart(url, {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT});
}

std::string Escape(const std::string& text) {
  char* escaped = curl_easy_escape(nullptr, text.c_str(), static_cast<int>(text.size()));
  std::string out = escaped ? escaped : "";
  curl_free(escaped);
  return out;
}

Outcome Perform(Exchange& x, const RegistryTimes& times) {
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
    const bool home = x.host && Origin(url) == Origin(x.host->url);
    if (home)
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
    if (x.host) {
      if (x.host->skip_verify && HostName(url) == HostName(x.host->url)) {
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
      if (home && !x.host->client_cert.empty()) {
        set(CURLOPT_SSLCERT, x.host->client_cert.c_str());
        set(CURLOPT_SSLKEY, (x.host->client_key.empty() ? x.host->client_cert : x.host->client_key).c_str());
      }
    }
    CURLcode result = curl_easy_perform(curl.get());
    if (x.was_cancelled) return {absl::CancelledError("the pull was cancelled")};
    if (!x.sink_status.ok()) return {x.sink_status};
    if (result != CURLE_OK)
      return {absl::UnavailableError(Cat("GET `", x.url, "`: ", curl_easy_strerror(result))),
              WorthRetrying(result), Unreachable(result)};
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

}  // namespace sock::oci
