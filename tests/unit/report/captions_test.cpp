// BLEU by counts: the whole set, and resamples of it. (The arithmetic itself is held against the COCO evaluation in tests/parity.)

#include "report/captions.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mmtune::report {
namespace {

std::vector<Captions> some() {
  const auto words = [](const char* text) { return caption_tokens(text); };
  return {{words("a red box on a table"), {words("a red box stands on the table"), words("one box")}},
          {words("a dog"), {words("a dog runs over green grass"), words("the dog is there")}},
          {words("two people walk along a river in the sun"), {words("two people walk along a river")}}};
}

TEST(Bleu, AResampleIsTheSetWithItsCaptionsAsOften) {
  const std::vector<Captions> captions = some();
  std::vector<BleuCounts> counts;
  for (const Captions& one : captions) counts.push_back(bleu_counts(one));
  EXPECT_EQ(bleu(counts), bleu(captions));
  const std::uint32_t weights[] = {2, 0, 1};
  const std::vector<Captions> resample = {captions[0], captions[0], captions[2]};
  const auto expected = bleu(resample), got = bleu(counts, weights);
  for (std::size_t n = 0; n < 4; ++n) {
    EXPECT_NEAR(got[n], expected[n], 1e-12);
    EXPECT_GT(got[n], 0);
  }
  EXPECT_NE(got[3], bleu(captions)[3]);
  EXPECT_TRUE(std::isnan(bleu(std::span<const BleuCounts>())[0]));
}

}  // namespace
}  // namespace mmtune::report
