#pragma once
// The numbers of explain's pages as JSON, for those who draw or compare on their own. Experts and prompts count from 0.

#include "core/json.h"
#include "report/apt_page.h"
#include "report/mope_page.h"
#include "report/pi_page.h"

namespace mmtune::report {

/// {"metric": {name: value}, "loss", "examples", "experts", "blocks": [{"name", "usage": [K], "chosen": [K], "entropy", "variation",
/// "information", "normalised_information"}], "without_expert": [{"metric": {…}, "loss", "changed"}]}
Json numbers_of(const MopePage& page);

/// {"metric", "examples", "towers": [{"name", "places": [{"name", "fired", "per_row", "weight", "used", "prompts"}]}]}
Json numbers_of(const AptPage& page);

/// {"examples", "experts": [names], "target", "coefficients": {site: [K]}, "merged": {"loss", "metric"}}, and where the landscape was asked
/// for "soup" and "alone": [the same, one an expert].
Json numbers_of(const PiPage& page);

}  // namespace mmtune::report
