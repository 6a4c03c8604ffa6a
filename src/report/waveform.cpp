#include "report/waveform.h"

#include <algorithm>
#include <cmath>

#include "report/html.h"

namespace mmtune::report {

std::string waveform_svg(std::span<const float> samples, std::int64_t rate, const std::string& label) {
  constexpr std::size_t columns = 120;
  constexpr double height = 48, middle = height / 2, quietest = 1e-4;
  double peak = quietest;
  for (const float sample : samples)
    if (std::isfinite(sample)) peak = std::max(peak, std::abs(static_cast<double>(sample)));
  const double scale = (middle - 2) / peak;
  std::string upper, lower;
  const std::size_t count = std::min(columns, samples.size());
  for (std::size_t column = 0; column < count; ++column) {
    const auto part =
        samples.subspan(column * samples.size() / count, (column + 1) * samples.size() / count - column * samples.size() / count);
    const auto [least, greatest] = std::minmax_element(part.begin(), part.end());
    const std::string x = std::to_string(column * columns / count);
    upper += (upper.empty() ? "M" : "L") + x + " " + number(middle - std::clamp(*greatest * scale, -middle, middle), 1);
    lower = "L" + x + " " + number(middle + 0.4 - std::clamp(*least * scale, -middle, middle), 1) + lower;
  }
  const std::string seconds = number(rate > 0 ? static_cast<double>(samples.size()) / static_cast<double>(rate) : 0, 2) + " s";
  std::string svg = "<svg class=\"wave\" viewBox=\"0 0 120 62\" role=\"img\" aria-label=\"" + escape_html(label) + ", " + seconds + "\">";
  svg += "<path d=\"M0 24H120\" stroke=\"var(--line)\"/>";
  if (!upper.empty()) svg += "<path d=\"" + upper + lower + "Z\" fill=\"var(--ink)\"/>";
  return svg + "<text class=\"soft\" x=\"0\" y=\"60\">" + seconds + "</text></svg>";
}

}  // namespace mmtune::report
