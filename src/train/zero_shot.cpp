#include "train/zero_shot.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "core/nearest.h"
#include "core/recipe.h"
#include "nn/weights.h"
#include "train/classify.h"

namespace mmtune::train {

namespace {

using backbones::Modality;

constexpr std::size_t prompts_a_pass = 64;

[[noreturn]] void refuse(const io::Checkpoint& checkpoint, const std::string& what) {
  throw UsageError({.what = what,
                    .where = "head.kind",
                    .expected = "a model with a text tower, projections and a logit_scale, as CLIP",
                    .got = checkpoint.folder().string()});
}

/// The template with the name in every place of it.
std::string filled(std::string text, const std::string& name) {
  for (std::size_t at = text.find("{}"); at != std::string::npos; at = text.find("{}", at + name.size())) text.replace(at, 2, name);
  return text;
}

void check_names(const HeadSection& section, const std::vector<std::string>& classes) {
  for (const auto& [label, name] : section.names) {
    if (std::find(classes.begin(), classes.end(), label) != classes.end()) continue;
    const auto close = nearest(label, classes);
    throw UsageError({.what = "a name for what is no class",
                      .where = "head.names",
                      .got = "'" + printable(label) + "'",
                      .hint = close ? "did you mean '" + printable(*close) + "'?" : ""});
  }
}

std::vector<std::string> prompts_of(const HeadSection& section, const std::vector<std::string>& classes) {
  std::vector<std::string> prompts;
  for (const std::string& label : classes) {
    const auto named = section.names.find(label);
    for (const std::string& text : section.templates) prompts.push_back(filled(text, named == section.names.end() ? label : named->second));
  }
  return prompts;
}

at::Tensor normalised(const at::Tensor& rows) {
  return rows / rows.norm(2, {-1}, true).clamp_min(1e-12);
}

}  // namespace

ClassEmbeddings embed_classes(const io::Checkpoint& checkpoint, const HeadSection& section, const std::vector<std::string>& classes) {
  const at::NoGradGuard no_grad;
  const std::vector<Modality> towers = backbones::towers_of(checkpoint);
  const io::TensorEntry* scale = checkpoint.find("logit_scale");
  if (std::find(towers.begin(), towers.end(), Modality::text) == towers.end() || scale == nullptr)
    refuse(checkpoint, "class prompts need a text tower");
  const auto tower = backbones::open_backbone(checkpoint, Modality::text);
  if (tower->info().projected == 0) refuse(checkpoint, "class prompts need a projection");
  check_names(section, classes);
  const InputReader reader(checkpoint, tower->info(), InputField::text, std::nullopt, Packing::packed);
  const std::vector<std::string> prompts = prompts_of(section, classes);

  std::vector<at::Tensor> parts;
  std::optional<Progress> progress;
  if (prompts.size() > 10 * prompts_a_pass)
    progress.emplace("embedding class prompts", static_cast<std::int64_t>(prompts.size()), "prompts");
  for (std::size_t begin = 0; begin < prompts.size(); begin += prompts_a_pass) {
    std::vector<InputReader::Item> items;
    for (std::size_t i = begin; i < std::min(begin + prompts_a_pass, prompts.size()); ++i) {
      data::Example example;
      example.id = "prompt \"" + prompts[i] + "\"";
      example.text = prompts[i];
      items.push_back(reader.read(example));
    }
    nn::Context context;
    context.read = nn::ReadRows::first;
    parts.push_back(normalised(tower->forward(reader.collate(items).inputs, context).embeds));
    if (progress) progress->update(static_cast<std::int64_t>(begin + items.size()));
  }
  const at::Tensor all =
      at::cat(parts).view({static_cast<std::int64_t>(classes.size()), static_cast<std::int64_t>(section.templates.size()), -1});
  return {.rows = normalised(all.mean(1)),
          .scale = nn::to_tensor(*scale, checkpoint.mapping_of(*scale)).to(at::kDouble).exp().item<double>()};
}

TrainedRun open_zero_shot(const ZeroShotOptions& options) {
  TomlValue root;
  // The recipe wants these two; a text in quotes is a text whatever it looks like.
  apply_assignment(root, "backbone.main=" + toml_quoted(options.model));
  apply_assignment(root, "data.train=" + toml_quoted(options.data.empty() ? "none" : options.data));
  apply_assignment(root, "expert.method=linear");
  apply_assignment(root, "head.kind=zero_shot");
  for (const std::string& assignment : options.assignments) apply_assignment(root, assignment);
  TrainedRun opened;
  opened.recipe = read_options<Recipe>(root);
  Recipe& recipe = opened.recipe;
  recipe.experts.clear();
  if (!options.templates.empty()) recipe.head.templates = options.templates;
  for (const std::string& text : recipe.head.templates)
    if (text.find("{}") == std::string::npos)
      throw UsageError({.what = "a template without a place for the class's name",
                        .where = "--template",
                        .expected = "{} in it",
                        .got = "'" + printable(text) + "'"});

  std::vector<std::string> classes = options.classes;
  if (classes.empty() && !options.data.empty())
    classes = data::read_dataset(read_options_of(recipe.data, Split::train, recipe.data.classes)).classes;
  if (classes.empty())
    throw UsageError({.what = "no classes", .where = options.model, .expected = "--classes NAMES or --classes-file FILE"});
  for (std::size_t i = 0; i < classes.size(); ++i) {
    if (std::find(classes.begin(), classes.begin() + static_cast<std::ptrdiff_t>(i), classes[i]) !=
        classes.begin() + static_cast<std::ptrdiff_t>(i))
      throw UsageError({.what = "a class stands there twice", .where = "--classes", .got = "'" + printable(classes[i]) + "'"});
  }
  opened.task = std::make_unique<Classify>(classes, recipe.data.multi_label, recipe.eval.threshold);
  opened.record = {{"task", opened.task->describe()}};
  opened.model = std::make_unique<Model>(recipe);
  opened.model->build_head(recipe, opened.task->outputs(), {false});
  opened.model->begin_zero_shot(recipe, classes);
  opened.model->place();
  return opened;
}

}  // namespace mmtune::train
