#include "text/aligned_text.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "text/unicode.h"

namespace mmtune::text {

void decode(std::string_view utf8, std::vector<Char>& out) {
  if (utf8.size() > std::numeric_limits<std::int32_t>::max()) {
    throw Error({.what = "the text is too long", .expected = "less than 2 GiB", .got = std::to_string(utf8.size()) + " bytes"});
  }
  out.clear();
  out.reserve(utf8.size());
  std::uint32_t index = 0;
  for (std::size_t i = 0; i < utf8.size(); ++index) {
    const auto byte = static_cast<unsigned char>(utf8[i]);
    if (byte < 0x80) {
      out.push_back({byte, index, index + 1});
      ++i;
    } else {
      const char32_t code = next_code_point(utf8, i);
      out.push_back({code, index, index + 1});
    }
  }
}

void AlignedText::assign(std::span<const Char> chars) {
  chars_.assign(chars.begin(), chars.end());
  origin_ = chars.empty() ? 0 : chars.front().begin;
  limit_ = chars.size() * 64 + (std::size_t{1} << 20);
  refresh();
}

void AlignedText::rewrite(std::span<const Edit> edits, std::size_t dropped) {
  check_size(edits.size());
  rewritten_.clear();
  rewritten_.reserve(edits.size());
  std::size_t at = std::min(dropped, chars_.size());
  for (const auto& [code, change] : edits) {
    if (change > 0) {
      const Char place = at > 0 ? chars_[at - 1] : Char{0, origin_, origin_};
      rewritten_.push_back({code, place.begin, place.end});
    } else {
      MMTUNE_ASSERT(at < chars_.size());
      rewritten_.push_back({code, chars_[at].begin, chars_[at].end});
      at = std::min(at + 1 + static_cast<std::size_t>(-change), chars_.size());
    }
  }
  chars_.swap(rewritten_);
  refresh();
}

void AlignedText::replace(std::span<const Range> ranges, std::u32string_view content) {
  rewritten_.clear();
  std::uint32_t from = 0;
  for (const Range& range : ranges) {
    MMTUNE_ASSERT(from <= range.begin && range.begin < range.end && range.end <= chars_.size());
    rewritten_.insert(rewritten_.end(), chars_.begin() + from, chars_.begin() + range.begin);
    from = range.end;
    const Char& place = chars_[range.end - 1];
    check_size(rewritten_.size() + content.size());
    for (const char32_t code : content) rewritten_.push_back({code, place.begin, place.end});
  }
  rewritten_.insert(rewritten_.end(), chars_.begin() + from, chars_.end());
  chars_.swap(rewritten_);
  refresh();
}

void AlignedText::exchange(std::vector<Char>& chars) {
  check_size(chars.size());
  chars_.swap(chars);
  refresh();
}

void AlignedText::keep_only(Range range) {
  MMTUNE_ASSERT(range.begin <= range.end && range.end <= chars_.size());
  chars_.erase(chars_.begin() + range.end, chars_.end());
  chars_.erase(chars_.begin(), chars_.begin() + range.begin);
  refresh();
}

std::vector<Edit>& AlignedText::edit_buffer() {
  edits_.clear();
  return edits_;
}

void AlignedText::append_utf8(std::string& out, Range range) const {
  for (std::uint32_t i = range.begin; i < range.end; ++i) text::append_utf8(out, chars_[i].code);
}

void AlignedText::check_size(std::size_t size) const {
  if (size > limit_) {
    throw Error({.what = "the normalizer makes the text too long", .expected = "at most " + std::to_string(limit_) + " code points"});
  }
}

void AlignedText::refresh() {
  char32_t all = 0;
  for (const Char& c : chars_) all |= c.code;
  ascii_ = all < 0x80;
}

}  // namespace mmtune::text
