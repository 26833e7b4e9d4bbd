// Which servers to ask for the images of a registry host, and how.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace sock::oci {

struct RegistryHost {
  std::string url;                      // API root without a closing slash: "https://registry-1.docker.io/v2"
  bool pull = true;                     // serves blobs, and manifests by digest
  bool resolve = true;                  // may be believed about which digest a tag means
  bool mirror = false;                  // not the registry itself: asked with "?ns=<registry host>"
  bool skip_verify = false;             // accept any TLS certificate
  std::vector<std::string> ca;          // PEM files trusted besides the system's
  std::string client_cert, client_key;  // PEM files; key empty: it stands in the certificate's file
  std::vector<std::string> headers;     // "Name: value"
};

// The servers in the order in which to try them, read from containerd's registry configuration: the first of
// `certs_dir`/<host>_<port>_, /<host>:<port>, /_default that exists, its hosts.toml, or without one its *.crt
// as CAs. Without a folder, or after the hosts listed, comes `server` or the registry itself: https, or plain
// http where `host` is a loopback one. Of several client certificates the first is used. INVALID_ARGUMENT
// names the file and the field.
absl::StatusOr<std::vector<RegistryHost>> ResolveHosts(const std::string& certs_dir, const std::string& host);

// The servers that the text of a hosts.toml in `folder` lists for `host`; see ResolveHosts.
absl::StatusOr<std::vector<RegistryHost>> ParseHosts(const std::string& toml, const std::string& folder,
                                                     const std::string& host);

// Whether a host, with or without port, is localhost, 127.0.0.0/8 or [::1].
bool IsLoopbackHost(std::string_view host);

}  // namespace sock::oci
