#pragma once
// Tokens and their ids: a hash table whose lookups can be grown one byte at a time.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace mmtune::text {

/// A hash of bytes that can be extended: hash of "ab" = extend(extend(kHashSeed, 'a'), 'b').
inline constexpr std::uint64_t kHashSeed = 0xCBF29CE484222325;
constexpr std::uint64_t extend_hash(std::uint64_t hash, unsigned char byte) {
  return (hash ^ byte) * 0x100000001B3;
}
std::uint64_t hash_bytes(std::string_view bytes);

/// Tokens with ids from 0 to 2^31 − 1, in any order and with gaps; no token and no id twice. Tokens are at most kLongestToken bytes.
class Vocabulary {
 public:
  static constexpr std::size_t kLongestToken = 4096;
  static constexpr std::int64_t kLargestId = 0x7FFFFFFF;

  struct Entry {
    std::string token;
    std::int64_t id;
  };

  Vocabulary() : Vocabulary({}, {}) {}
  /// Throws Error naming `where` on a token or an id that stands there twice, an id out of range or a token that is too long.
  Vocabulary(const std::vector<Entry>& entries, const std::string& where);

  std::size_t size() const { return entries_.size(); }
  std::size_t longest_token() const { return longest_; }

  std::optional<std::int64_t> find(std::string_view token) const;
  /// The id of the token prefix + rest, or −1; `hash` is hash_bytes of the whole.
  std::int64_t find(std::uint64_t hash, std::string_view prefix, std::string_view rest) const;
  std::optional<std::string_view> token_of(std::int64_t id) const;

 private:
  struct Stored {
    std::uint32_t begin;
    std::uint32_t size;
    std::int64_t id;
  };
  struct Slot {
    std::uint32_t tag = 0;
    std::uint32_t index = kEmpty;
  };
  static constexpr std::uint32_t kEmpty = 0xFFFFFFFF;

  std::size_t slot_of(std::uint64_t hash) const { return static_cast<std::size_t>((hash * 0x9E3779B97F4A7C15) >> shift_); }
  std::string_view token(const Stored& entry) const { return std::string_view(bytes_).substr(entry.begin, entry.size); }
  void insert(std::uint32_t index, const std::string& where);

  std::string bytes_;
  std::vector<Stored> entries_;  ///< by ascending id
  std::vector<Slot> slots_;
  int shift_ = 63;
  std::size_t longest_ = 0;
};

/// Reads {"token": id, …}. Throws Error naming `where`.
Vocabulary read_vocabulary(const Json& json, const std::string& where);

}  // namespace mmtune::text
