#include "report/task_graph_page.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numbers>
#include <numeric>

#include "report/html.h"

namespace mmtune::report {

namespace {

constexpr double letter = 8;  // height of words
// Room that a letter takes: in the pixels' font, which is the wider one, five and a gap, of a fifth of its height each.
constexpr double letter_step = 6 * letter / 5;
constexpr Colour ink{40, 44, 52};
constexpr Colour faint{150, 158, 168};
constexpr std::size_t most_pairs = 400;  // shown in detail

std::string tag(const std::string& name, const std::string& content, const std::string& attributes = {}) {
  return "<" + name + (attributes.empty() ? "" : " " + attributes) + ">" + content + "</" + name + ">";
}

std::string shown_name(const std::string& name) {
  constexpr std::size_t most = 24;
  if (name.size() <= most) return name;
  std::size_t end = most - 1;
  while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0U) == 0x80U) --end;
  return name.substr(0, end) + "…";
}

double room_for_names(const TaskGraphPage& page) {
  std::size_t longest = 4;
  for (const ShownTask& task : page.tasks) longest = std::max(longest, shown_name(task.name).size());
  return static_cast<double>(longest) * letter_step + 8;
}

std::vector<std::string> modalities(const TaskGraphPage& page) {
  std::vector<std::string> all;
  for (const ShownTask& task : page.tasks)
    if (std::find(all.begin(), all.end(), task.modality) == all.end()) all.push_back(task.modality);
  std::sort(all.begin(), all.end());
  return all;
}

Colour colour_of(const TaskGraphPage& page, std::size_t task) {
  const std::vector<std::string> all = modalities(page);
  return group_colour(static_cast<std::size_t>(std::find(all.begin(), all.end(), page.tasks[task].modality) - all.begin()));
}

struct Range {
  double low = 0, high = 1;
  double share(double value) const { return high > low ? (value - low) / (high - low) : 1.0; }
};

Range range_of(const TaskGraphPage& page) {
  Range range{.low = 1, .high = 0};
  for (std::size_t i = 0; i < page.tasks.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) {
      range.low = std::min(range.low, page.similarity[i][j]);
      range.high = std::max(range.high, page.similarity[i][j]);
    }
  return range.low <= range.high ? range : Range{};
}

std::vector<std::size_t> nearest_tasks(const TaskGraphPage& page, std::size_t task, std::size_t count) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < page.tasks.size(); ++i)
    if (i != task) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return page.similarity[task][a] > page.similarity[task][b]; });
  order.resize(std::min(order.size(), count));
  return order;
}

struct Point {
  double x = 0, y = 0;
};

/// Places whose distances follow 1 - similarity as well as a plane allows: majorisation of the stress from a start on a circle.
std::vector<Point> places(const TaskGraphPage& page) {
  constexpr int rounds = 200;
  const std::size_t n = page.tasks.size();
  const Range range = range_of(page);
  std::vector<Point> at(n);
  for (std::size_t k = 0; k < n; ++k) {
    const double angle = 2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(n);
    at[page.order[k]] = {std::cos(angle), std::sin(angle)};
  }
  const auto wanted = [&](std::size_t i, std::size_t j) { return 0.15 + 1.85 * (1 - range.share(page.similarity[i][j])); };
  for (int round = 0; round < rounds && n > 1; ++round) {
    std::vector<Point> next(n);
    for (std::size_t i = 0; i < n; ++i) {
      double total = 0;
      for (std::size_t j = 0; j < n; ++j) {
        if (j == i) continue;
        const double distance = wanted(i, j), weight = 1 / (distance * distance);
        const double dx = at[i].x - at[j].x, dy = at[i].y - at[j].y, length = std::max(std::hypot(dx, dy), 1e-9);
        next[i].x += weight * (at[j].x + distance * dx / length);
        next[i].y += weight * (at[j].y + distance * dy / length);
        total += weight;
      }
      next[i].x /= total;
      next[i].y /= total;
    }
    at = std::move(next);
  }
  return at;
}

double bar_width(double share) {
  return 220 * std::clamp(share, 0.0, 1.0);
}

std::string pair_details(const TaskGraphPage& page, std::size_t i, std::size_t j) {
  struct Row {
    std::size_t layer;
    double value;
  };
  std::vector<Row> rows;
  for (std::size_t l = 0; l < page.layers.size(); ++l) rows.push_back({l, page.by_layer[i][j][l]});
  double low = 1, high = 0;
  for (const Row& row : rows) {
    if (!std::isfinite(row.value)) continue;
    low = std::min(low, row.value);
    high = std::max(high, row.value);
  }
  const Row* best = nullptr;
  const Row* least = nullptr;
  for (const Row& row : rows) {
    if (!std::isfinite(row.value)) continue;
    if (best == nullptr || row.value > best->value) best = &row;
    if (least == nullptr || row.value < least->value) least = &row;
  }
  std::string table = "<tr><th>layer</th><th>similarity</th><th></th></tr>";
  for (const Row& row : rows) {
    table += "<tr><td>" + escape_html(page.layers[row.layer]) + "</td><td>" + number(row.value, 4) + "</td><td>";
    if (std::isfinite(row.value))
      table += "<svg viewBox=\"0 0 220 12\" width=\"220\" height=\"12\" role=\"img\" aria-label=\"" + number(row.value, 3) +
               "\"><rect y=\"1\" height=\"10\" width=\"" + number(std::max(bar_width(row.value), 0.5), 1) +
               "\" fill=\"var(--bar)\"/></svg>";
    table += "</td></tr>";
  }
  std::string text = "<details><summary>" + escape_html(page.tasks[i].name) + " and " + escape_html(page.tasks[j].name) + ": " +
                     number(page.similarity[i][j], 4) + " <small>(plain cosine " + number(page.cosine[i][j], 4) + ")</small></summary>";
  if (best != nullptr && least != nullptr && best != least)
    text += tag("p", "Most alike in " + tag("b", escape_html(page.layers[best->layer])) + " (" + number(best->value, 4) + "), least in " +
                         tag("b", escape_html(page.layers[least->layer])) + " (" + number(least->value, 4) + ").");
  if (page.skipped[i][j] > 0)
    text += tag("p",
                std::to_string(page.skipped[i][j]) + " of " + std::to_string(page.components) +
                    " tensors are zero in one of the two embeddings and were left out.",
                "class=\"soft\"");
  return text + "<div class=\"wide\"><table>" + table + "</table></div></details>";
}

}  // namespace

Drawing heat_map(const TaskGraphPage& page) {
  const std::size_t n = page.tasks.size();
  const double names = room_for_names(page), cell = n <= 12 ? 34 : n <= 30 ? 24 : 14, side = cell * static_cast<double>(n);
  const Range range = range_of(page);
  Drawing drawing(names + side + 90, names + side + 12);
  for (std::size_t r = 0; r < n; ++r) {
    const std::size_t i = page.order[r];
    const double y = names + cell * static_cast<double>(r);
    drawing.add(Words{names - 6, y + cell / 2 + letter / 2, letter, shown_name(page.tasks[i].name), ink, Anchor::end});
    drawing.add(Words{names + cell * static_cast<double>(r) + cell / 2 + letter / 2, names - 6, letter, shown_name(page.tasks[i].name), ink,
                      Anchor::start, true});
    for (std::size_t c = 0; c < n; ++c) {
      const std::size_t j = page.order[c];
      const double value = i == j ? 1.0 : page.similarity[i][j];
      drawing.add(Box{names + cell * static_cast<double>(c), y, cell - 1, cell - 1, heat(i == j ? 1.0 : range.share(value)),
                      page.tasks[i].name + ", " + page.tasks[j].name + ": " + number(value, 4)});
    }
  }
  constexpr int steps = 24;
  const double x = names + side + 14, tall = std::min(side, 160.0);
  for (int s = 0; s < steps; ++s)
    drawing.add(Box{x, names + tall * (1 - (s + 1.0) / steps), 14, tall / steps + 0.5, heat((s + 0.5) / steps)});
  drawing.add(Words{x + 20, names + letter, letter, number(range.high, 3), ink});
  drawing.add(Words{x + 20, names + tall, letter, number(range.low, 3), ink});
  return drawing;
}

namespace {

struct Area {
  double left, top, right, bottom;
  bool meets(const Area& other) const { return left < other.right && other.left < right && top < other.bottom && other.top < bottom; }
};

/// A disc's name above it, below, to the right or to the left: the first of these that stands within `width` and on nothing that is
/// `taken`; else above. What it stands on is taken then.
Words label_beside(const Point& disc, const std::string& name, double width, std::vector<Area>& taken) {
  const double length = static_cast<double>(name.size()) * letter_step;
  struct Place {
    double x, y;
    Anchor anchor;
  };
  const Place places[] = {{disc.x, disc.y - 11, Anchor::middle},
                          {disc.x, disc.y + 11 + letter, Anchor::middle},
                          {disc.x + 11, disc.y + letter / 2, Anchor::start},
                          {disc.x - 11, disc.y + letter / 2, Anchor::end}};
  const auto area_of = [&](const Place& place) {
    const double left = place.x - (place.anchor == Anchor::start ? 0 : place.anchor == Anchor::middle ? length / 2 : length);
    return Area{left, place.y - letter, left + length, place.y};
  };
  const auto free = [&](const Place& place) {
    const Area area = area_of(place);
    return area.left >= 0 && area.right <= width &&
           std::none_of(taken.begin(), taken.end(), [&](const Area& one) { return one.meets(area); });
  };
  const auto* const found = std::find_if(std::begin(places), std::end(places), free);
  const Place& place = found == std::end(places) ? places[0] : *found;
  taken.push_back(area_of(place));
  return Words{place.x, place.y, letter, name, ink, place.anchor};
}

void draw_neighbours(const TaskGraphPage& page, Drawing& drawing, double top) {
  const std::vector<Point> at = places(page);
  constexpr double wide = 640, high = 460, margin = 60;
  double x0 = 0, x1 = 0, y0 = 0, y1 = 0;
  for (std::size_t i = 0; i < at.size(); ++i) {
    x0 = i == 0 ? at[i].x : std::min(x0, at[i].x);
    x1 = i == 0 ? at[i].x : std::max(x1, at[i].x);
    y0 = i == 0 ? at[i].y : std::min(y0, at[i].y);
    y1 = i == 0 ? at[i].y : std::max(y1, at[i].y);
  }
  const double stretch = std::min((wide - 2 * margin) / std::max(x1 - x0, 1e-6), (high - 2 * margin - 20) / std::max(y1 - y0, 1e-6));
  const auto place = [&](std::size_t i) {
    return Point{wide / 2 + (at[i].x - (x0 + x1) / 2) * stretch, top + high / 2 + 10 + (at[i].y - (y0 + y1) / 2) * stretch};
  };
  const Range range = range_of(page);
  for (std::size_t i = 0; i < at.size(); ++i)
    for (const std::size_t j : nearest_tasks(page, i, page.neighbours)) {
      const Point a = place(i), b = place(j);
      const double share = range.share(page.similarity[i][j]);
      const auto grey = static_cast<std::uint8_t>(225 - 110 * share);
      drawing.add(Segment{a.x, a.y, b.x, b.y, 0.8 + 2.2 * share, {grey, grey, static_cast<std::uint8_t>(std::min(255, grey + 10))}});
    }
  std::vector<Area> taken;
  for (std::size_t i = 0; i < at.size(); ++i) {
    const Point p = place(i);
    drawing.add(Disc{p.x, p.y, 7, colour_of(page, i), page.tasks[i].name + " (" + page.tasks[i].modality + ")"});
    taken.push_back({p.x - 7, p.y - 7, p.x + 7, p.y + 7});
  }
  for (std::size_t i = 0; i < at.size(); ++i) drawing.add(label_beside(place(i), shown_name(page.tasks[i].name), wide, taken));
  double x = 12;
  const std::vector<std::string> all = modalities(page);
  for (std::size_t m = 0; m < all.size(); ++m) {
    drawing.add(Disc{x, top + 12, 5, group_colour(m)});
    drawing.add(Words{x + 10, top + 16, letter, all[m], ink});
    x += 30 + letter_step * static_cast<double>(all[m].size());
  }
}

}  // namespace

Drawing neighbour_graph(const TaskGraphPage& page) {
  Drawing drawing(640, 480);
  draw_neighbours(page, drawing, 0);
  return drawing;
}

Drawing task_graph_picture(const TaskGraphPage& page) {
  const Drawing map = heat_map(page);
  Drawing both(std::max(map.width(), 640.0), map.height() + 500);
  both.append(map);
  both.add(Segment{0, map.height() + 4, std::max(map.width(), 640.0), map.height() + 4, 1, faint});
  draw_neighbours(page, both, map.height() + 16);
  return both;
}

std::string task_graph_page(const TaskGraphPage& page) {
  std::string body = tag("h1", "Which tasks are alike");
  body += tag("p",
              "A task's embedding is the diagonal of the Fisher information of its expert: how much each number of the expert matters for "
              "the task. Two tasks are alike where the same numbers matter.",
              "class=\"soft\"");
  body += "<div class=\"facts\"><div><b>" + std::to_string(page.tasks.size()) + "</b><small>tasks</small></div><div><b>" +
          std::to_string(page.components) + "</b><small>tensors compared</small></div><div><b>" + escape_html(page.options) +
          "</b><small>embeddings</small></div></div>";
  body += tag("h2", "All pairs");
  body += tag("p", "The darker, the more alike; the scale runs from the least to the most alike pair. Rows stand beside those like them.");
  body += "<div class=\"wide\">" + heat_map(page).svg("similarities of all pairs of tasks", true) + "</div>";
  body += tag("h2", "Neighbours");
  body += tag("p", "Every task is joined with its " + std::to_string(page.neighbours) +
                       " nearest; alike tasks lie close. Colours: what the tasks read.");
  body += "<div class=\"wide\">" + neighbour_graph(page).svg("tasks joined with their nearest neighbours", true) + "</div>";
  std::string rows = "<tr><th>task</th><th>reads</th><th>expert</th><th>examples</th><th>mean loss</th><th>nearest</th></tr>";
  for (const std::size_t i : page.order) {
    std::string near;
    for (const std::size_t j : nearest_tasks(page, i, page.neighbours))
      near += (near.empty() ? "" : ", ") + escape_html(page.tasks[j].name) + " " + number(page.similarity[i][j], 3);
    rows += "<tr><td title=\"" + escape_html(page.tasks[i].run) + "\">" + escape_html(page.tasks[i].name) + "</td><td>" +
            escape_html(page.tasks[i].modality) + "</td><td>" + escape_html(page.tasks[i].kind) + "</td><td>" +
            std::to_string(page.tasks[i].examples) + "</td><td>" + number(page.tasks[i].loss, 4) + "</td><td>" + near + "</td></tr>";
  }
  body += tag("h2", "The tasks") + "<div class=\"wide\"><table>" + rows + "</table></div>";
  body += tag("h2", "What makes a pair alike");
  std::vector<std::pair<std::size_t, std::size_t>> pairs;
  for (std::size_t i = 0; i < page.tasks.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) pairs.emplace_back(i, j);
  std::stable_sort(pairs.begin(), pairs.end(),
                   [&](const auto& a, const auto& b) { return page.similarity[a.first][a.second] > page.similarity[b.first][b.second]; });
  body += tag("p", "The similarity of a pair is the mean over its tensors; here it is by layer, the most alike pair first." +
                       (pairs.size() > most_pairs ? " The first " + std::to_string(most_pairs) + " of " + std::to_string(pairs.size()) +
                                                        " pairs; mmtune graph show --pair A --pair B tells of any."
                                                  : std::string()));
  pairs.resize(std::min(pairs.size(), most_pairs));
  for (const auto& [i, j] : pairs) body += pair_details(page, i, j);
  return html_page("mmtune: task graph", body);
}

}  // namespace mmtune::report
