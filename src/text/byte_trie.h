#pragma once
// A trie over bytes as one array (a double array, Aoe 1989): a child is found by one look-up.

#include <cstdint>
#include <string_view>
#include <vector>

namespace mmtune::text {

class ByteTrie {
 public:
  static constexpr std::uint32_t kRoot = 0;
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  struct Entry {
    std::string_view key;
    std::int32_t value;  ///< not negative
  };

  ByteTrie() = default;
  /// Keys are not empty, and none stands there twice.
  explicit ByteTrie(std::vector<Entry> entries);

  bool empty() const { return units_.empty(); }
  /// The node behind `node` and a byte, or kNone. The trie must not be empty.
  std::uint32_t child(std::uint32_t node, unsigned char byte) const {
    const std::uint32_t at = units_[node].base + byte;
    return units_[at].parent == node ? at : kNone;
  }
  /// The value of the key that ends in `node`, or −1.
  std::int32_t value(std::uint32_t node) const { return units_[node].value; }
  /// The length of the longest key that `bytes` begins with, or 0.
  std::size_t longest(std::string_view bytes) const;

 private:
  struct Unit {
    std::uint32_t base = 0;
    std::uint32_t parent = kNone;
    std::int32_t value = -1;
  };
  std::uint32_t place(const std::vector<unsigned char>& labels);

  std::vector<Unit> units_;
  std::uint32_t search_from_ = 1;
};

}  // namespace mmtune::text
