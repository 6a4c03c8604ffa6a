#include "report/mope_page.h"

#include <algorithm>
#include <cmath>

#include "report/html.h"

namespace mmtune::report {

namespace {

constexpr double golden_angle = 137.508;

/// Neighbouring experts differ in hue; the same in light and dark.
std::string colour(std::size_t expert) {
  const double hue = std::fmod(210.0 + golden_angle * static_cast<double>(expert), 360.0);
  return "hsl(" + number(hue, 0) + " 55% " + (expert % 2 == 0 ? "48%" : "60%") + ")";
}

std::string percent(double share) {
  return number(100 * share, 1) + " %";
}

std::string expert_name(std::size_t expert) {
  return "expert " + std::to_string(expert + 1);
}

std::string tag(const std::string& name, const std::string& content, const std::string& attributes = {}) {
  return "<" + name + (attributes.empty() ? "" : " " + attributes) + ">" + content + "</" + name + ">";
}

std::string fact(const std::string& name, const std::string& value) {
  return "<div><b>" + escape_html(value) + "</b><small>" + escape_html(name) + "</small></div>";
}

/// The common part of the blocks' names says nothing.
std::string short_name(const std::string& block) {
  std::string name = block;
  for (const std::string part : {"encoder.layers.", "encoder.layer.", "vision_model.encoder.layers.", "text_model.encoder.layers."}) {
    if (!name.starts_with(part)) continue;
    name.erase(0, part.size());
    break;
  }
  const std::size_t at = name.find(".blocks.");
  return at == std::string::npos ? "layer " + name : "stage " + name.substr(0, at) + ", block " + name.substr(at + 8);
}

std::string usage_bar(const RoutingStatistics& statistics) {
  constexpr double width = 320, height = 18;
  std::string svg = "<svg viewBox=\"0 0 320 18\" width=\"320\" height=\"18\" role=\"img\" aria-label=\"usage of the experts\">";
  double x = 0;
  for (std::size_t k = 0; k < statistics.usage.size(); ++k) {
    const double wide = statistics.usage[k] * width;
    svg += "<rect x=\"" + number(x, 2) + "\" y=\"0\" width=\"" + number(std::max(wide - 1, 0.2), 2) + "\" height=\"" + number(height, 0) +
           "\" fill=\"" + colour(k) + "\"><title>" + expert_name(k) + ": " + percent(statistics.usage[k]) + "</title></rect>";
    x += wide;
  }
  return svg + "</svg>";
}

std::string block_table(const MopePage& page) {
  std::string rows =
      "<tr><th>block</th><th>usage of the experts</th><th>entropy</th><th>CV²</th><th>information</th><th>normalised</th></tr>";
  for (std::size_t b = 0; b < page.blocks.size(); ++b) {
    const RoutingStatistics& s = page.statistics[b];
    rows += "<tr><td title=\"" + escape_html(page.blocks[b]) + "\">" + escape_html(short_name(page.blocks[b])) + "</td><td>" +
            usage_bar(s) + "</td><td>" + number(s.entropy) + "</td><td>" + number(s.variation) + "</td><td>" + number(s.information) +
            "</td><td>" + number(s.normalised) + "</td></tr>";
  }
  return "<div class=\"wide\"><table>" + rows + "</table></div>";
}

std::string legend(std::size_t experts) {
  std::string items;
  for (std::size_t k = 0; k < experts; ++k)
    items +=
        "<span style=\"white-space:nowrap;margin-right:1rem\"><svg viewBox=\"0 0 12 12\" width=\"12\" height=\"12\" "
        "style=\"display:inline\" "
        "aria-hidden=\"true\"><rect width=\"12\" height=\"12\" fill=\"" +
        colour(k) + "\"/></svg> " + expert_name(k) + "</span>";
  return tag("p", items);
}

std::string cut(const std::string& text, std::size_t most) {
  if (text.size() <= most) return text;
  std::size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

std::string figure(const ShownExample& example, const std::string& note) {
  const std::string caption = (example.text.empty() ? "" : escape_html(cut(example.text, 90)) + "<br>") + note;
  std::string shown;
  if (!example.picture.empty())
    shown = "<img alt=\"" + escape_html(example.text.empty() ? example.id : example.text) + "\" src=\"" + example.picture + "\">";
  return "<figure" + std::string(example.sound.empty() ? "" : " class=\"sounds\"") + ">" + shown + example.sound + "<figcaption>" +
         caption + "</figcaption></figure>";
}

std::string gallery(const ShownExpert& expert) {
  std::string pictures, texts;
  for (const auto& [example, score] : expert.gallery) {
    const std::string note = escape_html(example.label) + " · " + number(score, 2);
    if (example.picture.empty() && example.sound.empty()) {
      texts += "<li>" + escape_html(cut(example.text.empty() ? example.id : example.text, 160)) + " <small>" + note + "</small></li>";
    } else {
      pictures += figure(example, note);
    }
  }
  return (pictures.empty() ? "" : "<div class=\"gallery\">" + pictures + "</div>") +
         (texts.empty() ? "" : "<ul class=\"texts\">" + texts + "</ul>");
}

std::string words(const ShownExpert& expert) {
  if (expert.words.empty()) return {};
  const double largest = expert.words.front().score;
  std::string spans;
  for (const WordWeight& word : expert.words)
    spans += "<span style=\"font-size:" + number(0.8 + 0.8 * word.score / largest, 2) + "rem\" title=\"in " + std::to_string(word.count) +
             " texts\">" + escape_html(word.word) + "</span>";
  return "<p class=\"words\">" + spans + "</p>";
}

std::string expert_card(const MopePage& page, std::size_t k) {
  const ShownExpert& expert = page.shown[k];
  std::string card =
      "<h3><svg viewBox=\"0 0 12 12\" width=\"12\" height=\"12\" style=\"display:inline\" aria-hidden=\"true\"><rect width=\"12\" "
      "height=\"12\" fill=\"" +
      colour(k) + "\"/></svg> " + expert_name(k) + "</h3>";
  card += tag("p", percent(expert.usage) + " of the weight; the strongest for " + percent(expert.chosen) + " of the examples",
              "class=\"soft\"");
  if (expert.gallery.empty()) return card + tag("p", "It is the strongest for no example.");
  std::string labels;
  for (const auto& [label, share] : expert.labels) labels += (labels.empty() ? "" : ", ") + escape_html(label) + " " + percent(share);
  if (!labels.empty()) card += tag("p", "<small>labels: " + labels + "</small>");
  return card + words(expert) + gallery(expert);
}

std::string ablation_table(const MopePage& page) {
  std::string rows = "<tr><th>switched off</th><th>" + escape_html(page.metric_name) +
                     "</th><th>change</th><th>loss</th><th>answers that change</th>"
                     "<th>labels that move most</th></tr>";
  rows += "<tr><td>nothing</td><td>" + number(page.metric) + "</td><td></td><td>" + number(page.loss) + "</td><td></td><td></td></tr>";
  for (std::size_t k = 0; k < page.ablations.size(); ++k) {
    const Ablation& one = page.ablations[k];
    std::string labels;
    for (const auto& [label, change] : one.labels)
      labels += (labels.empty() ? "" : ", ") + escape_html(label) + (change < 0 ? " −" : " +") + number(100 * std::abs(change), 1);
    const double change = one.metric - page.metric;
    rows += "<tr><td>" + expert_name(k) + "</td><td>" + number(one.metric) + "</td><td>" + (change < 0 ? "−" : "+") +
            number(std::abs(change)) + "</td><td>" + number(one.loss) + "</td><td>" + percent(one.changed) + "</td><td>" + labels +
            "</td></tr>";
  }
  return "<div class=\"wide\"><table>" + rows + "</table></div>";
}

/// Blocks from left to right, experts from top to bottom; a cell is as full as the expert's score.
std::string path_picture(const ExamplePath& path, std::size_t experts) {
  constexpr std::size_t left = 64, top = 6, cell = 22, below = 20;
  const std::size_t width = left + path.scores.size() * cell + 6, height = top + experts * cell + below;
  std::string svg = "<svg viewBox=\"0 0 " + std::to_string(width) + " " + std::to_string(height) + "\" width=\"" + std::to_string(width) +
                    "\" height=\"" + std::to_string(height) + "\" role=\"img\" aria-label=\"scores of the experts, block by block\">";
  for (std::size_t k = 0; k < experts; ++k)
    svg += "<text x=\"0\" y=\"" + std::to_string(top + k * cell + 15) + "\">" + expert_name(k) + "</text>";
  for (std::size_t b = 0; b < path.scores.size(); ++b) {
    for (std::size_t k = 0; k < experts; ++k) {
      const double r = path.scores[b][k];
      svg += "<rect x=\"" + std::to_string(left + b * cell) + "\" y=\"" + std::to_string(top + k * cell) +
             "\" width=\"20\" height=\"20\" rx=\"3\" "
             "fill=\"" +
             colour(k) + "\" fill-opacity=\"" + number(0.06 + 0.94 * r, 3) + "\"><title>block " + std::to_string(b + 1) + ", " +
             expert_name(k) + ": " + number(r, 3) + "</title></rect>";
    }
    if (path.scores.size() <= 12 || b % 4 == 0)
      svg += "<text class=\"soft\" text-anchor=\"middle\" x=\"" + std::to_string(left + b * cell + 10) + "\" y=\"" +
             std::to_string(top + experts * cell + 14) + "\">" + std::to_string(b + 1) + "</text>";
  }
  return svg + "</svg>";
}

std::string path_card(const ExamplePath& path, std::size_t experts) {
  const ShownExample& example = path.example;
  std::string card = "<h3>" + escape_html(cut(example.text.empty() ? example.id : example.text, 120)) + "</h3>";
  if (!example.picture.empty())
    card += "<img alt=\"" + escape_html(example.id) + "\" src=\"" + example.picture + "\" style=\"width:6rem;image-rendering:auto\">";
  if (!example.sound.empty()) card += "<div style=\"max-width:15rem\">" + example.sound + "</div>";
  card += tag("p",
              "label " + tag("b", escape_html(example.label)) + ", answer " + tag("b", escape_html(example.predicted)) + " (" +
                  number(example.score, 2) + ")",
              "class=\"soft\"");
  return card + "<div class=\"wide\">" + path_picture(path, experts) + "</div>";
}

}  // namespace

std::string mope_page(const MopePage& page) {
  std::string body = tag("h1", "Which expert fires for what");
  body += tag("p", "The run " + tag("b", escape_html(page.run)) + " on " + escape_html(page.data) + ".", "class=\"soft\"");
  body += "<div class=\"facts\">" + fact("examples", std::to_string(page.examples)) + fact(page.metric_name, number(page.metric)) +
          fact("loss", number(page.loss)) + fact("experts a block", std::to_string(page.experts)) +
          fact("tokens of an expert", std::to_string(page.prompt_length)) + fact("routed blocks", std::to_string(page.blocks.size())) +
          "</div>";
  body += tag("h2", "The routers, block by block");
  body += tag(
      "p",
      "Usage is the mean score of every expert. Entropy is 0 where the router decides for one expert and 1 where all are alike. CV² is the "
      "squared coefficient of variation that the importance loss holds down: 0 for even usage. Information is what the strongest expert "
      "tells about the label, in bits; normalised, it is 0 for nothing and 1 for all of it.");
  body += legend(page.experts) + block_table(page);
  if (!page.shown.empty()) {
    body += tag("h2", "What each expert stands for");
    body += tag(
        "p", "In " + escape_html(short_name(page.blocks[page.shown_block])) +
                 ", whose choice tells most about the label: the inputs with the expert's highest scores, and the words that set the texts "
                 "of its examples apart.");
    std::string cards;
    for (std::size_t k = 0; k < page.shown.size(); ++k) cards += tag("section", expert_card(page, k), "class=\"card\"");
    body += "<div class=\"cards\">" + cards + "</div>";
  }
  if (!page.ablations.empty()) {
    body += tag("h2", "Without an expert");
    body += tag("p",
                "One expert is switched off in every block and the others share its weight. The last column is the change of the share of "
                "right answers, in points.");
    body += ablation_table(page);
  }
  if (!page.paths.empty()) {
    body += tag("h2", "Examples on their way");
    body += tag("p", "The fuller a cell, the higher the score of its expert (row) in its block (column).");
    std::string cards;
    for (const ExamplePath& path : page.paths) cards += tag("section", path_card(path, page.experts), "class=\"card\"");
    body += "<div class=\"cards\">" + cards + "</div>";
  }
  return html_page("mmtune: " + page.run, body);
}

}  // namespace mmtune::report
