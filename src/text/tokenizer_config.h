#pragma once
// What tokenizer_config.json says: special tokens, settings, the class.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/added_tokens.h"

namespace mmtune::text {

class TokenizerConfig {
 public:
  /// `json` must outlive this; throws Error naming `where` if it is no object.
  TokenizerConfig(const Json& json, std::string where);

  const std::string& where() const { return where_; }
  /// tokenizer_class without "Fast" at its end; nullopt where the file does not say.
  std::optional<std::string> class_name() const;
  /// A special token: a string, or an object with its content and flags. Its id is not set.
  std::optional<AddedToken> token(const char* key) const;
  bool boolean(const char* key, bool otherwise) const;
  std::int64_t integer(const char* key, std::int64_t otherwise, std::int64_t low, std::int64_t high) const;
  /// added_tokens_decoder, {"id": {content, special, …}}, by ascending id.
  std::vector<AddedToken> added_tokens() const;
  /// model_max_length; nullopt where it is absent or very large.
  std::optional<std::int64_t> longest() const;

 private:
  const Json* find(const char* key) const;
  const Json& json_;
  std::string where_;
};

}  // namespace mmtune::text
