#include "train/session.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/nearest.h"
#include "data/split.h"
#include "io/safetensors.h"
#include "nn/weights.h"
#include "train/hf_heads.h"
#include "train/sequences.h"

namespace mmtune::train {

namespace {

namespace fs = std::filesystem;

struct PlacedExpert {
  const Tower* tower;
  const experts::Expert* expert;
  std::string folder;  ///< below the run
};

std::vector<PlacedExpert> placed_experts(const Model& model) {
  std::vector<PlacedExpert> placed;
  for (const auto& tower : model.towers())
    for (const auto& expert : tower->experts()) placed.push_back({tower.get(), expert.get(), "expert"});
  if (placed.size() == 1) return placed;
  std::map<std::string, int> seen;
  for (PlacedExpert& one : placed) {
    const std::string name = one.tower->name() + "-" + std::string(one.expert->kind());
    const int number = ++seen[name];
    one.folder = "expert/" + name + (number > 1 ? "-" + std::to_string(number) : "");
  }
  return placed;
}

std::string metric_of(const Recipe& recipe, const Task& task) {
  const std::vector<std::string> names = task.metric_names();
  if (recipe.train.metric.empty()) return names.front();
  if (std::find(names.begin(), names.end(), recipe.train.metric) != names.end()) return recipe.train.metric;
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  const auto close = nearest(recipe.train.metric, names);
  throw UsageError({.what = "no such metric",
                    .where = "train.metric",
                    .expected = "one of " + all,
                    .got = "\"" + printable(recipe.train.metric) + "\"",
                    .hint = close ? "did you mean \"" + *close + "\"?" : ""});
}

void fill_head(const Head& head, const fs::path& path) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  const at::NoGradGuard no_grad;
  for (const nn::NamedTensor& item : head.tensors()) {
    const io::TensorEntry* entry = file.find(item.name);
    if (entry == nullptr || at::IntArrayRef(entry->shape) != item.tensor.sizes())
      throw Error({.what = "tensor \"" + item.name + "\" is missing or of another shape", .where = path.string()});
    at::Tensor target = item.tensor;
    target.copy_(nn::to_tensor(*entry, file.mapping()));
  }
  if (file.tensors().size() != head.tensors().size())
    throw Error({.what = "holds tensors that the head does not have",
                 .where = path.string(),
                 .expected = std::to_string(head.tensors().size()),
                 .got = std::to_string(file.tensors().size())});
}

/// Better now than in the middle of an epoch.
void refuse_lacking_examples(const Model& model, const data::Dataset& dataset) {
  for (std::size_t t = 0; t < model.towers().size(); ++t) {
    if (!model.needs(t)) continue;
    for (const data::Example& example : dataset.examples)
      if (!model.towers()[t]->reader().has(example)) refuse_lacking(example, model.towers()[t]->name());
  }
}

/// The same for the second picture of a pair.
void refuse_lonely_pictures(const Model& model, const data::Dataset& dataset) {
  if (model.pair_reader() == nullptr) return;
  for (const data::Example& example : dataset.examples)
    if (!model.pair_reader()->has(example))
      throw Error({.what = "a pair needs two pictures",
                   .where = "example " + printable(example.id),
                   .expected = "the fields image and image_pair",
                   .got = example.image ? "image alone" : "no picture",
                   .hint = "map the file's fields with data.columns"});
}

/// Training examples that the task cannot learn from.
void leave_out_useless(const Task& task, data::Dataset& train) {
  const std::size_t before = train.examples.size();
  std::erase_if(train.examples, [&](const data::Example& example) { return !task.learns_from(example); });
  const std::size_t gone = before - train.examples.size();
  if (gone > 0) log_info(train.source + ": " + std::to_string(gone) + " examples teach nothing and are left out of the training");
}

/// An expert that conditions one tower on another belongs to both.
void check_condition(const fs::path& folder, const Model& model) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(folder / "adapter_model.safetensors");
  const auto text = file.metadata().find("mmtune");
  if (text == file.metadata().end()) return;
  const Json metadata = parse_json(text->second, folder.string() + " (metadata \"mmtune\")");
  for (std::size_t t = 1; t < model.towers().size(); ++t) {
    const Tower& tower = *model.towers()[t];
    const std::string expected = metadata.value(tower.name() + "_fingerprint", std::string());
    const std::string got = io::backbone_fingerprint(tower.checkpoint());
    if (expected.empty() || expected == got) continue;
    throw Error({.what = "this expert was trained with another conditioning backbone",
                 .where = folder.string(),
                 .expected = "\"" + metadata.value(tower.name(), std::string("a backbone")) + "\" with fingerprint " + expected,
                 .got = "\"" + tower.checkpoint().folder().filename().string() + "\" with fingerprint " + got});
  }
}

std::string listed(const std::vector<std::int64_t>& widths) {
  std::string text;
  for (const std::int64_t width : widths) text += (text.empty() ? "" : " + ") + std::to_string(width);
  return text.empty() ? "none" : text;
}

/// The target's own run has a head for the same labels: training goes on from it.
void begin_from_target(const experts::Interpolated& expert, const Task& task, const Head& head) {
  if (!expert.target()) return;
  const fs::path folder = expert.parts()[*expert.target()].folder;
  const fs::path run = folder.filename() == "expert" ? folder.parent_path() : folder.parent_path().parent_path();
  if (!fs::exists(run / "head.safetensors") || !fs::exists(run / "run.json")) return;
  const Json record = read_json_file(run / "run.json");
  const Json own = task.describe();
  if (!record.is_object() || record.value("task", Json()) != own)
    throw UsageError({.what = "the target's own run was trained for other labels",
                      .where = "expert.target = " + run.string(),
                      .expected = printable(own.dump(), 200),
                      .got = printable(record.is_object() ? record.value("task", Json()).dump() : "", 200)});
  fill_head(head, run / "head.safetensors");
}

Tower& tower_named(Model& model, const std::string& name, const std::string& where) {
  for (const auto& tower : model.towers())
    if (tower->name() == name) return *tower;
  throw Error({.what = "an expert belongs to a tower that the recipe does not have", .where = where, .got = printable(name)});
}

}  // namespace

TrainingData read_training_data(const DataSection& section, std::int64_t seed, bool labelled) {
  std::vector<std::string> classes = section.classes;
  if (!section.classes_file.empty()) classes = data::read_class_names(section.classes_file);
  TrainingData data;
  const auto read = [&](Split split, std::vector<std::string> names) {
    data::ReadOptions options = read_options_of(section, split, std::move(names));
    options.require_labels = labelled;
    return data::read_dataset(options);
  };
  data.train = read(Split::train, std::move(classes));
  if (!section.valid.empty() || !section.valid_where.empty()) {
    data.valid = read(Split::valid, data.train.classes);
  } else if (section.valid_fraction > 0) {
    auto [train, valid] = data::split_dataset(data.train, section.valid_fraction, static_cast<std::uint64_t>(seed));
    data.train = std::move(train);
    data.valid = std::move(valid);
  }
  if (section.train_fraction < 1)
    data.train = data::split_dataset(data.train, 1 - section.train_fraction, static_cast<std::uint64_t>(section.shot_seed)).first;
  warn_of_skipped_rows(data.train);
  if (data.valid) warn_of_skipped_rows(*data.valid);
  return data;
}

void warn_of_skipped_rows(const data::Dataset& dataset) {
  if (dataset.skipped > 0)
    log_warning(dataset.source + ": " + std::to_string(dataset.skipped) + " bad rows are left out; the first: " + dataset.first_skipped);
}

data::ReadOptions question_options_of(const DataSection& section, const std::string& path, std::vector<std::string> classes,
                                      std::span<const std::string> assignments) {
  DataSection own = section;
  own.train = path;
  own.train_where.clear();
  own.shots = 0;
  const bool limited =
      std::any_of(assignments.begin(), assignments.end(), [](const std::string& one) { return one.starts_with("data.limit="); });
  if (!limited) own.limit = 0;
  data::ReadOptions options = read_options_of(own, Split::train, std::move(classes));
  options.columns_must_exist = false;
  return options;
}

data::ReadOptions question_options_of(const DataSection& section, const std::string& path, const Task& task,
                                      std::span<const std::string> assignments) {
  data::ReadOptions options =
      question_options_of(section, path, task.labelled() ? task.classes() : std::vector<std::string>(), assignments);
  options.require_labels = options.require_labels && task.labelled();
  return options;
}

Training prepare_training(const Recipe& recipe) {
  Training training;
  training.data = read_training_data(recipe.data, recipe.train.seed, has_labels(recipe.task));
  training.task = make_task(recipe, training.data.train);
  leave_out_useless(*training.task, training.data.train);
  training.metric = metric_of(recipe, *training.task);
  training.model = std::make_unique<Model>(recipe);
  Model& model = *training.model;
  if (auto* const sequences = dynamic_cast<Sequences*>(training.task.get())) {
    sequences->attach(recipe, model);
    leave_out_useless(*training.task, training.data.train);
    training.data.train = sequences->spread(std::move(training.data.train));
  }
  for (const auto& tower : model.towers()) training.backbones.push_back(io::backbone_fingerprint(tower->checkpoint()));
  model.build_experts(recipe);
  training.learn_absent = recipe.head.absent == Absent::learned     ? std::vector<bool>(model.towers().size(), true)
                          : recipe.head.absent == Absent::automatic ? model.lacking(training.data.train)
                                                                    : std::vector<bool>(model.towers().size(), false);
  if (const experts::Expert* expert = model.towers().front()->conditional(); expert != nullptr && expert->learns_absent())
    std::fill(training.learn_absent.begin() + 1, training.learn_absent.end(), true);
  model.build_head(recipe, training.task->outputs(), training.learn_absent);
  if (recipe.head.kind == HeadKind::zero_shot) model.begin_zero_shot(recipe, training.task->classes());
  if (recipe.task == "retrieve" && model.begin_matching(training.task->outputs()))
    log_info("the head begins with the checkpoint's own image-text matching");
  if (begin_with_checkpoint_head(recipe, model, training.task->classes()))
    log_info("the head begins with the checkpoint's own: its labels are those of the data");
  for (const experts::Interpolated* one : model.interpolated())
    if (model.has_head()) begin_from_target(*one, *training.task, model.head());
  if (recipe.data.on_error == OnError::stop) {
    for (const data::Dataset* dataset : {&training.data.train, training.data.valid ? &*training.data.valid : nullptr}) {
      if (dataset == nullptr) continue;
      refuse_lacking_examples(model, *dataset);
      refuse_lonely_pictures(model, *dataset);
    }
  }
  training.groups = model.gather(recipe.train);
  return training;
}

void save_trained(const RunFolder& run, const Model& model, const std::vector<std::string>& backbones, const Json& metadata) {
  for (const PlacedExpert& one : placed_experts(model)) {
    Json own = metadata;
    const auto place = std::find_if(model.towers().begin(), model.towers().end(), [&](const auto& t) { return t.get() == one.tower; });
    const auto tower = static_cast<std::size_t>(place - model.towers().begin());
    own["tower"] = one.tower->name();
    own["backbone"] = one.tower->backbone().info().architecture + " \"" + one.tower->checkpoint().folder().filename().string() + "\"";
    own["backbone_fingerprint"] = backbones.at(tower);
    for (std::size_t t = 1; t < model.towers().size() && !one.expert->complementary_widths().empty(); ++t) {
      own[model.towers()[t]->name()] = model.towers()[t]->checkpoint().folder().filename().string();
      own[model.towers()[t]->name() + "_fingerprint"] = backbones.at(t);
    }
    experts::save_expert(one.expert->kept(), run.path() / one.folder, own);
  }
  std::vector<at::Tensor> kept;
  std::vector<io::TensorEntry> entries;
  const std::vector<nn::NamedTensor> none;
  for (const nn::NamedTensor& item : model.has_head() ? model.head().tensors() : none) {
    kept.push_back(item.tensor.detach().to(at::kCPU).contiguous());
    entries.push_back(nn::to_entry(item.name, kept.back()));
  }
  io::write_safetensors(run.head(), entries, {{"format", "pt"}});
}

Json describe_experts(const Model& model) {
  Json experts = Json::array();
  for (const PlacedExpert& one : placed_experts(model))
    experts.push_back({{"folder", one.folder},
                       {"tower", one.tower->name()},
                       {"kind", one.expert->kind()},
                       {"parameters", one.expert->parameter_count()}});
  return experts;
}

TrainedRun open_run(const fs::path& path, std::span<const std::string> assignments) {
  const RunFolder run = RunFolder::open(path);
  TrainedRun opened;
  opened.record = run.read_record();
  if (!fs::exists(run.head()))
    throw Error({.what = "this run has no expert yet",
                 .where = path.string(),
                 .got = opened.record.value("state", std::string("no state")),
                 .hint = "finish it with: mmtune train " + run.recipe().string() + " --out " + path.string() + " --resume"});
  opened.recipe = read_recipe_file(run.recipe(), assignments);
  const std::string where = run.record().string();
  try {
    opened.task = read_task(opened.recipe, opened.record.at("task"), where);
    opened.model = std::make_unique<Model>(opened.recipe);
    Model& model = *opened.model;
    if (auto* const sequences = dynamic_cast<Sequences*>(opened.task.get())) sequences->attach(opened.recipe, model);
    for (const Json& entry : opened.record.at("experts")) {
      Tower& tower = tower_named(model, entry.at("tower").get<std::string>(), where);
      const fs::path folder = run.path() / entry.at("folder").get<std::string>();
      tower.add_expert(experts::load_expert(folder, tower.backbone(), io::backbone_fingerprint(tower.checkpoint())));
      const experts::Expert& loaded = *tower.experts().back();
      if (loaded.complementary_widths().empty()) continue;  // it knows no tower but its own
      check_condition(folder, model);
      if (loaded.complementary_widths() != model.complementary_widths())
        throw Error({.what = "the features of the towers beside the main one do not fit the expert",
                     .where = folder.string(),
                     .expected = listed(loaded.complementary_widths()) + " values",
                     .got = listed(model.complementary_widths())});
    }
    const auto learned = opened.record.at("learned_absent").get<std::vector<bool>>();
    if (learned.size() != model.towers().size()) throw Error({.what = "the record does not fit the recipe", .where = where});
    model.build_head(opened.recipe, opened.task->outputs(), learned);
  } catch (const Json::exception&) {
    throw Error({.what = "the run's record is damaged", .where = where});
  }
  if (opened.model->has_head()) fill_head(opened.model->head(), run.head());
  opened.model->place();
  return opened;
}

TrainedRun open_interpolated(const fs::path& path, std::span<const std::string> assignments) {
  const RunFolder run = RunFolder::open(path);
  TrainedRun opened;
  opened.record = run.read_record();
  const std::string where = run.record().string();
  if (!opened.record.contains("interpolation") || !fs::exists(run.head()))
    throw UsageError({.what = "no run of averaged experts that was finished", .where = path.string(), .expected = "method = \"pi\""});
  opened.recipe = read_recipe_file(run.recipe(), assignments);
  try {
    opened.task = read_task(opened.recipe, opened.record.at("task"), where);
    opened.model = std::make_unique<Model>(opened.recipe);
    Model& model = *opened.model;
    if (auto* const sequences = dynamic_cast<Sequences*>(opened.task.get())) sequences->attach(opened.recipe, model);
    model.build_experts(opened.recipe);
    const Json& kept = opened.record.at("interpolation");
    const std::vector<experts::Interpolated*> averaged = model.interpolated();
    if (kept.size() != averaged.size()) throw Error({.what = "the record does not fit the recipe", .where = where});
    for (std::size_t i = 0; i < averaged.size(); ++i)
      averaged[i]->restore(kept.at(i).at("coefficients").get<std::vector<std::vector<double>>>());
    model.build_head(opened.recipe, opened.task->outputs(), opened.record.at("learned_absent").get<std::vector<bool>>());
  } catch (const Json::exception&) {
    throw Error({.what = "the run's record is damaged", .where = where});
  }
  if (opened.model->has_head()) fill_head(opened.model->head(), run.head());
  opened.model->place();
  return opened;
}

}  // namespace mmtune::train
