#pragma once
// Metrics as the commands' JSON has them.

#include <vector>

#include "core/json.h"
#include "report/metrics.h"

namespace mmtune::report {

/// JSON has no NaN and no infinities: null stands for them.
Json number_or_null(double value);
/// {"value": 0.9, "interval": [0.88, 0.92]}, the latter where there is one.
Json metric_json(const Metric& metric);
/// The same by name.
Json metrics_json(const std::vector<Metric>& metrics);

}  // namespace mmtune::report
