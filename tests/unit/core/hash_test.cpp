#include "core/hash.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>

namespace mmtune {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(Fingerprint, MatchesTheAlgorithmsPublishedValueForEmptyInput) {
  EXPECT_EQ(Fingerprint().hex(), "99aa06d3014798d86001c324468d497f");  // XXH3 128, seed 0, no bytes
}

TEST(Fingerprint, PiecesOfPlainBytesDoNotMatter) {
  const std::string text(100'000, 'x');
  Fingerprint whole, pieces;
  whole.add(bytes_of(text));
  for (std::size_t at = 0; at < text.size(); at += 777) pieces.add(bytes_of(std::string_view(text).substr(at, 777)));
  EXPECT_EQ(whole.hex(), pieces.hex());
}

TEST(Fingerprint, FieldsAreFramed) {
  EXPECT_NE(Fingerprint().add_field("a").add_field("b").hex(), Fingerprint().add_field("ab").hex());
  EXPECT_NE(Fingerprint().add_field("").add_field("a").hex(), Fingerprint().add_field("a").add_field("").hex());
}

TEST(Fingerprint, AskingDoesNotChangeIt) {
  Fingerprint fingerprint;
  fingerprint.add_field(std::int64_t{-1});
  const std::string first = fingerprint.hex();
  EXPECT_EQ(fingerprint.hex(), first);
  EXPECT_EQ(first.size(), 32U);
  EXPECT_NE(fingerprint.add_field(std::int64_t{0}).hex(), first);
}

TEST(Fingerprint, CanBeMoved) {
  Fingerprint one;
  one.add_field("x");
  const std::string expected = one.hex();
  Fingerprint two = std::move(one);
  EXPECT_EQ(two.hex(), expected);
}

TEST(MixSeed, NeighboursDiffer) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    for (std::uint64_t counter = 0; counter < 100; ++counter) seen.insert(mix_seed(seed, counter));
  }
  EXPECT_EQ(seen.size(), 10'000U);
  EXPECT_EQ(mix_seed(3, 4), mix_seed(3, 4));
}

}  // namespace
}  // namespace mmtune
