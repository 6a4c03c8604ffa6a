#include "hub/digest.h"

#ifdef MMTUNE_WITH_CURL
#include <openssl/evp.h>
#endif

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/shared_library.h"
#include "hub/http.h"

namespace mmtune::hub {

HashKind hash_kind(std::string_view name) {
  const bool digits = std::ranges::all_of(name, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (digits && name.size() == 64) return HashKind::sha256;
  if (digits && name.size() == 40) return HashKind::git_sha1;
  return HashKind::none;
}

#ifdef MMTUNE_WITH_CURL

namespace {

/// The few functions of OpenSSL that a hash takes.
struct Crypto {
  SharedLibrary library{"libcrypto.so.3", "libssl3"};
  decltype(&::EVP_MD_CTX_new) create = library.find<decltype(::EVP_MD_CTX_new)>("EVP_MD_CTX_new");
  decltype(&::EVP_MD_CTX_free) destroy = library.find<decltype(::EVP_MD_CTX_free)>("EVP_MD_CTX_free");
  decltype(&::EVP_DigestInit_ex) begin = library.find<decltype(::EVP_DigestInit_ex)>("EVP_DigestInit_ex");
  decltype(&::EVP_DigestUpdate) add = library.find<decltype(::EVP_DigestUpdate)>("EVP_DigestUpdate");
  decltype(&::EVP_DigestFinal_ex) end = library.find<decltype(::EVP_DigestFinal_ex)>("EVP_DigestFinal_ex");
  decltype(&::EVP_sha1) sha1 = library.find<decltype(::EVP_sha1)>("EVP_sha1");
  decltype(&::EVP_sha256) sha256 = library.find<decltype(::EVP_sha256)>("EVP_sha256");
};

class Digest {
 public:
  explicit Digest(HashKind kind) : context_(crypto_.create(), crypto_.destroy) {
    check(context_ != nullptr && crypto_.begin(context_.get(), kind == HashKind::sha256 ? crypto_.sha256() : crypto_.sha1(), nullptr) == 1);
  }
  void add(std::string_view bytes) { check(crypto_.add(context_.get(), bytes.data(), bytes.size()) == 1); }
  std::string hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned size = 0;
    check(crypto_.end(context_.get(), bytes.data(), &size) == 1);
    std::string text;
    for (unsigned i = 0; i < size; ++i) {
      char two[3];
      std::snprintf(two, sizeof two, "%02x", bytes[i]);
      text += two;
    }
    return text;
  }

 private:
  static void check(bool worked) {
    if (!worked) throw Error({.what = "OpenSSL cannot compute a hash"});
  }

  Crypto crypto_;
  std::unique_ptr<EVP_MD_CTX, decltype(&::EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string hash_file(const std::filesystem::path& file, HashKind kind, const std::function<bool()>& keep_going) {
  MMTUNE_ASSERT(kind != HashKind::none);
  std::ifstream stream(file, std::ios::binary);
  std::error_code error;
  const auto size = std::filesystem::file_size(file, error);
  if (!stream || error) throw Error({.what = std::string("cannot read: ") + std::strerror(errno), .where = file.string()});
  Digest digest(kind);
  if (kind == HashKind::git_sha1) digest.add("blob " + std::to_string(size) + std::string(1, '\0'));
  std::vector<char> piece(std::size_t{1} << 20);
  while (stream.read(piece.data(), static_cast<std::streamsize>(piece.size())), stream.gcount() > 0) {
    if (!keep_going()) throw Interrupted();
    digest.add({piece.data(), static_cast<std::size_t>(stream.gcount())});
  }
  if (stream.bad()) throw Error({.what = "cannot read", .where = file.string()});
  return digest.hex();
}

#else

std::string hash_file(const std::filesystem::path&, HashKind, const std::function<bool()>&) {
  refuse_without_curl();
}

#endif

}  // namespace mmtune::hub
