#pragma once
// SentencePiece's table of normalisations (precompiled_charsmap): a double array of its own format, and the texts that it points at.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/normalizer.h"

namespace mmtune::text {

/// One object serves many threads.
class Charsmap {
 public:
  struct Found {
    std::size_t length;     ///< bytes that are replaced
    std::string_view text;  ///< by what
  };

  /// `table`: u32 size of the array in bytes, the array, texts that end in a zero byte. Throws Error naming `where` on sizes that cannot
  /// be.
  Charsmap(std::string table, std::string where);

  /// The longest rule for what `bytes` begins with, as SentencePiece takes it. Throws Error where the table points outside itself.
  std::optional<Found> longest(std::string_view bytes) const { return find(bytes, true); }
  /// The shortest one, as the `tokenizers` package takes it.
  std::optional<Found> shortest(std::string_view bytes) const { return find(bytes, false); }

 private:
  std::optional<Found> find(std::string_view bytes, bool longest) const;
  std::uint32_t unit(std::size_t index) const;
  std::string_view text_at(std::size_t offset) const;

  std::string table_;
  std::vector<std::uint32_t> units_;
  std::string_view texts_;
  std::string where_;
};

/// The normalizer Precompiled of the `tokenizers` package: a grapheme of less than six bytes is replaced as a whole by the shortest rule
/// for its beginning; the characters of others, and of one without a rule, one by one.
std::unique_ptr<Normalizer> make_precompiled(Charsmap table);

}  // namespace mmtune::text
