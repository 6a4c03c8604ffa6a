#include "train/state.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/error.h"
#include "core/hash.h"
#include "core/json.h"
#include "io/safetensors.h"
#include "nn/weights.h"

namespace mmtune::train {

namespace {

constexpr const char* format_key = "mmtune.checkpoint";
constexpr const char* format_version = "1";

/// Names, shapes and order of the trainable tensors.
std::string layout_of(const nn::Parameters& parameters) {
  Fingerprint fingerprint;
  for (const nn::NamedTensor& item : parameters.items()) {
    fingerprint.add_field(item.name);
    for (const std::int64_t size : item.tensor.sizes()) fingerprint.add_field(size);
  }
  return fingerprint.hex();
}

Json to_json(const TrainState& state) {
  Json json = {{"step", state.step},
               {"evaluated_step", state.evaluated_step},
               {"best_step", state.best_step},
               {"without_progress", state.without_progress},
               {"stopped_early", state.stopped_early},
               {"skipped", state.skipped},
               {"seconds", state.seconds}};
  if (std::isfinite(state.best_metric)) json["best_metric"] = state.best_metric;
  return json;
}

TrainState from_json(const Json& json) {
  TrainState state;
  state.step = json.at("step").get<std::int64_t>();
  state.evaluated_step = json.at("evaluated_step").get<std::int64_t>();
  state.best_step = json.at("best_step").get<std::int64_t>();
  state.without_progress = json.at("without_progress").get<std::int64_t>();
  state.stopped_early = json.at("stopped_early").get<bool>();
  state.skipped = json.at("skipped").get<std::int64_t>();
  state.seconds = json.at("seconds").get<double>();
  if (json.contains("best_metric")) state.best_metric = json.at("best_metric").get<double>();
  return state;
}

void fill(const io::SafetensorsFile& file, const std::string& name, const at::Tensor& target) {
  const io::TensorEntry* entry = file.find(name);
  if (entry == nullptr || entry->dtype != io::DType::f32 || entry->elements() != target.numel())
    throw Error({.what = "tensor \"" + name + "\" is missing or of another size",
                 .where = file.where(),
                 .expected = std::to_string(target.numel()) + " float32 values"});
  target.copy_(nn::to_tensor_exact(*entry).view(target.sizes()));
}

const std::string& metadata_of(const io::SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) throw Error({.what = "not a checkpoint of a training (no \"" + key + "\")", .where = file.where()});
  return found->second;
}

}  // namespace

void save_state(const std::filesystem::path& path, const TrainState& state, const std::string& identity, nn::Parameters& parameters,
                const std::vector<nn::NamedTensor>& optimiser) {
  std::vector<at::Tensor> kept;
  std::vector<io::TensorEntry> entries;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    kept.push_back(tensor.to(at::kCPU));
    entries.push_back(nn::to_entry(name, kept.back()));
  };
  add("values", parameters.values());
  for (const nn::NamedTensor& item : optimiser) add(item.name, item.tensor);
  io::write_safetensors(
      path, entries,
      {{format_key, format_version}, {"state", to_json(state).dump()}, {"layout", layout_of(parameters)}, {"identity", identity}});
}

TrainState load_state(const std::filesystem::path& path, const std::string& identity, nn::Parameters& parameters,
                      const std::vector<nn::NamedTensor>& optimiser) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  if (metadata_of(file, format_key) != format_version)
    throw Error({.what = "checkpoint of another version",
                 .where = path.string(),
                 .expected = format_version,
                 .got = printable(metadata_of(file, format_key))});
  if (metadata_of(file, "identity") != identity)
    throw Error({.what = "the checkpoint belongs to another recipe, other data or another backbone",
                 .where = path.string(),
                 .hint = "what was trained on must be as it was; start anew in another folder with --out"});
  if (metadata_of(file, "layout") != layout_of(parameters))
    throw Error({.what = "the checkpoint holds other tensors than this recipe trains", .where = path.string()});
  fill(file, "values", parameters.values());
  for (const nn::NamedTensor& item : optimiser) fill(file, item.name, item.tensor);
  try {
    return from_json(parse_json(metadata_of(file, "state"), path.string()));
  } catch (const Json::exception&) {
    throw Error({.what = "the checkpoint's state is damaged", .where = path.string()});
  }
}

}  // namespace mmtune::train
