#include "train/explain_pi.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "train/evaluate.h"

namespace mmtune::train {

namespace {

using experts::Interpolated;

report::LandscapePoint measure(const TrainedRun& run, const data::Dataset& dataset, const ExplainPiOptions& options) {
  const std::optional<Evaluation> evaluation =
      evaluate(*run.model, *run.task, dataset,
               {.batch = options.batch, .workers = static_cast<int>(run.recipe.data.workers), .on_error = run.recipe.data.on_error});
  report::LandscapePoint point;
  if (const report::Metric* loss = evaluation->find("loss")) point.loss = loss->value;
  if (const report::Metric* metric = evaluation->find(run.task->metric_names().front())) point.metric = metric->value;
  return point;
}

}  // namespace

PlaneAxes plane_axes(const std::vector<std::vector<double>>& products, std::size_t first, std::size_t second, std::size_t third) {
  const auto difference = [&](std::size_t a, std::size_t b) {
    return products[a][b] - products[a][first] - products[first][b] + products[first][first];
  };
  const double uu = difference(second, second), uw = difference(second, third), ww = difference(third, third);
  PlaneAxes axes;
  axes.u_length = std::sqrt(std::max(uu, 0.0));
  axes.along = uu > 0 ? uw / uu : 0;
  axes.v_length = std::sqrt(std::max(ww - axes.along * axes.along * uu, 0.0));
  if (!(axes.u_length > 0) || !(axes.v_length > 1e-9 * axes.u_length))
    throw Error({.what = "the three experts lie on one line: no plane goes through them"});
  return axes;
}

std::vector<double> PlaneAxes::weights(double x, double y) const {
  const double u = x / u_length, v = y / v_length;
  return {1 - u - v * (1 - along), u - v * along, v};
}

report::PiPage explain_pi(const TrainedRun& kept, const TrainedRun& run, const data::Dataset& dataset, const ExplainPiOptions& options) {
  Interpolated& average = *run.model->interpolated().front();
  report::PiPage page;
  page.data = dataset.source;
  page.metric_name = run.task->metric_names().front();
  page.kind = average.describe().at("kind");
  page.target = average.target();
  for (const experts::InterpolationPart& part : average.parts()) page.experts.push_back(part.task);
  page.sites = average.sites();
  page.coefficients = average.coefficients();
  page.examples = dataset.examples.size();
  page.merged = measure(kept, dataset, options);
  if (!options.landscape || average.experts() < 2 || average.options().once) return page;

  const std::size_t count = average.experts();
  const auto at = [&](const std::vector<std::pair<std::size_t, double>>& weights) {
    std::vector<double> all(count, 0.0);
    for (const auto& [expert, weight] : weights) all[expert] += weight;
    average.fix(all);
    return measure(run, dataset, options);
  };
  for (std::size_t i = 0; i < count; ++i) page.alone.push_back(at({{i, 1.0}}));
  std::vector<std::pair<std::size_t, double>> uniform;
  for (std::size_t i = 0; i < count; ++i) uniform.emplace_back(i, 1.0 / static_cast<double>(count));
  page.soup = at(uniform);
  const std::size_t first = average.target().value_or(0);
  std::vector<std::size_t> others;
  for (std::size_t i = 0; i < count; ++i)
    if (i != first) others.push_back(i);
  for (const std::size_t other : others) {
    report::Line line{.from = first, .to = other, .points = {}};
    for (std::int64_t p = 0; p < options.line_points; ++p) {
      const double share = static_cast<double>(p) / static_cast<double>(options.line_points - 1);
      line.points.push_back(at({{first, 1 - share}, {other, share}}));
    }
    page.lines.push_back(std::move(line));
  }
  if (others.size() < 2 || options.plane_side < 2) return page;
  const PlaneAxes axes = plane_axes(average.products(), first, others[0], others[1]);
  report::Plane plane{.experts = {first, others[0], others[1]}};
  plane.corners = {{{0.0, 0.0}, {axes.u_length, 0.0}, {axes.along * axes.u_length, axes.v_length}}};
  double left = 0, right = 0, top = 0;
  for (const auto& [x, y] : plane.corners) {
    left = std::min(left, x);
    right = std::max(right, x);
    top = std::max(top, y);
  }
  const double margin = 0.3 * std::max(right - left, top);
  for (std::int64_t r = 0; r < options.plane_side; ++r) {
    const double share = static_cast<double>(r) / static_cast<double>(options.plane_side - 1);
    plane.x.push_back(left - margin + share * (right - left + 2 * margin));
    plane.y.push_back(-margin + share * (top + 2 * margin));
  }
  for (const double y : plane.y) {
    std::vector<report::LandscapePoint> row;
    for (const double x : plane.x) {
      const std::vector<double> weights = axes.weights(x, y);
      row.push_back(at({{first, weights[0]}, {others[0], weights[1]}, {others[1], weights[2]}}));
    }
    plane.points.push_back(std::move(row));
  }
  page.plane = std::move(plane);
  return page;
}

}  // namespace mmtune::train
