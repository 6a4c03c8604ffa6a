#pragma once
// The page that `mmtune explain` writes for averaged experts: their coefficients site by site, and the loss between them.

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mmtune::report {

struct LandscapePoint {
  double loss = 0, metric = 0;
};

/// From one expert to another in equal steps, both ends included.
struct Line {
  std::size_t from = 0, to = 0;
  std::vector<LandscapePoint> points;
};

/// A grid over the plane through three experts.
struct Plane {
  std::array<std::size_t, 3> experts = {};
  std::array<std::pair<double, double>, 3> corners = {};  ///< where the experts lie
  std::vector<double> x = {}, y = {};
  std::vector<std::vector<LandscapePoint>> points = {};  ///< [y][x]
};

struct PiPage {
  std::string run, data, metric_name, kind;
  std::size_t examples = 0;
  std::vector<std::string> experts = {};  ///< names of their tasks
  std::optional<std::size_t> target;
  std::vector<std::string> sites = {};
  std::vector<std::vector<double>> coefficients = {};  ///< [sites][K]
  LandscapePoint merged = {}, soup = {};
  std::vector<LandscapePoint> alone = {};  ///< one an expert; empty: the landscape was left out
  std::vector<Line> lines = {};
  std::optional<Plane> plane;
};

std::string pi_page(const PiPage& page);

}  // namespace mmtune::report
