#include "text/vocabulary.h"

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "text/json_fields.h"

namespace mmtune::text {

namespace {

// A table at most half full of well-spread hashes has chains of a few slots. A file made to collide is refused before it costs time.
constexpr int kLongestChain = 512;

}  // namespace

std::uint64_t hash_bytes(std::string_view bytes) {
  std::uint64_t hash = kHashSeed;
  for (const char c : bytes) hash = extend_hash(hash, static_cast<unsigned char>(c));
  return hash;
}

Vocabulary::Vocabulary(const std::vector<Entry>& entries, const std::string& where) {
  std::size_t total = 0;
  for (const Entry& entry : entries) {
    if (entry.id < 0 || entry.id > kLargestId) {
      throw Error({.what = "id of token '" + printable(entry.token, 40) + "' is out of range",
                   .where = where,
                   .expected = "0 to " + std::to_string(kLargestId),
                   .got = std::to_string(entry.id)});
    }
    if (entry.token.size() > kLongestToken) {
      throw Error({.what = "token '" + printable(entry.token, 40) + "' is too long",
                   .where = where,
                   .expected = "at most " + std::to_string(kLongestToken) + " bytes",
                   .got = std::to_string(entry.token.size())});
    }
    total += entry.token.size();
  }
  if (entries.size() > 0x40000000 || total > 0x7FFFFFFF) throw Error({.what = "the vocabulary is too large", .where = where});

  bytes_.reserve(total);
  entries_.reserve(entries.size());
  for (const Entry& entry : entries) {
    entries_.push_back({static_cast<std::uint32_t>(bytes_.size()), static_cast<std::uint32_t>(entry.token.size()), entry.id});
    bytes_ += entry.token;
    longest_ = std::max(longest_, entry.token.size());
  }
  std::sort(entries_.begin(), entries_.end(), [](const Stored& a, const Stored& b) { return a.id < b.id; });
  const auto same = std::adjacent_find(entries_.begin(), entries_.end(), [](const Stored& a, const Stored& b) { return a.id == b.id; });
  if (same != entries_.end()) {
    throw Error({.what = "tokens '" + printable(token(*same), 40) + "' and '" + printable(token(*(same + 1)), 40) + "' have the same id " +
                         std::to_string(same->id),
                 .where = where});
  }

  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(entries_.size() * 2, 2));
  shift_ = 64 - std::countr_zero(slots);
  slots_.resize(slots);
  for (std::uint32_t i = 0; i < entries_.size(); ++i) insert(i, where);
}

void Vocabulary::insert(std::uint32_t index, const std::string& where) {
  const std::string_view added = token(entries_[index]);
  const std::uint64_t hash = hash_bytes(added);
  const auto tag = static_cast<std::uint32_t>(hash);
  int chain = 0;
  std::size_t slot = slot_of(hash);
  for (; slots_[slot].index != kEmpty; slot = (slot + 1) & (slots_.size() - 1)) {
    if (slots_[slot].tag == tag && token(entries_[slots_[slot].index]) == added) {
      throw Error({.what = "token '" + printable(added, 40) + "' stands there twice", .where = where});
    }
    if (++chain > kLongestChain) throw Error({.what = "the vocabulary's tokens collide: the file is damaged or hostile", .where = where});
  }
  slots_[slot] = {tag, index};
}

std::optional<std::int64_t> Vocabulary::find(std::string_view token) const {
  const std::int64_t id = find(hash_bytes(token), {}, token);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::int64_t Vocabulary::find(std::uint64_t hash, std::string_view prefix, std::string_view rest) const {
  const auto tag = static_cast<std::uint32_t>(hash);
  for (std::size_t slot = slot_of(hash); slots_[slot].index != kEmpty; slot = (slot + 1) & (slots_.size() - 1)) {
    if (slots_[slot].tag != tag) continue;
    const Stored& entry = entries_[slots_[slot].index];
    if (entry.size != prefix.size() + rest.size()) continue;
    const std::string_view stored = token(entry);
    if (stored.substr(prefix.size()) == rest && stored.substr(0, prefix.size()) == prefix) return entry.id;
  }
  return -1;
}

std::optional<std::string_view> Vocabulary::token_of(std::int64_t id) const {
  // Ids without gaps are their own places.
  if (id >= 0 && static_cast<std::size_t>(id) < entries_.size() && entries_[static_cast<std::size_t>(id)].id == id) {
    return token(entries_[static_cast<std::size_t>(id)]);
  }
  const auto found =
      std::lower_bound(entries_.begin(), entries_.end(), id, [](const Stored& e, std::int64_t value) { return e.id < value; });
  if (found == entries_.end() || found->id != id) return std::nullopt;
  return token(*found);
}

Vocabulary read_vocabulary(const Json& json, const std::string& where) {
  [[maybe_unused]] const JsonFields an_object(json, where);
  std::vector<Vocabulary::Entry> entries;
  entries.reserve(json.size());
  for (const auto& [token, id] : json.items()) {
    if (!id.is_number_integer()) {
      throw Error({.what = "wrong id of token '" + printable(token, 40) + "'", .where = where, .expected = "an integer", .got = shown(id)});
    }
    // An unsigned number beyond int64 comes out negative and is refused as out of range.
    entries.push_back({token, id.get<std::int64_t>()});
  }
  return Vocabulary(entries, where);
}

}  // namespace mmtune::text
