#include "inspect_files.h"

#include <algorithm>
#include <map>

#include "audio/feature_extractor.h"
#include "core/error.h"
#include "core/listed.h"
#include "io/checkpoint.h"
#include "report/table.h"
#include "text/tokenizer.h"
#include "vision/processor.h"

namespace mmtune::cli {

namespace {

namespace fs = std::filesystem;
using report::Align;
using report::Table;

/// "0–11" for a run of numbers, "0, 2, 5" for others, shortened when many.
std::string range_text(std::vector<std::int64_t> numbers) {
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  if (numbers.size() > 2 && numbers.back() - numbers.front() + 1 == static_cast<std::int64_t>(numbers.size())) {
    return std::to_string(numbers.front()) + "–" + std::to_string(numbers.back());
  }
  std::string out;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (i == 6) return out + ", …";
    out += (i == 0 ? "" : ", ") + std::to_string(numbers[i]);
  }
  return out;
}

/// Layers that differ in their numbers alone, as one line.
struct Group {
  const io::TensorEntry* first = nullptr;
  std::vector<std::vector<std::int64_t>> numbers;  ///< by place in the name
  std::int64_t count = 0;
  std::int64_t elements = 0;
};

std::string grouped_name(const std::string& pattern, const Group& group) {
  std::string out;
  std::size_t place = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern.compare(i, 2, "{}") == 0) {
      const auto& numbers = group.numbers[place++];
      const bool one = std::all_of(numbers.begin(), numbers.end(), [&](std::int64_t n) { return n == numbers.front(); });
      out += one ? std::to_string(numbers.front()) : "{" + range_text(numbers) + "}";
      ++i;
    } else {
      out += pattern[i];
    }
  }
  return out;
}

std::vector<const io::TensorEntry*> pointers(const std::vector<io::TensorEntry>& tensors) {
  std::vector<const io::TensorEntry*> result;
  result.reserve(tensors.size());
  for (const auto& tensor : tensors) result.push_back(&tensor);
  return result;
}

bool names_extractor(const fs::path& folder) try { return audio::FeatureExtractor::is_in(folder); } catch (const Error&) {
  return false;  // what is wrong with the file is told by who reads it
}

/// The tokenizer and the processors of images and sounds that stand beside a checkpoint; one that cannot be read is shown as such.
void describe_processors(const fs::path& folder, Facts& facts, Json& json) {
  std::error_code error;
  if (fs::exists(folder / "tokenizer.json", error) || fs::exists(folder / "vocab.txt", error)) {
    try {
      const auto tokenizer = text::Tokenizer::open(folder);
      const auto length = tokenizer->model_max_length();
      facts.add("tokenizer", std::to_string(tokenizer->vocabulary_size()) + " tokens" +
                                 (length ? ", at most " + std::to_string(*length) + " in a text" : ""));
      json["tokenizer"] = {{"vocabulary_size", tokenizer->vocabulary_size()}};
      if (length) json["tokenizer"]["model_max_length"] = *length;
    } catch (const Error& failure) {
      facts.add("tokenizer", std::string("cannot be used: ") + failure.what());
      json["tokenizer"] = {{"error", failure.what()}};
    }
  }
  if (names_extractor(folder)) {
    try {
      const auto extractor = audio::FeatureExtractor::open(folder);
      facts.add("sounds", extractor->describe());
      json["feature_extractor"] = {{"description", extractor->describe()}};
    } catch (const Error& failure) {
      facts.add("sounds", std::string("cannot be used: ") + failure.what());
      json["feature_extractor"] = {{"error", failure.what()}};
    }
  } else if (fs::exists(folder / "preprocessor_config.json", error)) {
    try {
      const auto processor = vision::ImageProcessor::open(folder);
      facts.add("images", processor->describe());
      json["image_processor"] = {{"description", processor->describe()}};
    } catch (const Error& failure) {
      facts.add("images", std::string("cannot be used: ") + failure.what());
      json["image_processor"] = {{"error", failure.what()}};
    }
  }
}

}  // namespace

void Facts::add(const std::string& name, const std::string& value) {
  if (!value.empty()) facts_.emplace_back(name, value);
}

std::string Facts::text() const {
  std::size_t width = 0;
  for (const auto& [name, value] : facts_) width = std::max(width, report::display_width(name));
  std::string out;
  for (const auto& [name, value] : facts_) {
    out += name + std::string(width + 2 - report::display_width(name), ' ') + printable(value, 400) + "\n";
  }
  return out;
}

std::string scalar_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return {};
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text;
}

NamePattern pattern_of(const std::string& name) {
  NamePattern result;
  std::size_t begin = 0;
  while (begin <= name.size()) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string segment = name.substr(begin, end - begin);
    const bool number =
        !segment.empty() && segment.size() <= 9 && std::all_of(segment.begin(), segment.end(), [](char c) { return c >= '0' && c <= '9'; });
    result.pattern += (begin == 0 ? "" : ".") + (number ? "{}" : segment);
    if (number) result.numbers.push_back(std::stoll(segment));
    begin = end + 1;
  }
  return result;
}

Description describe_tensors(std::span<const io::TensorEntry* const> tensors, bool each, Facts facts) {
  Description result;
  result.json = {{"tensors", Json::array()}, {"dtypes", Json::object()}};
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> dtypes;  // tensors, elements
  std::int64_t total = 0, bytes = 0;
  std::vector<std::string> order;
  std::map<std::string, Group> groups;
  for (const io::TensorEntry* tensor : tensors) {
    const std::string dtype(io::name_of(tensor->dtype));
    dtypes[dtype].first += 1;
    dtypes[dtype].second += tensor->elements();
    total += tensor->elements();
    bytes += static_cast<std::int64_t>(tensor->data.size());
    result.json["tensors"].push_back({{"name", tensor->name}, {"dtype", dtype}, {"shape", tensor->shape}});
    const NamePattern pattern =
        each || tensor->name.find("{}") != std::string::npos ? NamePattern{tensor->name, {}} : pattern_of(tensor->name);
    // Only what is truly alike shares a line.
    const std::string key = pattern.pattern + "\n" + dtype + shape_text(tensor->shape);
    Group& group = groups[key];
    if (group.count == 0) {
      order.push_back(key);
      group.first = tensor;
      group.numbers.resize(pattern.numbers.size());
    }
    for (std::size_t i = 0; i < pattern.numbers.size(); ++i) group.numbers[i].push_back(pattern.numbers[i]);
    group.count += 1;
    group.elements += tensor->elements();
  }

  std::string by_dtype;
  for (const auto& [name, counts] : dtypes) {
    by_dtype += (by_dtype.empty() ? "" : ", ") + name + " " + report::human_count(static_cast<double>(counts.second));
    result.json["dtypes"][name] = {{"tensors", counts.first}, {"parameters", counts.second}};
  }
  result.json["parameters"] = total;
  result.json["bytes"] = bytes;
  facts.add("parameters", report::human_count(static_cast<double>(total)) + " (" + std::to_string(total) + ") in " +
                              std::to_string(tensors.size()) + " tensors, " + report::human_bytes(static_cast<double>(bytes)));
  facts.add("dtypes", by_dtype);
  result.text = facts.text();
  if (tensors.empty()) return result;

  Table table({{"tensor"}, {"×", Align::right}, {"shape"}, {"dtype"}, {"parameters", Align::right}});
  for (const std::string& key : order) {
    const Group& group = groups[key];
    const std::string pattern = key.substr(0, key.rfind('\n'));
    table.add({group.numbers.empty() ? pattern : grouped_name(pattern, group), group.count, shape_text(group.first->shape),
               std::string(io::name_of(group.first->dtype)), report::human_count(static_cast<double>(group.elements))});
  }
  result.text += "\n" + table.text(90);
  return result;
}

Description describe_safetensors(const fs::path& file, bool each) {
  const io::SafetensorsFile open = io::SafetensorsFile::open(file);
  const auto tensors = pointers(open.tensors());
  Facts facts;
  facts.add("safetensors file", file.string());
  for (const auto& [key, value] : open.metadata()) facts.add("metadata " + key, value);
  Description result = describe_tensors(tensors, each, std::move(facts));
  result.json["kind"] = "safetensors";
  result.json["path"] = file.string();
  result.json["metadata"] = open.metadata();
  return result;
}

Description describe_checkpoint(const fs::path& folder, bool each) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(folder);
  const auto tensors = checkpoint.tensors();
  Description result;
  result.json = {{"kind", "checkpoint"}, {"path", folder.string()}, {"config", checkpoint.config()}};
  const Json& config = checkpoint.config();
  const auto get = [&](const char* key) { return config.contains(key) ? scalar_text(config[key]) : std::string(); };
  std::string architecture;
  if (config.contains("architectures") && config["architectures"].is_array()) {
    for (const Json& name : config["architectures"]) architecture += (architecture.empty() ? "" : ", ") + scalar_text(name);
  }
  Facts facts;
  facts.add("checkpoint", folder.string());
  facts.add("architecture", get("model_type") + (architecture.empty() ? "" : " (" + architecture + ")"));
  facts.add("layers", get("num_hidden_layers"));
  facts.add("width", get("hidden_size"));
  facts.add("attention heads", get("num_attention_heads"));
  facts.add("feed-forward width", get("intermediate_size"));
  facts.add("vocabulary", get("vocab_size"));
  facts.add("longest text", get("max_position_embeddings"));
  if (const std::string size = get("image_size"); !size.empty()) {
    facts.add("image size", size + (get("patch_size").empty() ? "" : ", patches of " + get("patch_size")));
  }
  facts.add("weight files", std::to_string(checkpoint.files().size()));
  describe_processors(folder, facts, result.json);
  result.json["files"] = Json::array();
  for (const auto& file : checkpoint.files()) result.json["files"].push_back(fs::path(file.where()).filename().string());
  Description tensors_part = describe_tensors(tensors, each, std::move(facts));
  result.json.update(tensors_part.json);
  result.text = std::move(tensors_part.text);
  return result;
}

Description describe_expert(const fs::path& folder, bool each) {
  const Json config = read_json_file(folder / "adapter_config.json", std::size_t{16} << 20);
  const io::SafetensorsFile file = io::SafetensorsFile::open(folder / "adapter_model.safetensors");
  const auto tensors = pointers(file.tensors());
  Description result;
  result.json = {{"kind", "expert"}, {"path", folder.string()}, {"config", config}};
  Facts facts;
  facts.add("expert", folder.string());
  if (!config.is_object()) throw Error({.what = "is not an object", .where = (folder / "adapter_config.json").string()});
  for (const char* key :
       {"peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "target_modules", "num_virtual_tokens"}) {
    if (config.contains(key)) facts.add(key, scalar_text(config[key]));
  }
  Json metadata = Json::object();
  for (const auto& [key, value] : file.metadata()) {
    metadata[key] =
        key == "mmtune" ? parse_json(value, (folder / "adapter_model.safetensors").string() + " (metadata \"mmtune\")") : Json(value);
  }
  if (metadata.contains("mmtune") && metadata["mmtune"].is_object()) {
    for (const auto& [key, value] : metadata["mmtune"].items()) {
      if (!value.is_structured() && scalar_text(value).size() < 200) facts.add(key, scalar_text(value));
      if (key == "backbone" && value.is_object()) {
        for (const auto& [name, part] : value.items()) {
          if (!part.is_structured()) facts.add("backbone " + name, scalar_text(part));
        }
      }
    }
  }
  result.json["metadata"] = std::move(metadata);
  Description tensors_part = describe_tensors(tensors, each, std::move(facts));
  result.json.update(tensors_part.json);
  result.text = std::move(tensors_part.text);
  return result;
}

}  // namespace mmtune::cli
