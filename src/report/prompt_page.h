#pragma once
// What a visual prompt looks like, as a page and as a table.

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "report/drawing.h"
#include "vision/image.h"

namespace mmtune::report {

struct ChannelStatistics {
  double min = 0, max = 0, mean = 0, std = 0, l2 = 0;
};

struct PromptView {
  std::string form;
  std::int64_t frame = 0, width = 0, image = 0;
  std::int64_t trained = 0;  ///< numbers that training changes
  double l2 = 0;
  double outside = 0;  ///< share of the trained numbers outside [0, 1]: what 8 bits clip on black
  std::array<ChannelStatistics, 3> channels;
  vision::Image clipped;  ///< values below 0 and above 1 lost
  vision::Image
      stretched;  ///< contrast: the 1st to the 99th percentile of the trained numbers on black to white; 0 where nothing is trained
  vision::Image spectrum;  ///< logarithm of the Fourier magnitude, low frequencies in the middle
  /// Mean power by frequency (cycles a frame), a column a channel.
  std::vector<std::array<double, 3>> power;
};

/// One self-contained page. `facts`: what else is known of the prompt (model, data, …).
std::string prompt_page(const PromptView& view, const std::string& name, const std::vector<std::pair<std::string, std::string>>& facts);
/// The power of the channels over the frequency, on logarithmic axes.
Drawing power_picture(const PromptView& view);
Json prompt_json(const PromptView& view);
/// A table of the channels for a terminal.
std::string prompt_table(const PromptView& view);

}  // namespace mmtune::report
