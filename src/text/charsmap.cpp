#include "text/charsmap.h"

#include <utf8proc.h>

#include <cstring>

#include "core/error.h"
#include "text/unicode.h"

namespace mmtune::text {

Charsmap::Charsmap(std::string table, std::string where) : table_(std::move(table)), where_(std::move(where)) {
  std::uint32_t size = 0;
  if (table_.size() > sizeof size) std::memcpy(&size, table_.data(), sizeof size);
  if (table_.size() <= sizeof size || size % 4 != 0 || size < 4 || size >= table_.size() - sizeof size) {
    throw Error({.what = "the table of normalisations is damaged",
                 .where = where_,
                 .expected = "an array smaller than its " + std::to_string(table_.size()) + " bytes",
                 .got = std::to_string(size) + " bytes"});
  }
  units_.resize(size / 4);
  std::memcpy(units_.data(), table_.data() + sizeof size, size);
  texts_ = std::string_view(table_).substr(sizeof size + size);
}

std::uint32_t Charsmap::unit(std::size_t index) const {
  if (index >= units_.size()) throw Error({.what = "the table of normalisations points outside itself", .where = where_});
  return units_[index];
}

std::string_view Charsmap::text_at(std::size_t offset) const {
  const std::size_t end = offset < texts_.size() ? texts_.find('\0', offset) : std::string_view::npos;
  if (end == std::string_view::npos) throw Error({.what = "the table of normalisations points outside its texts", .where = where_});
  return texts_.substr(offset, end - offset);
}

// A unit holds the label of its edge (bits 0 to 7), whether a value stands behind it (bit 8), and the distance to its children: bits 10 to
// 30, in steps of 256 where bit 9 is set. A value has bit 31 set.
std::optional<Charsmap::Found> Charsmap::find(std::string_view bytes, bool longest) const {
  const auto distance = [](std::uint32_t unit) { return std::size_t{unit >> 10} << ((unit & 0x200) >> 6); };
  std::optional<std::pair<std::size_t, std::size_t>> found;
  std::size_t at = distance(unit(0));
  for (std::size_t i = 0; i < bytes.size() && bytes[i] != 0; ++i) {
    const auto byte = static_cast<unsigned char>(bytes[i]);
    at ^= byte;
    const std::uint32_t next = unit(at);
    if ((next & 0x800000FF) != byte) break;
    at ^= distance(next);
    if ((next & 0x100) == 0) continue;
    found = {i + 1, unit(at) & 0x7FFFFFFF};
    if (!longest) break;
  }
  return found ? std::optional(Found{found->first, text_at(found->second)}) : std::nullopt;
}

namespace {

class Precompiled : public Normalizer {
 public:
  explicit Precompiled(Charsmap table) : table_(std::move(table)) {
    for (char32_t code = 1; code < plain_.size(); ++code) plain_[code] = !table_.shortest(std::string(1, static_cast<char>(code)));
  }

  void normalize(AlignedText& text) const override {
    std::vector<Edit>& edits = text.edit_buffer();
    const auto chars = text.chars();
    bool changed = false;
    std::string bytes;
    for (std::size_t at = 0; at < chars.size();) {
      const bool alone = at + 1 >= chars.size() || (chars[at].code < 0x80 && chars[at + 1].code < 0x80 && chars[at].code != U'\r');
      if (alone && chars[at].code < 0x80 && plain_[chars[at].code]) {
        edits.push_back({chars[at++].code, 0});
        continue;
      }
      const std::size_t end = alone ? at + 1 : grapheme_end(chars, at);
      bytes.clear();
      for (std::size_t i = at; i < end && bytes.size() < kLongGrapheme; ++i) append_utf8(bytes, chars[i].code);
      if (bytes.size() < kLongGrapheme) {
        if (const auto found = table_.shortest(bytes)) {
          replace(end - at, found->text, edits);
          changed = true;
          at = end;
          continue;
        }
      }
      for (; at < end; ++at) {
        bytes.clear();
        append_utf8(bytes, chars[at].code);
        if (const auto found = table_.shortest(bytes)) {
          replace(1, found->text, edits);
          changed = true;
        } else {
          edits.push_back({chars[at].code, 0});
        }
      }
    }
    if (changed) text.rewrite(edits, 0);
  }

 private:
  static constexpr std::size_t kLongGrapheme = 6;  // bytes

  static std::size_t grapheme_end(std::span<const Char> chars, std::size_t at) {
    utf8proc_int32_t state = 0;
    std::size_t end = at + 1;
    while (end < chars.size() && !utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(chars[end - 1].code),
                                                                   static_cast<utf8proc_int32_t>(chars[end].code), &state)) {
      ++end;
    }
    return end;
  }

  // As in the reference package: of more code points than before the last ones are new, and of fewer the last one drops what was left.
  // Where nothing comes in their place, the code point before drops them.
  static void replace(std::size_t before, std::string_view text, std::vector<Edit>& edits) {
    const std::size_t first = edits.size();
    for (std::size_t at = 0; at < text.size();) edits.push_back({next_code_point(text, at), 0});
    const auto difference = static_cast<std::int32_t>(edits.size() - first) - static_cast<std::int32_t>(before);
    for (std::int32_t i = 0; i < difference; ++i) edits[edits.size() - 1 - static_cast<std::size_t>(i)].change = 1;
    if (difference < 0 && !edits.empty()) edits.back().change += difference;
  }

  Charsmap table_;
  std::array<bool, 128> plain_{};  ///< ASCII that no rule is for
};

}  // namespace

std::unique_ptr<Normalizer> make_precompiled(Charsmap table) {
  return std::make_unique<Precompiled>(std::move(table));
}

}  // namespace mmtune::text
