#include "report/apt_page.h"

#include <algorithm>
#include <cmath>

#include "report/html.h"

namespace mmtune::report {

namespace {

constexpr double golden_angle = 137.508;

/// Neighbouring prompts differ in hue; the same in light and dark.
std::string colour(std::size_t prompt) {
  return "hsl(" + number(std::fmod(210.0 + golden_angle * static_cast<double>(prompt), 360.0), 0) + " 60% 52%)";
}

std::string percent(double share) {
  return number(100 * share, 1) + " %";
}

std::string prompt_name(std::size_t prompt) {
  return "prompt " + std::to_string(prompt + 1);
}

std::string tag(const std::string& name, const std::string& content, const std::string& attributes = {}) {
  return "<" + name + (attributes.empty() ? "" : " " + attributes) + ">" + content + "</" + name + ">";
}

std::string fact(const std::string& name, const std::string& value) {
  return "<div><b>" + escape_html(value) + "</b><small>" + escape_html(name) + "</small></div>";
}

/// The prompts that are the strongest, by the share of the rows; the rest of the bar is the others' and that of rows without any.
std::string bar(const AptPlace& place) {
  constexpr double width = 220;
  std::string svg =
      "<svg viewBox=\"0 0 220 18\" width=\"220\" height=\"18\" role=\"img\" aria-label=\"strongest prompts\">"
      "<rect x=\"0\" y=\"8\" width=\"220\" height=\"2\" fill=\"currentColor\" fill-opacity=\"0.15\"/>";
  double x = 0;
  for (const auto& [prompt, share] : place.strongest) {
    const double wide = share * width;
    svg += "<rect x=\"" + number(x, 2) + "\" y=\"0\" width=\"" + number(std::max(wide - 1, 0.2), 2) + "\" height=\"18\" fill=\"" +
           colour(prompt) + "\"><title>" + prompt_name(prompt) + ": " + percent(share) + "</title></rect>";
    x += wide;
  }
  return svg + "</svg>";
}

std::string place_table(const AptTower& tower) {
  std::string rows =
      "<tr><th>attention</th><th>strongest prompts</th><th>rows with any</th><th>prompts a row</th><th>mean "
      "weight</th><th>prompts used</th></tr>";
  for (const AptPlace& place : tower.places)
    rows += "<tr><td>" + escape_html(place.name) + "</td><td>" + bar(place) + "</td><td>" + percent(place.fired) + "</td><td>" +
            number(place.per_row, 1) + "</td><td>" + number(place.weight) + "</td><td>" + std::to_string(place.used) + " of " +
            std::to_string(place.prompts) + "</td></tr>";
  return "<div class=\"wide\"><table>" + rows + "</table></div>";
}

std::string prompt_card(const AptPrompt& prompt) {
  std::string words, patches;
  for (const AptInput& input : prompt.inputs) {
    const std::string note = escape_html(input.example) + " · " + number(input.score, 2);
    if (input.picture.empty()) {
      words += "<span title=\"" + note + "\">" + escape_html(input.word) + "</span> ";
    } else {
      patches += "<figure><img alt=\"a patch of " + escape_html(input.example) + "\" src=\"" + input.picture + "\"><figcaption>" + note +
                 "</figcaption></figure>";
    }
  }
  return "<h4><svg viewBox=\"0 0 12 12\" width=\"12\" height=\"12\" style=\"display:inline\" aria-hidden=\"true\"><rect width=\"12\" "
         "height=\"12\" fill=\"" +
         colour(prompt.number) + "\"/></svg> " + prompt_name(prompt.number) + "</h4>" +
         tag("p", "the strongest for " + percent(prompt.share) + " of the rows; what answers most:", "class=\"soft\"") +
         (words.empty() ? "" : "<p class=\"words\">" + words + "</p>") +
         (patches.empty() ? "" : "<div class=\"gallery\">" + patches + "</div>");
}

/// The picture, and where prompts fire in it.
std::string maps(const AptExample& example) {
  constexpr double side = 240;
  const double height = side * static_cast<double>(example.rows) / static_cast<double>(example.columns);
  const double wide = side / static_cast<double>(example.columns), high = height / static_cast<double>(example.rows);
  const std::string sized = "\" width=\"" + number(side, 0) + "\" height=\"" + number(height, 0) + "\"";
  std::string svg = "<svg viewBox=\"0 0 " + number(side, 0) + " " + number(height, 0) + sized +
                    " role=\"img\" aria-label=\"where prompts fire in " + escape_html(example.id) + "\"><image href=\"" + example.picture +
                    sized + " preserveAspectRatio=\"none\" style=\"filter:grayscale(1)\"/>";
  for (std::size_t i = 0; i < example.patches.size(); ++i) {
    const AptStrength& one = example.patches[i];
    const std::size_t row = i / example.columns;
    svg += "<rect x=\"" + number(wide * static_cast<double>(i % example.columns), 2) + "\" y=\"" +
           number(high * static_cast<double>(row), 2) + "\" width=\"" + number(wide, 2) + "\" height=\"" + number(high, 2) + "\" fill=\"" +
           colour(one.prompt) + "\" fill-opacity=\"" + number(0.8 * one.strength, 3) + "\"><title>" + prompt_name(one.prompt) + ": " +
           number(one.strength, 2) + "</title></rect>";
  }
  return "<div class=\"wide\" style=\"display:flex;gap:.5rem\"><img src=\"" + example.picture + sized + " alt=\"\">" + svg + "</svg></div>";
}

std::string example_card(const AptExample& example) {
  std::string card = tag("p",
                         tag("b", escape_html(example.id)) + ": label " + tag("b", escape_html(example.label)) + ", answer " +
                             tag("b", escape_html(example.predicted)),
                         "class=\"soft\"");
  std::string words;
  for (const auto& [word, one] : example.words)
    words += "<span style=\"background:color-mix(in srgb, " + colour(one.prompt) + " " + number(80 * one.strength, 0) +
             "%, transparent);padding:0 0.15rem;border-radius:3px\" title=\"" + prompt_name(one.prompt) + ": " + number(one.strength, 2) +
             "\">" + escape_html(word) + "</span> ";
  if (!words.empty()) card += tag("p", words);
  if (!example.picture.empty() && example.columns > 0) card += maps(example);
  return card;
}

}  // namespace

std::string apt_page(const AptPage& page) {
  std::string body = tag("h1", "Which prompts fire for what");
  body += tag("p", "The run " + tag("b", escape_html(page.run)) + " on " + escape_html(page.data) + ".", "class=\"soft\"");
  body +=
      "<div class=\"facts\">" + fact("examples", std::to_string(page.examples)) + fact(page.metric_name, number(page.metric)) + "</div>";
  body +=
      tag("p",
          "A row is a word or a patch as an attention sees it. A prompt fires for a row whose score against its key is above zero; what is "
          "added to the attention's output is the sum of the prompts, each by its score, times the largest of them. A bar shows for "
          "how large a share of the rows each prompt is the strongest.");
  for (const AptTower& tower : page.towers) {
    body += tag("h2", "The " + escape_html(tower.name) + " tower, attention by attention") + place_table(tower);
    if (tower.places.empty()) continue;
    const std::string& place = tower.places[tower.shown].name;
    body += tag("h3", "What its prompts answer to, at " + escape_html(place));
    for (const AptPrompt& prompt : tower.prompts) body += prompt_card(prompt);
    body += tag("h3", "Where they fire, at " + escape_html(place));
    body += tag("p", "The colour is that of the strongest prompt; the fuller, the more is added, of words and of patches each.",
                "class=\"soft\"");
    for (const AptExample& example : tower.examples) body += example_card(example);
  }
  return html_page("Which prompts fire for what", body);
}

}  // namespace mmtune::report
