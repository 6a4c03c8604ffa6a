#include "report/waveform.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace mmtune::report {
namespace {

TEST(Waveform, DrawsTheOutlineOfTheSamples) {
  // Silence, then full scale.
  std::vector<float> samples(24000, 0.0F);
  for (std::size_t i = 12000; i < samples.size(); ++i) samples[i] = i % 2 == 0 ? 0.5F : -0.5F;
  const std::string svg = waveform_svg(samples, 16000, "a \"b\"");
  EXPECT_NE(svg.find("1.50 s"), std::string::npos);
  EXPECT_NE(svg.find("a &quot;b&quot;"), std::string::npos);
  EXPECT_NE(svg.find("M0 24.0"), std::string::npos);    // the silence is a line in the middle
  EXPECT_NE(svg.find("L119 2.0"), std::string::npos);   // the loudest sample reaches the margin
  EXPECT_NE(svg.find("L119 46.4"), std::string::npos);  // and so does its opposite
}

TEST(Waveform, TakesWhateverThereIs) {
  for (const std::vector<float>& samples : {std::vector<float>{}, std::vector<float>{0.3F}, std::vector<float>{0, 0, 0},
                                            std::vector<float>{1, std::numeric_limits<float>::quiet_NaN(), -1}}) {
    const std::string svg = waveform_svg(samples, 8000, "x");
    EXPECT_TRUE(svg.starts_with("<svg") && svg.ends_with("</svg>"));
    EXPECT_EQ(svg.find("nan"), std::string::npos);
  }
}

}  // namespace
}  // namespace mmtune::report
