#include "report/prompt_page.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "report/html.h"
#include "report/table.h"
#include "vision/encode_png.h"

namespace mmtune::report {

namespace {

constexpr std::array<Colour, 3> channel_colours = {{{196, 49, 49}, {33, 130, 61}, {42, 86, 190}}};
constexpr std::array<const char*, 3> channel_names = {"red", "green", "blue"};
constexpr Colour ink{40, 44, 52};

std::string tag(const std::string& name, const std::string& content, const std::string& attributes = {}) {
  return "<" + name + (attributes.empty() ? "" : " " + attributes) + ">" + content + "</" + name + ">";
}

std::string figure(const vision::Image& picture, const std::string& title, const std::string& words) {
  return "<figure style=\"display:inline-block;margin:0 1rem 1rem 0\"><img src=\"" + data_uri("image/png", vision::encode_png(picture)) +
         "\" width=\"" + std::to_string(std::max<std::int64_t>(picture.width, 224)) + "\" alt=\"" + escape_html(title) +
         "\" style=\"image-rendering:pixelated;max-width:100%\"><figcaption><b>" + escape_html(title) + "</b><br><small>" +
         escape_html(words) + "</small></figcaption></figure>";
}

}  // namespace

Drawing power_picture(const PromptView& view) {
  constexpr double width = 420, height = 200, left = 52, below = 34, top = 10, right = 12;
  Drawing drawing(width, height);
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (std::size_t k = 1; k < view.power.size(); ++k)
    for (const double power : view.power[k])
      if (power > 0) {
        low = std::min(low, std::log10(power));
        high = std::max(high, std::log10(power));
      }
  drawing.add(Segment{left, height - below, width - right, height - below, 0.8, {160, 168, 178}});
  drawing.add(Words{(left + width - right) / 2, height - 6, 10, "cycles a frame", ink, Anchor::middle});
  if (!(high >= low) || view.power.size() < 3) {
    drawing.add(Words{width / 2, height / 2, 12, "the prompt is 0 throughout", ink, Anchor::middle});
    return drawing;
  }
  if (high - low < 1e-6) high = low + 1;
  const double last = std::log10(static_cast<double>(view.power.size() - 1));
  const auto x = [&](std::size_t k) { return left + (width - left - right) * std::log10(static_cast<double>(k)) / last; };
  const auto y = [&](double power) { return top + (height - top - below) * (high - std::log10(power)) / (high - low); };
  for (std::size_t k = 1; k < view.power.size(); k *= 4)
    drawing.add(Words{x(k), height - below + 13, 9, std::to_string(k), ink, Anchor::middle});
  for (const double level : {low, high})
    drawing.add(Words{left - 4, y(std::pow(10.0, level)) + 4, 9, "1e" + std::to_string(std::lround(level)), ink, Anchor::end});
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t k = 1; k + 1 < view.power.size(); ++k)
      if (view.power[k][c] > 0 && view.power[k + 1][c] > 0)
        drawing.add(Segment{x(k), y(view.power[k][c]), x(k + 1), y(view.power[k + 1][c]), 1.4, channel_colours[c]});
  return drawing;
}

std::string prompt_page(const PromptView& view, const std::string& name, const std::vector<std::pair<std::string, std::string>>& facts) {
  std::string body = tag("h1", "A visual prompt");
  body += tag("p",
              escape_html(name) + ": " + escape_html(view.form) + " in a frame of " + std::to_string(view.frame) + ", the picture " +
                  std::to_string(view.image) + " pixels wide.",
              "class=\"soft\"");
  body += "<div class=\"facts\"><div><b>" + human_count(static_cast<double>(view.trained)) + "</b><small>numbers</small></div><div><b>" +
          number(view.l2, 2) + "</b><small>length</small></div><div><b>" + number(100 * view.outside, 1) +
          " %</b><small>outside [0, 1]</small></div></div>";
  if (!facts.empty()) {
    std::string rows;
    for (const auto& [key, value] : facts) rows += "<tr><th>" + escape_html(key) + "</th><td>" + escape_html(value) + "</td></tr>";
    body += "<div class=\"wide told\"><table>" + rows + "</table></div>";
  }
  body += tag("h2", "How it looks");
  body += figure(view.clipped, "Clipped", "What 8 bits show on black: below 0 is lost.");
  body += figure(view.stretched, "Stretched", "The 1st to the 99th percentile on black to white.");
  body += figure(view.spectrum, "Spectrum", "Logarithm of the Fourier magnitude, low frequencies in the middle.");
  body += tag("h2", "Its numbers");
  std::string rows = "<tr><th>channel</th><th>least</th><th>largest</th><th>mean</th><th>deviation</th><th>length</th></tr>";
  for (std::size_t c = 0; c < 3; ++c) {
    const ChannelStatistics& one = view.channels[c];
    rows += "<tr><td>" + std::string(channel_names[c]) + "</td>";
    for (const double value : {one.min, one.max, one.mean, one.std, one.l2}) rows += "<td>" + number(value, 4) + "</td>";
    rows += "</tr>";
  }
  body += "<div class=\"wide\"><table>" + rows + "</table></div>";
  body +=
      tag("p", "Of what training changes. A model must be given the numbers themselves; a picture of 8 bits holds only those from 0 to 1.",
          "class=\"soft\"");
  body += tag("h2", "Power by frequency") + "<div class=\"wide\">" + power_picture(view).svg("power of the channels by frequency", true) +
          "</div>";
  return html_page("mmtune: " + name, body);
}

Json prompt_json(const PromptView& view) {
  Json json = {{"form", view.form},       {"frame", view.frame}, {"width", view.width},        {"image_size", view.image},
               {"numbers", view.trained}, {"l2", view.l2},       {"outside_0_1", view.outside}};
  for (std::size_t c = 0; c < 3; ++c) {
    const ChannelStatistics& one = view.channels[c];
    json["channels"].push_back(
        {{"channel", channel_names[c]}, {"min", one.min}, {"max", one.max}, {"mean", one.mean}, {"std", one.std}, {"l2", one.l2}});
  }
  for (std::size_t k = 0; k < view.power.size(); ++k) json["power"].push_back(view.power[k]);
  return json;
}

std::string prompt_table(const PromptView& view) {
  Table table(
      {{"channel"}, {"min", Align::right}, {"max", Align::right}, {"mean", Align::right}, {"std", Align::right}, {"l2", Align::right}});
  for (std::size_t c = 0; c < 3; ++c) {
    const ChannelStatistics& one = view.channels[c];
    table.add({channel_names[c], fixed(one.min), fixed(one.max), fixed(one.mean), fixed(one.std), fixed(one.l2, 2)});
  }
  return table.text();
}

}  // namespace mmtune::report
