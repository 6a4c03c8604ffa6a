#include "train/exchange.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/staged_folder.h"
#include "core/version.h"
#include "experts/kinds.h"
#include "experts/peft_export.h"
#include "io/checkpoint.h"
#include "train/classify.h"
#include "train/hf_heads.h"
#include "train/session.h"

namespace mmtune::train {

namespace {

namespace fs = std::filesystem;
using backbones::Modality;

/// The run's expert that `name` chooses, with its tower.
std::pair<const experts::Expert*, const Tower*> chosen_expert(const TrainedRun& run, const std::string& name, const std::string& where) {
  std::vector<std::string> names;
  std::pair<const experts::Expert*, const Tower*> found{nullptr, nullptr};
  std::map<std::string, std::size_t> next;  // experts of a tower stand in the order of the record
  for (const Json& entry : run.record.at("experts")) {
    const std::string folder = fs::path(entry.at("folder").get<std::string>()).filename().string();
    const std::string tower_name = entry.at("tower");
    names.push_back(folder);
    const std::size_t index = next[tower_name]++;
    if (!name.empty() && folder != name) continue;
    for (const auto& tower : run.model->towers())
      if (tower->name() == tower_name) found = {tower->experts().at(index).get(), tower.get()};
  }
  if (found.first == nullptr || (names.size() > 1 && name.empty()))
    throw UsageError({.what = names.size() > 1 ? "the run has several experts" : "the run has no such expert",
                      .where = where,
                      .expected = "--expert with one of " + experts::listed(names),
                      .got = name.empty() ? "" : "\"" + printable(name) + "\""});
  return found;
}

/// The class of transformers that a bare backbone is.
std::string model_class_of(const std::string& architecture) {
  if (architecture == "bert") return "BertModel";
  if (architecture == "roberta") return "RobertaModel";
  if (architecture == "xlm-roberta") return "XLMRobertaModel";
  if (architecture == "vit") return "ViTModel";
  if (architecture == "swin") return "SwinModel";
  if (architecture == "clip") return "CLIPModel";
  return "AutoModel";
}

/// The tower that the folder's keys speak of, where the checkpoint has several.
std::optional<Modality> tower_of(const io::Checkpoint& checkpoint, const fs::path& folder) {
  const std::vector<Modality> towers = backbones::towers_of(checkpoint);
  if (towers.empty()) return std::nullopt;
  const fs::path file = folder / "adapter_model.safetensors";
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return towers.front();
  const io::SafetensorsFile tensors = io::SafetensorsFile::open(file);
  bool text = false, image = false;
  for (const io::TensorEntry& entry : tensors.tensors()) {
    text = text || entry.name.find("text_model.") != std::string::npos;
    image = image || entry.name.find("vision_model.") != std::string::npos;
  }
  if (text && image)
    throw Error({.what = "the expert stands in both towers of the model",
                 .where = file.string(),
                 .hint = "mmtune forward --expert runs it; a run has an expert for each tower"});
  return text ? Modality::text : Modality::image;
}

std::string label_of(const Json& config, std::size_t index) {
  const auto labels = config.find("id2label");
  if (labels == config.end() || !labels->is_object()) return "";
  const auto found = labels->find(std::to_string(index));
  return found != labels->end() && found->is_string() ? found->get<std::string>() : "";
}

/// The user's, those that the folder carries, the backbone's own where it has as many, or numbers.
std::vector<std::string> classes_for(const ImportOptions& options, const Json& metadata, const Json& config, std::size_t count) {
  std::vector<std::string> classes = options.classes;
  if (classes.empty() && metadata.is_object()) experts::read(metadata, options.folder.string() + " (metadata)", "classes", classes);
  const std::set<std::string> distinct(classes.begin(), classes.end());
  if (!classes.empty() && (classes.size() != count || distinct.size() != count))
    throw UsageError({.what = "the head has another number of classes",
                      .where = options.classes.empty() ? options.folder.string() : "--classes",
                      .expected = std::to_string(count) + " different names",
                      .got = std::to_string(classes.size()) + (distinct.size() < classes.size() ? ", some of them twice" : "")});
  if (!classes.empty()) return classes;
  const bool named = !label_of(config, count - 1).empty() && label_of(config, count).empty();
  for (std::size_t i = 0; i < count; ++i) {
    const std::string label = named ? label_of(config, i) : "";
    classes.push_back(label.empty() ? "LABEL_" + std::to_string(i) : label);
  }
  return classes;
}

Recipe recipe_for(const ImportOptions& options, const fs::path& backbone, const experts::Expert& expert) {
  Recipe recipe;
  std::error_code ignored;
  recipe.backbone.main = fs::is_directory(options.backbone, ignored) ? fs::canonical(backbone).string() : options.backbone;
  recipe.experts.emplace_back();
  ExpertSection& section = recipe.experts.back();
  section.method = std::string(expert.kind());
  section.kinds.at(section.method)->read_config(expert.config(), options.folder.string());
  recipe.data.train = "imported from PEFT: there is no training data";
  recipe.data.multi_label = options.multi_label;
  return recipe;
}

}  // namespace

Exported export_run(const ExportOptions& options) {
  const TrainedRun run = open_run(options.run);
  const auto [expert, tower] = chosen_expert(run, options.expert, options.run.string());
  experts::refuse_unknown_to_peft(*expert, options.run.string());
  backbones::Backbone& backbone = tower->backbone();
  experts::PeftExport how;
  how.naming = options.naming;
  how.base_model = tower->name() == "main" ? run.recipe.backbone.main : run.recipe.backbone.condition;
  how.metadata = {{"version", version()},
                  {"backbone", backbone.info().architecture},
                  {"backbone_fingerprint", io::backbone_fingerprint(tower->checkpoint())}};
  Exported exported{.peft_type = expert->config().at("peft_type"),
                    .base_model = how.base_model,
                    .model_class = model_class_of(backbone.info().architecture),
                    .auto_class = "AutoModel",
                    .head = options.head && run.model->has_head(),
                    .classes = {}};
  if (exported.head) {
    const HfHead head = hf_head_of(run.recipe, *run.model);
    how.task_model = true;
    how.without_pooler = head.pooling != backbones::Pooling::pooler;
    how.task_type = head.task_type;
    how.modules_to_save = head.modules;
    how.head = to_hf(head, run.model->head(), tower->checkpoint().config());
    how.metadata["classes"] = run.task->classes();
    exported.model_class = head.model_class;
    exported.auto_class = head.auto_class;
    exported.classes = run.task->classes();
  }
  if (!exported.head) {
    // PEFT puts prompts in front only where it knows what the model is for.
    if (exported.peft_type == "PREFIX_TUNING" || exported.peft_type == "PROMPT_TUNING") how.task_type = "FEATURE_EXTRACTION";
    if (tower->checkpoint().config().value("model_type", "") == "clip")
      how.excluded = tower->modality() == Modality::image ? R"(text_model\..*)" : R"(vision_model\..*)";
  }
  StagedFolder folder(options.out);
  experts::export_to_peft(*expert, backbone, how, folder.path());
  folder.commit();
  return exported;
}

Imported import_peft(const ImportOptions& options) {
  const fs::path model = io::resolve_model(options.backbone);
  const io::Checkpoint checkpoint = io::Checkpoint::open(model);
  const std::string fingerprint = io::backbone_fingerprint(checkpoint);
  const std::optional<Modality> modality = tower_of(checkpoint, options.folder);
  Imported imported;
  const std::unique_ptr<backbones::Backbone> backbone = backbones::open_backbone(checkpoint, modality);
  experts::OpenedExpert opened = experts::open_expert(options.folder, *backbone, fingerprint);
  const backbones::BackboneInfo& info = backbone->info();
  const Json metadata = {{"version", version()}, {"backbone", info.architecture}, {"backbone_fingerprint", fingerprint}, {"tower", "main"}};
  imported.kind = opened.expert->kind();
  imported.parameters = opened.expert->parameter_count();
  StagedFolder staged(options.out);
  if (opened.head.empty()) {
    if (!options.classes.empty())
      throw UsageError({.what = "the folder has no head for them", .where = "--classes", .got = options.folder.string()});
    experts::save_expert(*opened.expert, staged.path(), metadata);
    staged.commit();
    return imported;
  }

  std::vector<std::string> names;
  for (const nn::NamedTensor& one : opened.head) names.push_back(one.name);
  const std::string where = (options.folder / "adapter_model.safetensors").string();
  const HfHead head = hf_head_named(names, info, where);
  if (head.projected && reads_sum_of_layers(checkpoint))
    throw Error({.what = "the head reads a learned sum of all layers, which mmtune's heads do not",
                 .where = (model / "config.json").string(),
                 .expected = "use_weighted_layer_sum = false",
                 .got = "true"});
  Recipe recipe = recipe_for(options, model, *opened.expert);
  describe_head(head, info, recipe);
  if (modality == Modality::text) recipe.backbone.main_input = InputField::text;
  const std::string prefix(experts::task_prefix(info.architecture));
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [ours, theirs] : head.names) tensors[ours] = from_hf(head, ours, opened.head, prefix, where);
  const at::Tensor& last = tensors.at(head.kind == HeadKind::linear ? "bias" : "2.bias");
  imported.classes = classes_for(options, opened.metadata, checkpoint.config(), static_cast<std::size_t>(last.numel()));
  recipe.data.classes = imported.classes;

  // The whole run is built as the other commands will open it, so that what is written is known to work.
  Model run_model(recipe);
  Tower& tower = *run_model.towers().front();
  tower.add_expert(experts::open_expert(options.folder, tower.backbone(), fingerprint).expert);
  run_model.build_head(recipe, static_cast<std::int64_t>(imported.classes.size()), {false});
  const at::NoGradGuard no_grad;
  for (const nn::NamedTensor& one : run_model.head().tensors()) {
    const at::Tensor& value = tensors.at(one.name);
    if (value.sizes() != one.tensor.sizes())
      throw Error({.what = "a tensor of the head has another shape than this backbone's would have",
                   .where = where,
                   .expected = c10::str(one.tensor.sizes()),
                   .got = c10::str(value.sizes())});
    at::Tensor target = one.tensor;
    target.copy_(value);
  }
  const Classify task(imported.classes, options.multi_label, recipe.eval.threshold);
  const RunFolder run = RunFolder::create(staged.path());
  write_file_atomically(run.recipe(), to_toml(recipe));
  run.write_record({{"mmtune", version()},
                    {"state", "imported"},
                    {"task", task.describe()},
                    {"backbones", Json::array({{{"tower", "main"},
                                                {"model", recipe.backbone.main},
                                                {"architecture", info.architecture},
                                                {"fingerprint", fingerprint},
                                                {"parameters", tower.backbone().parameter_count()}}})},
                    {"experts", describe_experts(run_model)},
                    {"learned_absent", std::vector<bool>{false}}});
  save_trained(run, run_model, {fingerprint}, metadata);
  staged.commit();
  imported.head = true;
  return imported;
}

}  // namespace mmtune::train
