#include "experts/interpolation_part.h"

#include <filesystem>

#include "core/error.h"
#include "core/listed.h"
#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

namespace fs = std::filesystem;

fs::path expert_folder(const std::string& run) {
  fs::path path(run);
  std::error_code ignored;
  if (!fs::is_directory(path, ignored))
    throw Error({.what = "the run folder of an expert is gone",
                 .where = printable(run),
                 .expected = "a folder that mmtune train left",
                 .hint = "name experts that are there in expert.experts, or build the graph anew without it"});
  if (fs::exists(path / "adapter_config.json", ignored)) return path;
  if (fs::exists(path / "expert" / "adapter_config.json", ignored)) return path / "expert";
  if (fs::is_directory(path / "expert", ignored))
    throw Error({.what = "the run has several experts",
                 .where = printable(run),
                 .hint = "name the folder of one of them: " + (path / "expert" / "…").string()});
  throw Error({.what = "the run has no expert", .where = printable(run), .expected = "expert/adapter_config.json"});
}

}  // namespace

bool is_lora_tensor(std::string_view name) {
  return name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight");
}

InterpolationPart read_part(const std::string& run, backbones::Backbone& backbone, const std::string& fingerprint) {
  const fs::path folder = expert_folder(run);
  const std::unique_ptr<Expert> expert = load_expert(folder, backbone, fingerprint, fingerprint.empty());
  InterpolationPart part{.task = fs::path(run).lexically_normal().filename().string(),
                         .folder = folder.string(),
                         .tensors = {},
                         .config = expert->config(),
                         .kind = std::string(expert->kind())};
  if (part.task.empty()) part.task = fs::path(run).lexically_normal().parent_path().filename().string();
  for (const nn::NamedTensor& one : expert->tensors()) part.tensors.push_back({one.name, one.tensor.detach().clone()});
  if (part.tensors.empty())
    throw Error({.what = "the expert has no tensors that could be averaged", .where = folder.string(), .got = part.kind});
  return part;
}

void refuse_unlike(const InterpolationPart& first, const InterpolationPart& part) {
  const std::string where = printable(part.folder) + " beside " + printable(first.folder);
  if (part.kind != first.kind)
    throw Error({.what = "experts of different kinds cannot be averaged", .where = where, .expected = first.kind, .got = part.kind});
  if (part.config.value("use_dora", false))
    throw Error({.what = "DoRA's updates cannot be averaged exactly: its lengths belong to one update",
                 .where = printable(part.folder),
                 .expected = "dora = false"});
  for (const char* key : {"gated", "activation", "variant", "scale", "behind_norm", "weight", "keys", "learn_scale"})
    if (part.config.value(key, Json()) != first.config.value(key, Json()))
      throw Error({.what = std::string("the experts differ in \"") + key + "\"",
                   .where = where,
                   .expected = first.config.value(key, Json()).dump(),
                   .got = part.config.value(key, Json()).dump()});
  if (part.tensors.size() != first.tensors.size())
    throw Error({.what = "the experts stand at different sites",
                 .where = where,
                 .expected = std::to_string(first.tensors.size()) + " tensors",
                 .got = std::to_string(part.tensors.size())});
  for (std::size_t i = 0; i < first.tensors.size(); ++i) {
    const nn::NamedTensor &a = first.tensors[i], &b = part.tensors[i];
    if (a.name != b.name) throw Error({.what = "the experts stand at different sites", .where = where, .expected = a.name, .got = b.name});
    if (a.tensor.sizes() == b.tensor.sizes() || (part.kind == "lora" && is_lora_tensor(a.name))) continue;
    throw Error({.what = "the experts have different shapes (another length or bottleneck), and no exact projection joins them",
                 .where = where + ", tensor \"" + a.name + "\"",
                 .expected = shape_text(a.tensor.sizes()),
                 .got = shape_text(b.tensor.sizes()),
                 .hint = "train all experts with the same [expert] section"});
  }
}

}  // namespace mmtune::experts
