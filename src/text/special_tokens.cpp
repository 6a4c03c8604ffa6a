#include "text/special_tokens.h"

#include <algorithm>

#include "core/error.h"

namespace mmtune::text {

SpecialTokens::SpecialTokens(const std::vector<SpecialTokenDefault>& defaults, const TokenizerConfig& config, const Vocabulary& vocabulary,
                             std::vector<AddedToken> added)
    : added_(std::move(added)) {
  std::int64_t next = static_cast<std::int64_t>(vocabulary.size());
  for (const AddedToken& token : added_) next = std::max(next, token.id + 1);
  for (const auto& [key, otherwise] : defaults) {
    auto token = config.token(key);
    if (!token && otherwise != nullptr) token = AddedToken{.content = otherwise, .special = true};
    if (!token) continue;
    const auto listed =
        std::find_if(added_.begin(), added_.end(), [&](const AddedToken& other) { return other.content == token->content; });
    if (listed == added_.end()) {
      const auto id = vocabulary.find(token->content);
      token->id = id ? *id : next++;
      added_.push_back(*token);
    } else {
      token->id = listed->id;
    }
    named_.emplace_back(key, *token);
  }
}

const AddedToken& SpecialTokens::named(std::string_view key) const {
  const auto found = std::find_if(named_.begin(), named_.end(), [&](const auto& one) { return one.first == key; });
  MMTUNE_ASSERT(found != named_.end());
  return found->second;
}

bool SpecialTokens::has(std::string_view key) const {
  return std::any_of(named_.begin(), named_.end(), [&](const auto& one) { return one.first == key; });
}

}  // namespace mmtune::text
