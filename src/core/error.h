#pragma once
// Errors: a user's mistake is an Error (one line: what, where, expected, got, hint); a mistake of ours is an assertion.

#include <stdexcept>
#include <string>
#include <string_view>

namespace mmtune {

/// What went wrong, in parts. `where` names the file, key, tensor or example at fault; empty parts are left out.
struct ErrorParts {
  std::string what;
  std::string where;
  std::string expected;
  std::string got;
  std::string hint;
};

/// A mistake the user can mend. what() is one line: "where: what: expected X, got Y (hint)".
class Error : public std::runtime_error {
 public:
  explicit Error(ErrorParts parts);
  const ErrorParts& parts() const { return parts_; }

 private:
  ErrorParts parts_;
};

/// An Error in the arguments or the recipe: the program exits with 2 instead of 1.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// `text` with control characters and bytes that are not UTF-8 escaped, and cut to at most `limit` of its bytes: safe to put into a
/// one-line message.
std::string printable(std::string_view text, std::size_t limit = 120);

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace mmtune

/// Holds in release builds too. For conditions that only a mistake of ours can break.
#define MMTUNE_ASSERT(condition) ((condition) ? static_cast<void>(0) : ::mmtune::assertion_failed(#condition, __FILE__, __LINE__))
