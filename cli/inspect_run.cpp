// The part of `mmtune inspect` that looks at a run folder.

#include <algorithm>
#include <string_view>
#include <vector>

#include "core/files.h"
#include "core/toml.h"
#include "inspect_files.h"
#include "report/table.h"

namespace mmtune::cli {

namespace {

namespace fs = std::filesystem;

/// The value at a dotted path of objects; null where something on the way is missing or of another type. A run's record may come from
/// another version, so nothing in it is taken for granted.
const Json& at(const Json& record, std::string_view path) {
  static const Json nothing;
  const Json* value = &record;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('.'), path.size());
    if (!value->is_object()) return nothing;
    const auto member = value->find(std::string(path.substr(0, end)));
    if (member == value->end()) return nothing;
    value = &*member;
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return *value;
}

template <class Format>
std::string number(const Json& value, const Format& format) {
  return value.is_number() ? std::string(format(value.get<double>())) : std::string();
}

std::string joined(const std::string& a, const std::string& between, const std::string& b) {
  return a.empty() || b.empty() ? a + b : a + between + b;
}

void add_record(const Json& record, Facts& facts) {
  facts.add("state", scalar_text(at(record, "state")));
  facts.add("steps", joined(scalar_text(at(record, "step")), " of ", scalar_text(at(record, "total_steps"))));
  facts.add("training", number(at(record, "training_seconds"), report::human_duration));
  const Json& best = at(record, "best");
  if (best.is_object()) {
    facts.add("best", scalar_text(at(best, "metric")) + " " + number(at(best, "value"), [](double v) { return report::fixed(v); }) +
                          " at step " + scalar_text(at(best, "step")));
  }
  std::string valid;
  if (const Json& metrics = at(record, "valid"); metrics.is_object()) {
    for (const auto& [name, value] : metrics.items()) {
      valid = joined(valid, ", ", name + " " + number(value, [](double v) { return report::fixed(v); }));
    }
  }
  facts.add("validation", valid);
  facts.add("trainable", number(at(record, "trainable_parameters"), report::human_count));
  if (const Json& backbones = at(record, "backbones"); backbones.is_array()) {
    for (const Json& backbone : backbones) {
      facts.add("tower " + scalar_text(at(backbone, "tower")), scalar_text(at(backbone, "architecture")) + ", " +
                                                                   number(at(backbone, "parameters"), report::human_count) +
                                                                   " parameters, " + scalar_text(at(backbone, "model")));
    }
  }
  for (const char* split : {"train", "valid"}) {
    const Json& data = at(record, std::string("data.") + split);
    if (data.is_object())
      facts.add(std::string(split) + " data", scalar_text(at(data, "examples")) + " examples, " + scalar_text(at(data, "source")));
  }
  if (const Json& classes = at(record, "task.classes"); classes.is_array()) facts.add("classes", std::to_string(classes.size()));
  facts.add("skipped examples", at(record, "skipped_examples") == Json(0) ? "" : scalar_text(at(record, "skipped_examples")));
  facts.add("step time", number(at(record, "performance.median_step_seconds"), report::human_duration));
  facts.add("peak memory", number(at(record, "performance.peak_memory_bytes"), report::human_bytes));
  facts.add("machine", joined(scalar_text(at(record, "machine.cpu")), ", threads: ", scalar_text(at(record, "machine.threads"))));
  facts.add("versions", joined("mmtune " + scalar_text(at(record, "mmtune")), ", LibTorch ", scalar_text(at(record, "machine.torch"))));
}

/// One expert lies in expert/ itself; several in folders of their own below it.
std::vector<fs::path> experts_of(const fs::path& run) {
  std::vector<fs::path> folders;
  std::error_code error;
  const fs::path folder = run / "expert";
  if (fs::exists(folder / "adapter_config.json", error)) folders.push_back(folder);
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (fs::exists(entry->path() / "adapter_config.json", error)) folders.push_back(entry->path());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

}  // namespace

Description describe_run(const fs::path& folder) {
  Description result;
  result.json = {{"kind", "run"}, {"path", folder.string()}};
  Facts facts;
  facts.add("run", folder.string());
  std::error_code error;
  if (fs::exists(folder / "run.json", error)) {
    const Json record = read_json_file(folder / "run.json", std::size_t{16} << 20);
    add_record(record, facts);
    result.json["record"] = record;
  }
  if (fs::exists(folder / "recipe.toml", error)) {
    const std::string recipe = read_file(folder / "recipe.toml", std::size_t{1} << 20);
    parse_toml(recipe, (folder / "recipe.toml").string());  // a damaged recipe is told here
    facts.add("recipe", (folder / "recipe.toml").string());
    result.json["recipe"] = recipe;
  }
  result.text = facts.text();
  result.json["experts"] = Json::array();
  for (const fs::path& expert : experts_of(folder)) {
    Description description = describe_expert(expert, false);
    result.text += "\n" + description.text;
    result.json["experts"].push_back(std::move(description.json));
  }
  return result;
}

}  // namespace mmtune::cli
