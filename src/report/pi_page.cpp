#include "report/pi_page.h"

#include <algorithm>
#include <cmath>

#include "report/drawing.h"
#include "report/html.h"

namespace mmtune::report {

namespace {

constexpr Colour ink{40, 44, 52};

std::string tag(const std::string& name, const std::string& content, const std::string& attributes = {}) {
  return "<" + name + (attributes.empty() ? "" : " " + attributes) + ">" + content + "</" + name + ">";
}

std::string expert_name(const PiPage& page, std::size_t expert) {
  return page.experts[expert] + (page.target == expert ? " (the target's own)" : "");
}

std::string coefficient_table(const PiPage& page) {
  std::string header = "<tr><th>site</th>";
  for (std::size_t i = 0; i < page.experts.size(); ++i) header += "<th>" + escape_html(expert_name(page, i)) + "</th>";
  std::string rows = header + "</tr>";
  std::vector<double> mean(page.experts.size(), 0.0);
  for (std::size_t s = 0; s < page.sites.size(); ++s) {
    rows += "<tr><td>" + escape_html(page.sites[s]) + "</td>";
    for (std::size_t i = 0; i < page.experts.size(); ++i) {
      const double share = page.coefficients[s][i];
      mean[i] += share / static_cast<double>(page.sites.size());
      rows += "<td>" + number(share, 3) +
              " <svg style=\"display:inline\" viewBox=\"0 0 60 10\" width=\"60\" height=\"10\" aria-hidden=\"true\">" + "<rect width=\"" +
              number(60 * std::clamp(share, 0.0, 1.0), 1) + "\" height=\"10\" fill=\"" + to_hex(group_colour(i)) + "\"/></svg></td>";
    }
    rows += "</tr>";
  }
  rows += "<tr><td>" + tag("b", "mean") + "</td>";
  for (const double value : mean) rows += "<td>" + tag("b", number(value, 3)) + "</td>";
  return "<div class=\"wide\"><table>" + rows + "</tr></table></div>";
}

std::string line_picture(const PiPage& page, const Line& line) {
  constexpr double width = 360, height = 160, left = 44, below = 24, top = 12, right = 12;
  double low = line.points.front().loss, high = low;
  for (const LandscapePoint& point : line.points) {
    low = std::min(low, point.loss);
    high = std::max(high, point.loss);
  }
  if (high - low < 1e-9) high = low + 1e-9;
  const auto x = [&](std::size_t p) {
    return left + (width - left - right) * static_cast<double>(p) / static_cast<double>(line.points.size() - 1);
  };
  const auto y = [&](double loss) { return top + (height - top - below) * (high - loss) / (high - low); };
  Drawing drawing(width, height);
  drawing.add(Segment{left, y(low), width - right, y(low), 0.6, {160, 168, 178}});
  for (std::size_t p = 0; p + 1 < line.points.size(); ++p)
    drawing.add(Segment{x(p), y(line.points[p].loss), x(p + 1), y(line.points[p + 1].loss), 1.6, group_colour(0)});
  for (std::size_t p = 0; p < line.points.size(); ++p)
    drawing.add(Disc{x(p), y(line.points[p].loss), 3, group_colour(0),
                     "loss " + number(line.points[p].loss, 4) + ", " + page.metric_name + " " + number(line.points[p].metric, 4)});
  drawing.add(Words{left - 6, y(high) + 4, 8, number(high, 3), ink, Anchor::end});
  drawing.add(Words{left - 6, y(low) + 4, 8, number(low, 3), ink, Anchor::end});
  drawing.add(Words{left, height - 6, 8, page.experts[line.from], ink});
  drawing.add(Words{width - right, height - 6, 8, page.experts[line.to], ink, Anchor::end});
  return drawing.svg("loss from " + page.experts[line.from] + " to " + page.experts[line.to], true);
}

std::string plane_picture(const PiPage& page) {
  constexpr double side = 360, margin = 20;
  const Plane& plane = *page.plane;
  double low = plane.points[0][0].loss, high = low;
  for (const auto& row : plane.points)
    for (const LandscapePoint& point : row) {
      low = std::min(low, point.loss);
      high = std::max(high, point.loss);
    }
  const double cell = side / static_cast<double>(plane.x.size());
  Drawing drawing(side + 2 * margin, side + 2 * margin);
  for (std::size_t r = 0; r < plane.y.size(); ++r)
    for (std::size_t c = 0; c < plane.x.size(); ++c) {
      const LandscapePoint& point = plane.points[r][c];
      drawing.add(Box{margin + cell * static_cast<double>(c), margin + side - cell * static_cast<double>(r + 1), cell, cell,
                      heat(high > low ? (high - point.loss) / (high - low) : 0.0),
                      "loss " + number(point.loss, 4) + ", " + page.metric_name + " " + number(point.metric, 4)});
    }
  const double step_x = plane.x[1] - plane.x[0], step_y = plane.y[1] - plane.y[0];
  for (std::size_t i = 0; i < plane.corners.size(); ++i) {
    const double x = margin + cell * ((plane.corners[i].first - plane.x[0]) / step_x + 0.5);
    const double y = margin + side - cell * ((plane.corners[i].second - plane.y[0]) / step_y + 0.5);
    drawing.add(Disc{x, y, 6, {255, 255, 255}});
    drawing.add(Disc{x, y, 4.5, group_colour(plane.experts[i]), page.experts[plane.experts[i]]});
  }
  std::string legend;
  for (const std::size_t expert : plane.experts)
    legend +=
        "<span style=\"white-space:nowrap;margin-right:1rem\"><svg viewBox=\"0 0 12 12\" width=\"12\" height=\"12\" "
        "style=\"display:inline\" aria-hidden=\"true\"><circle cx=\"6\" cy=\"6\" r=\"5\" fill=\"" +
        to_hex(group_colour(expert)) + "\"/></svg> " + escape_html(expert_name(page, expert)) + "</span>";
  return tag("p", legend) + "<div class=\"wide\">" + drawing.svg("loss over the plane through three experts", true) + "</div>" +
         tag("p", "Loss from " + number(low, 4) + " (dark) to " + number(high, 4) + " (pale).", "class=\"soft\"");
}

std::string landscape_table(const PiPage& page) {
  std::string rows = "<tr><th>expert</th><th>" + escape_html(page.metric_name) + "</th><th>loss</th></tr>";
  const auto row = [&](const std::string& name, const LandscapePoint& point) {
    rows += "<tr><td>" + escape_html(name) + "</td><td>" + number(point.metric, 4) + "</td><td>" + number(point.loss, 4) + "</td></tr>";
  };
  row("the run's average", page.merged);
  for (std::size_t i = 0; i < page.alone.size(); ++i) row(expert_name(page, i) + " alone", page.alone[i]);
  if (!page.alone.empty()) row("all with the same weight", page.soup);
  return "<div class=\"wide\"><table>" + rows + "</table></div>";
}

}  // namespace

std::string pi_page(const PiPage& page) {
  std::string body = tag("h1", "What the average is made of");
  body += tag("p",
              "The run " + tag("b", escape_html(page.run)) + " on " + escape_html(page.data) + ": " + std::to_string(page.experts.size()) +
                  " experts of kind " + escape_html(page.kind) + " as one.",
              "class=\"soft\"");
  body += "<div class=\"facts\"><div><b>" + number(page.merged.metric) + "</b><small>" + escape_html(page.metric_name) +
          "</small></div><div><b>" + number(page.merged.loss) + "</b><small>loss</small></div><div><b>" + std::to_string(page.examples) +
          "</b><small>examples</small></div><div><b>" + std::to_string(page.sites.size()) + "</b><small>sites</small></div></div>";
  body += tag("h2", "What every expert weighs, site by site") + coefficient_table(page);
  body += tag("h2", "Alone and together");
  body += tag(
      "p",
      "All with the head of this run. The experts are those of their own runs: where they were trained on here, the average differs from "
      "what its coefficients would make of these.");
  body += landscape_table(page);
  if (!page.lines.empty()) {
    body += tag("h2", "Between two experts");
    body += tag("p", "The loss at equal steps on the straight line. Where it has no hill, the two lie in one valley.");
    for (const Line& line : page.lines) body += "<div class=\"wide\">" + line_picture(page, line) + "</div>";
  }
  if (page.plane) body += tag("h2", "The plane through three experts") + plane_picture(page);
  return html_page("mmtune: " + page.run, body);
}

}  // namespace mmtune::report
