#pragma once
// What a path holds, told by its content: the parts behind `mmtune inspect`.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "io/safetensors.h"

namespace mmtune::cli {

/// The same answer twice: for people, and for programs.
struct Description {
  std::string text;
  Json json;
};

/// A two-column list of facts; empty values are left out.
class Facts {
 public:
  void add(const std::string& name, const std::string& value);
  std::string text() const;

 private:
  std::vector<std::pair<std::string, std::string>> facts_;
};

/// A string as it is, another value as JSON, nothing for null.
std::string scalar_text(const Json& value);

/// "embeddings.word_embeddings.weight" → itself; "encoder.layer.3.output" → "encoder.layer.{}.output" with 3 apart.
struct NamePattern {
  std::string pattern;
  std::vector<std::int64_t> numbers;
};
NamePattern pattern_of(const std::string& name);

/// The facts, to which the totals are added, and the tensors as a table, layers that differ in their numbers alone on one line unless
/// `each`. The JSON has every tensor, and no facts.
Description describe_tensors(std::span<const io::TensorEntry* const> tensors, bool each, Facts facts);

Description describe_safetensors(const std::filesystem::path& file, bool each);
Description describe_checkpoint(const std::filesystem::path& folder, bool each);
Description describe_expert(const std::filesystem::path& folder, bool each);
Description describe_run(const std::filesystem::path& folder);
/// Any file or folder that the data reader takes.
Description describe_data(const std::filesystem::path& path);

}  // namespace mmtune::cli
