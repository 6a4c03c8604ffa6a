#pragma once
// What a command answers, on standard output.

#include <string_view>

#include "core/json.h"

namespace mmtune::cli {

void print(std::string_view text);
/// Indented; text that is no UTF-8 is shown with replacement characters.
void print_json(const Json& value);
/// One line (JSONL).
void print_json_line(const Json& value);

}  // namespace mmtune::cli
