#include "report/metric_json.h"

#include <cmath>

namespace mmtune::report {

Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json metric_json(const Metric& metric) {
  Json json = {{"value", number_or_null(metric.value)}};
  if (metric.interval) json["interval"] = {number_or_null(metric.interval->low), number_or_null(metric.interval->high)};
  return json;
}

Json metrics_json(const std::vector<Metric>& metrics) {
  Json json = Json::object();
  for (const Metric& metric : metrics) json[metric.name] = metric_json(metric);
  return json;
}

}  // namespace mmtune::report
