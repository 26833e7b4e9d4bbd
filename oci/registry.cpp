#include "oci/registry.h"

#include <curl/curl.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "oci/auth.h"
#include "oci/digest.h"
#include "oci/hosts.h"
#include "oci/manifest.h"
#include "oci/transport.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

using Cancelled = std::function<bool()>;

constexpr size_t kMaxManifest = 4 << 20;
constexpr int kAttempts = 5, kMirrorAttempts = 2, kUnreachableAttempts = 3, kMaxResumes = 100;
constexpr const char* kManifestTypes =
    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json";

// Waits `time`, in slices, so that a cancelled pull ends soon. False: it was cancelled.
bool Pause(std::chrono::milliseconds time, const Cancelled& cancelled) {
  auto end = std::chrono::steady_clock::now() + time;
  std::mutex mutex;
  std::condition_variable never;
  std::unique_lock lock(mutex);
  while (std::chrono::steady_clock::now() < end) {
    if (cancelled && cancelled()) return false;
    never.wait_until(lock, std::min(end, std::chrono::steady_clock::now() + std::chrono::milliseconds(200)));
  }
  return true;
}

// When to ask one server again, and for how long to wait before.
class Attempts {
 public:
  Attempts(const RegistryHost& host, const RegistryTimes& times)
      : limit_(host.mirror ? kMirrorAttempts : kAttempts), times_(times), back_off_(times.back_off) {}

  // After a failed attempt: whether to go on, having waited. An attempt that brought something is none that
  // failed. CANCELLED: the wait was cancelled.
  absl::StatusOr<bool> Again(const Outcome& outcome, bool progress, const Cancelled& cancelled) {
    if (!outcome.retry) return false;
    if (progress && ++resumes_ < kMaxResumes) {
      back_off_ = times_.back_off;
    } else if (++failed_ >= (outcome.unreachable ? std::min(limit_, kUnreachableAttempts) : limit_)) {
      return false;
    }
    auto wait = std::max<std::chrono::milliseconds>(
        back_off_, std::min<std::chrono::milliseconds>(outcome.after, times_.longest));
    if (!Pause(wait, cancelled)) return absl::CancelledError("the pull was cancelled");
    back_off_ = std::min(back_off_ * 2, times_.back_off * 16);
    return true;
  }

 private:
  const int limit_;
  const RegistryTimes& times_;
  std::chrono::milliseconds back_off_;
  int failed_ = 0, resumes_ = 0;
};

std::string UrlOf(const RegistryHost& host, const Reference& reference, std::string_view kind,
                  const std::string& name) {
  return Cat(host.url, "/", reference.repository, "/", kind, "/", name,
             host.mirror ? "?ns=" + Escape(reference.host) : "");
}

std::string From(const RegistryHost& host) { return host.mirror ? Cat(" from `", host.url, "`") : ""; }

// A proxy's login page or a cut document is no manifest, whatever the status says.
absl::Status CheckManifest(const FetchedManifest& fetched, const std::string& promised) {
  if (promised.starts_with("sha256:") && promised != fetched.digest)
    return absl::DataLossError(Cat("its digest is `", fetched.digest, "`, not `", promised, "`"));
  absl::Status parsed =
      IsIndex(fetched.bytes) ? ParseIndex(fetched.bytes).status() : ParseManifest(fetched.bytes).status();
  return WithCode(parsed, absl::StatusCode::kDataLoss);
}

}  // namespace

struct RegistryClient::Impl {
  std::string certs_dir;
  RegistryTimes times;
  Authenticator authenticator;
};

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
                                                              const Cancelled& cancelled) {
  if (!IsDigest(tag_or_digest) && !IsTag(tag_or_digest))
    return absl::InvalidArgumentError(Cat("`", tag_or_digest, "` is neither a tag nor a digest"));
  ASSIGN_OR_RETURN(std::vector<RegistryHost> hosts, ResolveHosts(impl_->certs_dir, reference.host));
  absl::Status last = absl::UnavailableError(Cat("no server is configured for `", reference.host, "`"));
  for (const RegistryHost& host : hosts) {
    if (IsDigest(tag_or_digest) ? !host.pull : !host.resolve) continue;
    Credentials meant = MeantFor(credentials, host.url, reference.host, host.mirror);
    Attempts attempts(host, impl_->times);
    for (bool again = true; again;) {
      FetchedManifest fetched;
      Exchange x;
      x.host = &host;
      x.cancelled = &cancelled;
      x.url = UrlOf(host, reference, "manifests", tag_or_digest);
      x.headers = {kManifestTypes};
      x.body = [&](std::string_view bytes) {
        fetched.bytes += bytes;
        return fetched.bytes.size() > kMaxManifest ? absl::ResourceExhaustedError("a manifest is over 4 MiB")
                                                   : absl::OkStatus();
      };
      Outcome outcome = impl_->authenticator.Ask(x, reference, meant, impl_->times);
      if (outcome.status.ok()) {
        fetched.digest = Sha256(fetched.bytes);
        outcome = {CheckManifest(fetched, IsDigest(tag_or_digest) ? tag_or_digest : x.docker_digest)};
        if (outcome.status.ok()) return fetched;
      }
      last = Annotate(outcome.status,
                      Cat("fetch manifest `", tag_or_digest, "` of `", reference.Name(), "`", From(host)));
      if (absl::IsCancelled(last)) return last;
      ASSIGN_OR_RETURN(again, attempts.Again(outcome, false, cancelled));
    }
  }
  return last;
}

absl::Status RegistryClient::FetchBlob(const Reference& reference, const std::string& digest, uint64_t size,
                                       const Credentials& credentials, const BlobSink& sink,
                                       const Cancelled& cancelled) {
  if (!IsDigest(digest)) return absl::InvalidArgumentError(Cat("`", digest, "` is not a digest"));
  ASSIGN_OR_RETURN(std::vector<RegistryHost> hosts, ResolveHosts(impl_->certs_dir, reference.host));
  absl::Status last = absl::UnavailableError(Cat("no server is configured for `", reference.host, "`"));
  Sha256Hash hash;
  uint64_t taken = 0;  // bytes that the sink has
  for (const RegistryHost& host : hosts) {
    if (!host.pull) continue;
    Credentials meant = MeantFor(credentials, host.url, reference.host, host.mirror);
    Attempts attempts(host, impl_->times);
    bool foreign = taken > 0;  // the sink has bytes of a server before this one
    for (bool again = true; again;) {
      const uint64_t before = taken;
      uint64_t position = 0;
      bool placed = false;
      absl::Status sink_status, wrong;
      Exchange x;
      x.host = &host;
      x.cancelled = &cancelled;
      x.url = UrlOf(host, reference, "blobs", digest);
      if (taken > 0) x.headers.push_back(Cat("Range: bytes=", taken, "-"));
      x.body = [&](std::string_view bytes) -> absl::Status {
        if (!placed) {
          // A server that ignores Range sends all of it anew: what is there already is passed over.
          if (x.code == 206) {
            if (!x.content_range.starts_with(Cat("bytes ", before, "-")))
              return wrong = absl::DataLossError("the server sent another range");
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
          return wrong = absl::DataLossError(Cat("it is larger than the ", size, " bytes promised"));
        if (sink_status = sink.write(bytes); !sink_status.ok()) return sink_status;
        hash.Update(bytes.data(), bytes.size());
        taken += bytes.size();
        position += bytes.size();
        return absl::OkStatus();
      };
      Outcome outcome = impl_->authenticator.Ask(x, reference, meant, impl_->times);
      if (!sink_status.ok()) return sink_status;
      // Cut off after the last byte: there is nothing left to ask for.
      if (wrong.ok() && (outcome.status.ok() || (size > 0 && taken == size && outcome.retry))) {
        std::string got = std::exchange(hash, {}).Digest();
        if (taken != size) {
          wrong = absl::DataLossError(Cat("it has ", taken, " bytes, not the ", size, " promised"));
        } else if (got != digest) {
          wrong = absl::DataLossError(Cat("its digest is `", got, "`"));
        } else {
          return absl::OkStatus();
        }
      }
      const std::string what = Cat("fetch blob `", digest, "` of `", reference.Name(), "`", From(host));
      if (!wrong.ok()) {
        last = Annotate(wrong, what);
        if (taken > 0) RETURN_IF_ERROR(sink.restart());
        taken = 0;
        hash = {};
        again = std::exchange(foreign, false);  // this server's own bytes alone may be right
        continue;
      }
      last = Annotate(outcome.status, what);
      if (absl::IsCancelled(last)) return last;
      ASSIGN_OR_RETURN(again, attempts.Again(outcome, taken > before, cancelled));
    }
  }
  return last;
}

}  // namespace sock::oci
