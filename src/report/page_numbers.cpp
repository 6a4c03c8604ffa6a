#include "report/page_numbers.h"

namespace mmtune::report {

namespace {

Json point(const LandscapePoint& one, const std::string& metric_name) {
  return {{"loss", one.loss}, {"metric", {{metric_name, one.metric}}}};
}

}  // namespace

Json numbers_of(const MopePage& page) {
  Json blocks = Json::array(), without = Json::array();
  for (std::size_t i = 0; i < page.blocks.size(); ++i) {
    const RoutingStatistics& one = page.statistics[i];
    blocks.push_back({{"name", page.blocks[i]},
                      {"usage", one.usage},
                      {"chosen", one.chosen},
                      {"entropy", one.entropy},
                      {"variation", one.variation},
                      {"information", one.information},
                      {"normalised_information", one.normalised}});
  }
  for (const Ablation& one : page.ablations)
    without.push_back({{"metric", {{page.metric_name, one.metric}}}, {"loss", one.loss}, {"changed", one.changed}});
  return {{"run", page.run},         {"examples", page.examples},   {"metric", {{page.metric_name, page.metric}}}, {"loss", page.loss},
          {"experts", page.experts}, {"blocks", std::move(blocks)}, {"without_expert", std::move(without)}};
}

Json numbers_of(const AptPage& page) {
  Json towers = Json::array();
  for (const AptTower& tower : page.towers) {
    Json places = Json::array();
    for (const AptPlace& place : tower.places)
      places.push_back({{"name", place.name},
                        {"fired", place.fired},
                        {"per_row", place.per_row},
                        {"weight", place.weight},
                        {"used", place.used},
                        {"prompts", place.prompts}});
    towers.push_back({{"name", tower.name}, {"places", std::move(places)}});
  }
  return {{"run", page.run}, {"examples", page.examples}, {"metric", {{page.metric_name, page.metric}}}, {"towers", std::move(towers)}};
}

Json numbers_of(const PiPage& page) {
  Json coefficients = Json::object(), alone = Json::array();
  for (std::size_t i = 0; i < page.sites.size(); ++i) coefficients[page.sites[i]] = page.coefficients[i];
  for (const LandscapePoint& one : page.alone) alone.push_back(point(one, page.metric_name));
  Json numbers = {{"run", page.run},
                  {"examples", page.examples},
                  {"experts", page.experts},
                  {"target", page.target ? Json(*page.target) : Json()},
                  {"merged", point(page.merged, page.metric_name)},
                  {"coefficients", std::move(coefficients)}};
  if (!alone.empty()) {
    numbers["alone"] = std::move(alone);
    numbers["soup"] = point(page.soup, page.metric_name);
  }
  return numbers;
}

}  // namespace mmtune::report
