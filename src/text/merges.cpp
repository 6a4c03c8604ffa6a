#include "text/merges.h"

#include <bit>

#include "core/error.h"
#include "text/json_fields.h"

namespace mmtune::text {

namespace {

// A table at most half full of well-spread hashes has chains of a few slots. A file made to collide is refused before it costs time.
constexpr int kLongestChain = 512;

constexpr std::string_view kVersion = "#version";

/// "a b" with exactly one space.
MergeNames split_merge(std::string_view line, const std::string& where) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
    throw Error(
        {.what = "wrong merge '" + printable(line, 40) + "'", .where = where, .expected = "two tokens with one space between them"});
  }
  return {std::string(line.substr(0, space)), std::string(line.substr(space + 1))};
}

}  // namespace

MergeTable::MergeTable(const std::vector<MergeNames>& names, const Vocabulary& vocabulary, std::size_t prefix_size,
                       const std::string& where) {
  if (names.size() > 0x40000000) throw Error({.what = "there are too many merges", .where = where});
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(names.size() * 2, 2));
  shift_ = 64 - std::countr_zero(slots);
  slots_.resize(slots);
  for (std::size_t rank = 0; rank < names.size(); ++rank) {
    const std::string& left = names[rank].first;
    const std::string& right = names[rank].second;
    const auto id_of = [&](const std::string& token) {
      const auto id = vocabulary.find(token);
      if (id) return *id;
      throw Error({.what = "merge " + std::to_string(rank) + " ('" + printable(left, 40) + "', '" + printable(right, 40) +
                           "') needs the token '" + printable(token, 80) + "', which is not in the vocabulary",
                   .where = where});
    };
    const std::int64_t left_id = id_of(left);
    const std::int64_t right_id = id_of(right);
    if (right.size() < prefix_size) {
      throw Error({.what = "merge " + std::to_string(rank) + " continues a word with '" + printable(right, 40) +
                           "', which is shorter than continuing_subword_prefix",
                   .where = where});
    }
    const std::uint64_t pair = pair_of(left_id, right_id);
    std::size_t slot = slot_of(pair);
    for (int chain = 0; slots_[slot].pair != kEmpty && slots_[slot].pair != pair; slot = (slot + 1) & (slots_.size() - 1)) {
      if (++chain > kLongestChain) throw Error({.what = "the merges collide: the file is damaged or hostile", .where = where});
    }
    if (slots_[slot].pair == kEmpty) ++size_;
    slots_[slot] = {pair, {static_cast<std::uint32_t>(rank), id_of(left + right.substr(prefix_size))}};
  }
}

std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  pair = (pair ^ pair >> 32) * 0xD6E8FEB86659FD93;
  return static_cast<std::size_t>((pair ^ pair >> 32) * 0x9E3779B97F4A7C15 >> shift_);
}

const MergeTable::Merge* MergeTable::find(std::int64_t left, std::int64_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t slot = slot_of(pair); slots_[slot].pair != kEmpty; slot = (slot + 1) & (slots_.size() - 1)) {
    if (slots_[slot].pair == pair) return &slots_[slot].merge;
  }
  return nullptr;
}

std::vector<MergeNames> read_merges(const Json& json, const std::string& where) {
  if (!json.is_array()) throw Error({.what = "wrong type", .where = where, .expected = "a list", .got = shown(json)});
  std::vector<MergeNames> merges;
  merges.reserve(json.size());
  const bool lines = !json.empty() && json[0].is_string();
  for (std::size_t i = 0; i < json.size(); ++i) {
    const Json& item = json[i];
    const auto place = [&] { return where + "[" + std::to_string(i) + "]"; };
    if (lines && item.is_string()) {
      const auto& line = item.get_ref<const std::string&>();
      if (!line.starts_with(kVersion)) merges.push_back(split_merge(line, place()));
    } else if (!lines && item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      merges.emplace_back(item[0].get<std::string>(), item[1].get<std::string>());
    } else {
      throw Error({.what = "wrong merge",
                   .where = place(),
                   .expected = lines ? "a string like those before it" : "\"a b\" or [\"a\", \"b\"]",
                   .got = shown(item)});
    }
  }
  return merges;
}

std::vector<MergeNames> read_merges_txt(const std::string& text, const std::string& where) {
  std::vector<MergeNames> merges;
  std::size_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = std::string_view(text).substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    at = end + 1;
    ++number;
    if (!line.starts_with(kVersion)) merges.push_back(split_merge(line, where + ": line " + std::to_string(number)));
  }
  return merges;
}

}  // namespace mmtune::text
