#pragma once
// `mmtune inspect NAME`: the recipe keys of one component, from its declaration.

#include <optional>
#include <string>

#include "inspect_files.h"

namespace mmtune::cli {

/// The options of a kind of expert ("lora"), of a section of the recipe ("train"), or of a pretraining recipe's ("pretrain",
/// "pretrain.train"); nothing for any other name.
std::optional<Description> describe_options(const std::string& name);

/// All components with a line each.
Description list_components();

/// Throws UsageError naming the nearest component.
[[noreturn]] void refuse_component(const std::string& name);

}  // namespace mmtune::cli
