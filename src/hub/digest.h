#pragma once
// The two hashes by which a hub names its files.

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace mmtune::hub {

enum class HashKind {
  none,      ///< the server names the file in a way of its own, which cannot be checked
  sha256,    ///< of the bytes: files in git LFS; 64 hexadecimal digits
  git_sha1,  ///< of "blob SIZE", a NUL byte and the bytes: files in git itself; 40 hexadecimal digits
};

/// What kind of hash `name` is, by its digits.
HashKind hash_kind(std::string_view name);

/// The hash of a file, in lower-case hexadecimal digits. `keep_going` is asked between pieces of it; false throws Interrupted (http.h).
/// Throws Error where the file cannot be read or OpenSSL is not there.
std::string hash_file(const std::filesystem::path& file, HashKind kind, const std::function<bool()>& keep_going);

}  // namespace mmtune::hub
