#include "text/patterns.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "text/json_fields.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

constexpr std::size_t kLongestLiteral = 4096;

constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kClip = R"('s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";
constexpr std::string_view kClipMarks = R"(<\|startoftext\|>|<\|endoftext\|>|)";
constexpr std::string_view kSpaces = R"(\s+)";
constexpr std::string_view kTwoSpaces = " {2,}";

/// What a code point is to the expressions: \s, \p{L}, \p{N}, or none of them. No code point is two of these.
enum class Kind : std::uint8_t { other, space, letter, number };

constexpr Kind ascii_kind(char32_t code) {
  if ((code >= U'a' && code <= U'z') || (code >= U'A' && code <= U'Z')) return Kind::letter;
  if (code >= U'0' && code <= U'9') return Kind::number;
  if (code == U' ' || (code >= 0x09 && code <= 0x0D)) return Kind::space;
  return Kind::other;
}

constexpr auto kAsciiKinds = [] {
  std::array<Kind, 128> kinds{};
  for (char32_t code = 0; code < kinds.size(); ++code) kinds[code] = ascii_kind(code);
  return kinds;
}();

Kind kind_of(char32_t code) {
  if (code < kAsciiKinds.size()) return kAsciiKinds[code];
  const std::uint32_t bits = properties(code);
  return bits & kLetter ? Kind::letter : bits & kNumber ? Kind::number : bits & kWhitespace ? Kind::space : Kind::other;
}

std::uint32_t run_end(std::span<const Char> chars, std::uint32_t at, std::uint32_t end, Kind kind) {
  while (at < end && kind_of(chars[at].code) == kind) ++at;
  return at;
}

/// The length of an English contraction ('s, 't, 're, 've, 'm, 'll, 'd) at `at`, or 0.
std::uint32_t contraction(std::span<const Char> chars, std::uint32_t at, std::uint32_t end) {
  if (chars[at].code != U'\'' || at + 1 >= end) return 0;
  const char32_t first = chars[at + 1].code;
  if (first == U's' || first == U't' || first == U'm' || first == U'd') return 2;
  if (at + 2 >= end) return 0;
  const char32_t second = chars[at + 2].code;
  const bool two = (second == U'e' && (first == U'r' || first == U'v')) || (first == U'l' && second == U'l');
  return two ? 3 : 0;
}

bool stands_at(std::span<const Char> chars, std::uint32_t at, std::uint32_t end, std::u32string_view literal) {
  if (end - at < literal.size()) return false;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (chars[at + i].code != literal[i]) return false;
  }
  return true;
}

/// Finds matches with `match_end(chars, at, end)`: the end of a match that begins at `at`, or `at` where none does.
template <typename MatchEnd>
void find_all(std::span<const Char> chars, Range word, std::vector<Match>& out, MatchEnd match_end) {
  std::uint32_t covered = word.begin;
  for (std::uint32_t at = word.begin; at < word.end;) {
    const std::uint32_t end = match_end(chars, at, word.end);
    if (end == at) {
      ++at;
      continue;
    }
    if (covered < at) out.push_back({{covered, at}, false});
    out.push_back({{at, end}, true});
    covered = at = end;
  }
  if (covered < word.end) out.push_back({{covered, word.end}, false});
}

class Literal : public Pattern {
 public:
  explicit Literal(std::u32string literal) : literal_(std::move(literal)) { MMTUNE_ASSERT(!literal_.empty()); }
  void find(std::span<const Char> chars, Range word, std::vector<Match>& out) const override {
    find_all(chars, word, out, [this](std::span<const Char> text, std::uint32_t at, std::uint32_t end) {
      return stands_at(text, at, end, literal_) ? at + static_cast<std::uint32_t>(literal_.size()) : at;
    });
  }

 private:
  std::u32string literal_;
};

class Gpt2 : public Pattern {
 public:
  void find(std::span<const Char> chars, Range word, std::vector<Match>& out) const override { find_all(chars, word, out, gpt2_match); }
};

/// CLIP's: contractions, runs of letters, single numbers, runs of what is neither; in some files its two marks before them.
class Clip : public Pattern {
 public:
  explicit Clip(bool with_marks) : with_marks_(with_marks) {}

  void find(std::span<const Char> chars, Range word, std::vector<Match>& out) const override {
    find_all(chars, word, out, [this](std::span<const Char> text, std::uint32_t at, std::uint32_t end) {
      if (with_marks_ && text[at].code == U'<') {
        for (const std::u32string_view mark : {U"<|startoftext|>", U"<|endoftext|>"}) {
          if (stands_at(text, at, end, mark)) return at + static_cast<std::uint32_t>(mark.size());
        }
      }
      if (const std::uint32_t length = contraction(text, at, end)) return at + length;
      const Kind kind = kind_of(text[at].code);
      if (kind == Kind::space) return at;
      return kind == Kind::number ? at + 1 : run_end(text, at, end, kind);
    });
  }

 private:
  bool with_marks_;
};

class Spaces : public Pattern {
 public:
  void find(std::span<const Char> chars, Range word, std::vector<Match>& out) const override {
    find_all(chars, word, out,
             [](std::span<const Char> text, std::uint32_t at, std::uint32_t end) { return run_end(text, at, end, Kind::space); });
  }
};

/// Runs of two or more plain spaces.
class TwoSpaces : public Pattern {
 public:
  void find(std::span<const Char> chars, Range word, std::vector<Match>& out) const override {
    find_all(chars, word, out, [](std::span<const Char> text, std::uint32_t at, std::uint32_t end) {
      std::uint32_t stop = at;
      while (stop < end && text[stop].code == U' ') ++stop;
      return stop >= at + 2 ? stop : at;
    });
  }
};

}  // namespace

std::uint32_t gpt2_match(std::span<const Char> chars, std::uint32_t at, std::uint32_t end) {
  if (const std::uint32_t length = contraction(chars, at, end)) return at + length;
  const Kind kind = kind_of(chars[at].code);
  if (kind != Kind::space) return run_end(chars, at + 1, end, kind);
  if (chars[at].code == U' ' && at + 1 < end) {
    if (const Kind next = kind_of(chars[at + 1].code); next != Kind::space) return run_end(chars, at + 2, end, next);
  }
  // Of white space before a word the last one is left to the word, unless it is the only one.
  const std::uint32_t last = run_end(chars, at + 1, end, Kind::space);
  return last < end && last > at + 1 ? last - 1 : last;
}

std::unique_ptr<Pattern> make_literal_pattern(std::u32string literal) {
  return std::make_unique<Literal>(std::move(literal));
}

std::unique_ptr<Pattern> make_clip_pattern(bool with_marks) {
  return std::make_unique<Clip>(with_marks);
}

std::unique_ptr<Pattern> make_known_expression(std::string_view expression) {
  if (expression == kGpt2) return std::make_unique<Gpt2>();
  if (expression == kSpaces) return std::make_unique<Spaces>();
  if (expression == kTwoSpaces) return std::make_unique<TwoSpaces>();
  const bool with_marks = expression.starts_with(kClipMarks);
  if (with_marks) expression.remove_prefix(kClipMarks.size());
  return expression == kClip ? make_clip_pattern(with_marks) : nullptr;
}

std::unique_ptr<Pattern> read_pattern(const Json& json, const std::string& where) {
  JsonFields fields(json, where);
  std::unique_ptr<Pattern> made;
  if (fields.optional("Regex") != nullptr) {
    const std::string expression = fields.string("Regex");
    made = make_known_expression(expression);
    if (!made) refuse_component(where + ".Regex", expression, "a String, \\s+, two or more spaces, or the expression of GPT-2 or of CLIP");
  } else {
    const std::string literal = fields.string("String");
    if (literal.empty()) throw Error({.what = "the pattern is empty", .where = where});
    if (literal.size() > kLongestLiteral) {
      throw Error({.what = "the pattern is too long",
                   .where = where,
                   .expected = "at most " + std::to_string(kLongestLiteral) + " bytes",
                   .got = std::to_string(literal.size())});
    }
    made = make_literal_pattern(to_utf32(literal));
  }
  fields.finish();
  return made;
}

}  // namespace mmtune::text
