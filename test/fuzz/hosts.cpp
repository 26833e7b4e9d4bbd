#include "oci/hosts.h"

#include "test/fuzz/fuzz.h"

FUZZ(hosts) {
  auto hosts = sock::oci::ParseHosts(std::string(input), "/nowhere", "registry.example:5000");
  if (!hosts.ok()) return;
  CHECK(!hosts->empty());
  for (const auto& host : *hosts) {
    CHECK(host.url.starts_with("http://") || host.url.starts_with("https://"));
    for (const std::string& header : host.headers) CHECK(header.find_first_of("\r\n") == std::string::npos);
  }
}
