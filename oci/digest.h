// SHA-256 as OCI writes it.
#pragma once

#include <openssl/evp.h>

#include <memory>
#include <string>

namespace sock::oci {

// "sha256:0123…" without what stands before the digits.
inline std::string Hex(const std::string& digest) { return digest.substr(digest.find(':') + 1); }

// Running.
class Sha256Hash {
 public:
  Sha256Hash() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }

  void Update(const void* data, size_t size) { EVP_DigestUpdate(context_.get(), data, size); }

  // "sha256:" and 64 hex digits; ends the hash.
  std::string Digest() {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    EVP_DigestFinal_ex(context_.get(), bytes, &size);
    std::string out = "sha256:";
    for (unsigned i = 0; i < size; ++i) {
      out += "0123456789abcdef"[bytes[i] >> 4];
      out += "0123456789abcdef"[bytes[i] & 15];
    }
    return out;
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

}  // namespace sock::oci
