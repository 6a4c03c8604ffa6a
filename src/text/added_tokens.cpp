#include "text/added_tokens.h"

#include <algorithm>

#include "core/error.h"
#include "text/json_fields.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

std::string quoted(const AddedToken& token) {
  return "added token '" + printable(token.content, 40) + "'";
}

bool has(char32_t code, std::uint32_t property) {
  return (properties(code) & property) != 0;
}

}  // namespace

TokenFinder::TokenFinder(std::vector<std::u32string> patterns, std::vector<const AddedToken*> tokens) : starts_(128, false) {
  MMTUNE_ASSERT(patterns.size() == tokens.size());
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    MMTUNE_ASSERT(!patterns[i].empty());
    const char32_t first = patterns[i].front();
    if (first < starts_.size()) {
      starts_[first] = true;
    } else {
      starts_beyond_ = true;
    }
    patterns_.push_back({std::move(patterns[i]), tokens[i]});
  }
  std::stable_sort(patterns_.begin(), patterns_.end(), [](const Pattern& a, const Pattern& b) { return a.codes < b.codes; });
  const auto last = std::unique(patterns_.begin(), patterns_.end(), [](const Pattern& a, const Pattern& b) { return a.codes == b.codes; });
  patterns_.erase(last, patterns_.end());
}

// Narrows the sorted patterns to those that begin with what stands in the text, one code point at a time.
const TokenFinder::Pattern* TokenFinder::longest_at(std::span<const Char> chars, std::size_t at) const {
  const Pattern* best = nullptr;
  auto low = patterns_.begin();
  auto high = patterns_.end();
  for (std::size_t depth = 0; low != high; ++depth) {
    if (low->codes.size() == depth) {
      best = &*low;
      if (++low == high) break;
    }
    if (at + depth >= chars.size()) break;
    const char32_t code = chars[at + depth].code;
    low = std::partition_point(low, high, [&](const Pattern& p) { return p.codes[depth] < code; });
    high = std::partition_point(low, high, [&](const Pattern& p) { return p.codes[depth] == code; });
  }
  return best;
}

void TokenFinder::split(std::span<const Char> chars, std::vector<Segment>& out) const {
  const auto size = static_cast<std::uint32_t>(chars.size());
  std::uint32_t covered = 0;
  for (std::uint32_t i = 0; i < size && !patterns_.empty();) {
    const Pattern* found = may_begin(chars[i].code) ? longest_at(chars, i) : nullptr;
    if (found == nullptr) {
      ++i;
      continue;
    }
    std::uint32_t begin = i;
    std::uint32_t end = i + static_cast<std::uint32_t>(found->codes.size());
    i = end;  // also where the occurrence turns out to be part of a word
    const AddedToken& token = *found->token;
    if (token.single_word && ((begin > 0 && has(chars[begin - 1].code, kWord)) || (end < size && has(chars[end].code, kWord)))) continue;
    if (token.lstrip) {
      while (begin > covered && has(chars[begin - 1].code, kWhitespace)) --begin;
      if (begin < covered && covered < end) begin = covered;  // the token before has taken white space that this one begins with
    }
    if (token.rstrip) {
      while (end < size && has(chars[end].code, kWhitespace)) ++end;
    }
    if (covered < begin) out.push_back({{covered, begin}, nullptr});
    out.push_back({{begin, end}, &token});
    covered = end;
  }
  if (covered != size) out.push_back({{covered, size}, nullptr});
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Vocabulary& vocabulary, const Normalizer* normalizer,
                         const std::string& where)
    : tokens_(std::move(tokens)) {
  // The reference package gives a token that the model does not know the next free id, whatever the file says.
  std::int64_t next = static_cast<std::int64_t>(vocabulary.size());
  for (const AddedToken& token : tokens_) {
    if (token.content.empty()) throw Error({.what = "an added token is empty", .where = where});
    if (token.content.size() > Vocabulary::kLongestToken) throw Error({.what = quoted(token) + " is too long", .where = where});
    const std::int64_t expected = vocabulary.find(token.content).value_or(next);
    if (token.id != expected) {
      throw Error(
          {.what = "wrong id of " + quoted(token), .where = where, .expected = std::to_string(expected), .got = std::to_string(token.id)});
    }
    if (expected >= next) next = expected + 1;
    by_content_.emplace_back(token.content, &token);
    by_id_.emplace_back(token.id, &token);
  }
  std::sort(by_content_.begin(), by_content_.end());
  std::sort(by_id_.begin(), by_id_.end());
  const auto twice =
      std::adjacent_find(by_content_.begin(), by_content_.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != by_content_.end()) throw Error({.what = quoted(*twice->second) + " stands there twice", .where = where});

  std::vector<std::u32string> patterns[2];
  std::vector<const AddedToken*> owners[2];
  AlignedText text;
  std::vector<Char> chars;
  for (const bool special : {true, false}) {  // special tokens come first where two have the same pattern
    for (const AddedToken& token : tokens_) {
      if (token.special != special) continue;
      decode(token.content, chars);
      text.assign(chars);
      if (token.normalized && normalizer != nullptr) normalizer->normalize(text);
      if (text.empty()) throw Error({.what = quoted(token) + " normalises to nothing and would match everywhere", .where = where});
      std::u32string pattern;
      for (const Char& c : text.chars()) pattern += c.code;
      patterns[token.normalized ? 1 : 0].push_back(std::move(pattern));
      owners[token.normalized ? 1 : 0].push_back(&token);
    }
  }
  in_original_ = TokenFinder(std::move(patterns[0]), std::move(owners[0]));
  in_normalized_ = TokenFinder(std::move(patterns[1]), std::move(owners[1]));
}

std::optional<std::int64_t> AddedTokens::find(std::string_view content) const {
  const auto found =
      std::lower_bound(by_content_.begin(), by_content_.end(), content, [](const auto& a, std::string_view b) { return a.first < b; });
  if (found == by_content_.end() || found->first != content) return std::nullopt;
  return found->second->id;
}

bool AddedTokens::is_special(std::string_view content) const {
  const auto id = find(content);
  return id && token_of(*id)->special;
}

const AddedToken* AddedTokens::token_of(std::int64_t id) const {
  const auto found = std::lower_bound(by_id_.begin(), by_id_.end(), id, [](const auto& a, std::int64_t b) { return a.first < b; });
  return found == by_id_.end() || found->first != id ? nullptr : found->second;
}

std::vector<AddedToken> read_added_tokens(const Json& list, const std::string& where) {
  if (!list.is_array()) throw Error({.what = "wrong type", .where = where, .expected = "a list", .got = shown(list)});
  std::vector<AddedToken> tokens;
  for (const Json& item : list) {
    JsonFields fields(item, where + "[" + std::to_string(tokens.size()) + "]");
    AddedToken token;
    token.content = fields.string("content");
    token.id = fields.integer("id", 0, Vocabulary::kLargestId);
    token.special = fields.boolean("special");
    token.single_word = fields.boolean("single_word");
    token.lstrip = fields.boolean("lstrip");
    token.rstrip = fields.boolean("rstrip");
    token.normalized = fields.boolean("normalized");
    fields.finish();
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace mmtune::text
