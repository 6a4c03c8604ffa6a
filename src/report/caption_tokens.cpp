#include "report/captions.h"
#include "text/unicode.h"

namespace mmtune::report {

namespace {

constexpr std::u32string_view kAlone = U"$%&#@+*=/\u20ac\u00a3\u00a5";
constexpr std::u32string_view kApostrophes = U"'\u2019`";

bool is_mark(char32_t code) {
  return (text::properties(code) & text::kPunctuation) != 0;
}

bool is_space(char32_t code) {
  return (text::properties(code) & (text::kWhitespace | text::kControl)) != 0;
}

bool is_digit(char32_t code) {
  return code >= U'0' && code <= U'9';
}

/// Whether a mark belongs to the word that it stands in.
bool joins(char32_t before, char32_t mark, char32_t next) {
  if (is_mark(before) || is_mark(next) || is_space(next)) return false;
  if (mark == U'-' || mark == U'\u2010' || mark == U'_') return true;
  if (kApostrophes.find(mark) != std::u32string_view::npos) return true;
  if (mark == U',' || mark == U':') return is_digit(before) && is_digit(next);
  return mark == U'.';  // 3.5, u.s
}

void append(std::vector<std::string>& tokens, std::u32string_view word) {
  if (word.empty()) return;
  std::string token;
  for (const char32_t code : word) text::append_utf8(token, code);
  tokens.push_back(std::move(token));
}

/// A word, its contraction apart.
void split_word(std::u32string_view word, std::vector<std::string>& tokens) {
  if (word == U"cannot") {
    append(tokens, U"can");
    append(tokens, U"not");
    return;
  }
  std::size_t cut = word.size();
  const std::size_t mark = word.find(U'\'');
  if (mark != std::u32string_view::npos && mark > 0) {
    const std::u32string_view tail = word.substr(mark);
    if (tail == U"'t" && mark > 1 && word[mark - 1] == U'n') {
      cut = mark - 1;
    } else if (tail == U"'s" || tail == U"'m" || tail == U"'d" || tail == U"'re" || tail == U"'ve" || tail == U"'ll") {
      cut = mark;
    }
  }
  append(tokens, word.substr(0, cut));
  append(tokens, word.substr(cut));
}

}  // namespace

std::vector<std::string> caption_tokens(std::string_view caption) {
  std::u32string codes;
  for (std::size_t at = 0; at < caption.size();) {
    const auto lower = text::to_lower(text::next_code_point(caption, at));
    codes += lower[0] == U'\u2019' ? U'\'' : lower[0];
    if (lower[1] != 0) codes += lower[1];
  }
  std::vector<std::string> tokens;
  std::u32string word;
  const auto flush = [&] {
    split_word(word, tokens);
    word.clear();
  };
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const char32_t code = codes[i];
    const bool alone = kAlone.find(code) != std::u32string_view::npos;
    if (is_space(code)) {
      flush();
    } else if (alone || is_mark(code)) {
      if (!alone && !word.empty() && i + 1 < codes.size() && joins(word.back(), code, codes[i + 1])) {
        word += code;
        continue;
      }
      flush();
      if (alone) append(tokens, std::u32string_view(codes).substr(i, 1));
    } else {
      word += code;
    }
  }
  flush();
  return tokens;
}

}  // namespace mmtune::report
