#include "text/byte_level.h"

#include <array>
#include <string>

#include "text/patterns.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

constexpr auto kLetters = [] {
  std::array<char32_t, 256> letters{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
    letters[byte] = printable ? byte : next++;
  }
  return letters;
}();

void append_bytes(const Char& c, std::string& bytes, std::vector<Char>& out) {
  if (c.code < 0x80) {
    out.push_back({kLetters[c.code], c.begin, c.end});
    return;
  }
  bytes.clear();
  append_utf8(bytes, c.code);
  for (const char byte : bytes) out.push_back({byte_letter(static_cast<unsigned char>(byte)), c.begin, c.end});
}

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex) : add_prefix_space_(add_prefix_space), use_regex_(use_regex) {}

  void apply(PreTokenized& text) const override {
    std::vector<Char> prefixed;
    std::string bytes;
    text.rewrite([&](std::span<const Char> word, std::vector<Char>& chars, std::vector<Range>& words) {
      if (add_prefix_space_ && !word.empty() && word.front().code != U' ') {
        prefixed.assign(1, {U' ', word.front().begin, word.front().end});
        prefixed.insert(prefixed.end(), word.begin(), word.end());
        word = prefixed;
      }
      const auto size = static_cast<std::uint32_t>(word.size());
      for (std::uint32_t at = 0; at < size;) {
        const std::uint32_t end = use_regex_ ? gpt2_match(word, at, size) : size;
        const auto begin = static_cast<std::uint32_t>(chars.size());
        for (; at < end; ++at) append_bytes(word[at], bytes, chars);
        words.push_back({begin, static_cast<std::uint32_t>(chars.size())});
      }
    });
  }

 private:
  bool add_prefix_space_;
  bool use_regex_;
};

bool is_space(char32_t code) {
  return code == kLetters[' '] || (properties(code) & kWhitespace) != 0;
}

}  // namespace

char32_t byte_letter(unsigned char byte) {
  return kLetters[byte];
}

std::unique_ptr<PreTokenizer> make_byte_level(bool add_prefix_space, bool use_regex) {
  return std::make_unique<ByteLevel>(add_prefix_space, use_regex);
}

SpacesAround spaces_around(std::string_view token) {
  SpacesAround found;
  bool leading = true;
  for (std::size_t at = 0; at < token.size();) {
    const bool space = is_space(next_code_point(token, at));
    leading = leading && space;
    if (leading) ++found.leading;
    found.trailing = space ? found.trailing + 1 : 0;
  }
  return found;
}

}  // namespace mmtune::text
