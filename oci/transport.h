// One HTTP request by libcurl, with its redirects; and what its answer means for whoever asks again.
#pragma once

#include <curl/curl.h>

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "oci/hosts.h"
#include "oci/registry.h"

namespace sock::oci {

struct Challenge {
  std::string scheme;  // lower case
  std::map<std::string, std::string> params;
};

// RFC 9110, 11.6.1: challenges in one WWW-Authenticate value. What is not the grammar ends the list.
std::vector<Challenge> ParseChallenges(std::string_view text);

struct Outcome {
  absl::Status status;
  bool retry = false;
  bool unreachable = false;       // nobody answers: no use in asking often
  std::chrono::seconds after{0};  // the server's Retry-After
};

// What to ask, and the answer to it.
struct Exchange {
  std::string url, authorization, form;
  std::vector<std::string> headers;
  const RegistryHost* host = nullptr;
  std::function<absl::Status(std::string_view)> body;  // gets the body of a 2xx answer
  const std::function<bool()>* cancelled = nullptr;

  CURL* curl = nullptr;
  long code = 0;
  bool redirected = false;
  std::vector<Challenge> challenges;
  std::string content_range, docker_digest, error_body;
  absl::Status sink_status;  // the error of `body`
  bool was_cancelled = false;
};

// Carries out one request. Redirects are followed by hand: Authorization goes to the URL's origin only, the
// host's headers and client certificate to the host's only. The host's CAs are trusted wherever it leads,
// since its own words lead there; `skip_verify` holds for its name on any port.
Outcome Perform(Exchange& x, const RegistryTimes& times);

// "https://host:443"; empty if it is not a URL.
std::string Origin(const std::string& url);
std::string Escape(const std::string& text);
std::string LowerCase(std::string_view text);

}  // namespace sock::oci
