#pragma once
// What `mmtune explain` finds out about a run of averaged experts: what each of them weighs where, and the loss between them.

#include "data/dataset.h"
#include "report/pi_page.h"
#include "train/session.h"

namespace mmtune::train {

struct ExplainPiOptions {
  std::int64_t batch = 32;
  bool landscape = true;          ///< evaluate between the experts
  std::int64_t line_points = 11;  ///< from an expert to another, both included
  std::int64_t plane_side = 7;    ///< points of a side of the plane through three experts
};

/// `kept`: the run as it is; `run`: the same from open_interpolated(). The loss is that of the run's own head.
report::PiPage explain_pi(const TrainedRun& kept, const TrainedRun& run, const data::Dataset& dataset, const ExplainPiOptions& options);

/// The weights [K] of three experts at the point x û + y v̂ of the plane through them, by their inner products: û points from the first to
/// the second, v̂ stands upright on it towards the third, both of length 1. Throws Error where the three lie on one line.
struct PlaneAxes {
  double u_length = 0, v_length = 0;  ///< of the second expert from the first; of the third from the line through both
  double along = 0;                   ///< where the third's foot lies, in lengths of u
  std::vector<double> weights(double x, double y) const;
};
PlaneAxes plane_axes(const std::vector<std::vector<double>>& products, std::size_t first, std::size_t second, std::size_t third);

}  // namespace mmtune::train
