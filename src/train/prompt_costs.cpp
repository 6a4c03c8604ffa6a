#include "train/prompt_costs.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace mmtune::train {

namespace {

template <class Of>
double sum(const std::vector<PromptPlace>& places, const Of& of) {
  double total = 0;
  for (const PromptPlace& place : places) total += static_cast<double>(of(place));
  return total;
}

}  // namespace

double apt_macs(const std::vector<PromptPlace>& places, std::int64_t prompts, std::int64_t rank) {
  return apt_cached_macs(places, prompts) + sum(places, [=](const PromptPlace& place) { return 2 * prompts * place.width * rank; });
}

double apt_cached_macs(const std::vector<PromptPlace>& places, std::int64_t prompts) {
  return sum(places, [=](const PromptPlace& place) { return 2 * place.rows * prompts * place.width; });
}

std::int64_t apt_parameters(const std::vector<PromptPlace>& places, std::int64_t prompts, std::int64_t rank) {
  return static_cast<std::int64_t>(sum(places, [=](const PromptPlace& place) { return (prompts + 2 * rank) * place.width + 1; }));
}

double deep_reported_macs(const std::vector<PromptPlace>& places, std::int64_t prompts) {
  return sum(places,
             [=](const PromptPlace& place) { return 3 * prompts * place.width * place.width + 2 * place.charged * prompts * place.width; });
}

double deep_macs(const std::vector<PromptPlace>& places, std::int64_t prompts) {
  return deep_cached_macs(places, prompts) + sum(places, [=](const PromptPlace& place) { return 2 * prompts * place.width * place.width; });
}

double deep_cached_macs(const std::vector<PromptPlace>& places, std::int64_t prompts) {
  return sum(places, [=](const PromptPlace& place) { return 2 * place.rows * prompts * place.width; });
}

std::int64_t deep_parameters(const std::vector<PromptPlace>& places, std::int64_t prompts) {
  return static_cast<std::int64_t>(sum(places, [=](const PromptPlace& place) { return prompts * place.width; }));
}

std::vector<PromptPlace> cross_places(const std::vector<PromptPlace>& places) {
  std::vector<PromptPlace> crossing;
  std::copy_if(places.begin(), places.end(), std::back_inserter(crossing), [](const PromptPlace& place) { return place.cross; });
  return crossing;
}

PromptComparison compare_prompts(const std::vector<PromptPlace>& places, std::int64_t prompts, std::int64_t rank) {
  PromptComparison comparison{.places = static_cast<std::int64_t>(places.size()), .prompts = prompts, .rank = rank};
  const std::int64_t deep = deep_parameters(places, prompts);
  comparison.forms = {{"apt", apt_parameters(places, prompts, rank), apt_macs(places, prompts, rank)},
                      {"apt, keys kept", apt_parameters(places, prompts, rank), apt_cached_macs(places, prompts)},
                      {"deep prompts as tables count them", deep, deep_reported_macs(places, prompts), false},
                      {"deep prompts, keys and values for every example", deep, deep_macs(places, prompts)},
                      {"deep prompts, keys and values once", deep, deep_cached_macs(places, prompts)}};
  const std::vector<PromptPlace> crossing = cross_places(places);
  if (!crossing.empty())
    comparison.forms.push_back({"deep prompts of the released code (cross-attentions only)", deep_parameters(crossing, prompts),
                                deep_macs(crossing, prompts), false});
  return comparison;
}

double saving(double ours, double other, bool as_printed) {
  const auto printed = [as_printed](double macs) { return as_printed ? std::round(macs / 1e7) / 100 : macs; };
  return 1 - printed(ours) / printed(other);
}

}  // namespace mmtune::train
