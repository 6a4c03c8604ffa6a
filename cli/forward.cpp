// mmtune forward MODEL: named tensors in, the model's named outputs out, for comparing with other tools.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "arguments.h"
#include "backbones/backbone.h"
#include "commands.h"
#include "core/error.h"
#include "core/log.h"
#include "experts/expert.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "nn/weights.h"
#include "tensor_file.h"
#include "train/session.h"

namespace mmtune::cli {

namespace {

using backbones::TensorMap;

struct Options {
  std::string model, inputs, out, expert;
  bool any_backbone = false;
  bool json = false;
};

constexpr std::string_view gradient_prefix = "grad.";

/// The file's tensors: inputs by name, and gradients of outputs ("grad.last_hidden_state") where they are given.
std::pair<TensorMap, TensorMap> read_inputs(const std::string& path) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  TensorMap inputs, gradients;
  for (const io::TensorEntry& entry : file.tensors()) {
    const bool gradient = entry.name.starts_with(gradient_prefix);
    (gradient ? gradients : inputs)[gradient ? entry.name.substr(gradient_prefix.size()) : entry.name] = nn::to_tensor_exact(entry);
  }
  return {std::move(inputs), std::move(gradients)};
}

/// Adds "grad.NAME" of every floating-point input to `outputs`, for the given gradients of the outputs.
void add_gradients(const TensorMap& inputs, const TensorMap& gradients, TensorMap& outputs) {
  std::vector<at::Tensor> roots, cotangents, leaves;
  std::vector<std::string> names;
  for (const auto& [name, gradient] : gradients) {
    const auto output = outputs.find(name);
    if (output == outputs.end())
      throw Error({.what = "the model has no such output", .where = std::string(gradient_prefix) + printable(name)});
    if (output->second.sizes() != gradient.sizes())
      throw Error({.what = "gradient and output differ in shape", .where = std::string(gradient_prefix) + name});
    roots.push_back(output->second);
    cotangents.push_back(gradient.to(at::kFloat));
  }
  for (const auto& [name, tensor] : inputs) {
    if (!tensor.requires_grad()) continue;
    names.push_back(name);
    leaves.push_back(tensor);
  }
  if (leaves.empty())
    throw Error({.what = "no input that a gradient could be taken of", .where = "inputs", .expected = "inputs_embeds or pixel_values"});
  const auto found = torch::autograd::grad(roots, leaves, cotangents, std::nullopt, false, true);
  for (std::size_t i = 0; i < leaves.size(); ++i)
    outputs[std::string(gradient_prefix) + names[i]] = found[i].defined() ? found[i] : at::zeros_like(leaves[i]);
}

/// The tower that reads these inputs, of a model that has several; nothing where all are needed.
std::optional<backbones::Modality> tower_for(const TensorMap& inputs) {
  const bool pictures = inputs.contains("pixel_values");
  const bool texts = inputs.contains("input_ids") || inputs.contains("inputs_embeds");
  if (pictures == texts) return std::nullopt;
  return pictures ? backbones::Modality::image : backbones::Modality::text;
}

/// Which of `count` output rows stand for inputs that the mask ([B, n]) marks: [B, count]. A backbone that reads sound has a row for many
/// samples.
at::Tensor mask_of_rows(const at::Tensor& mask, std::int64_t count, const backbones::Backbone& backbone) {
  if (mask.size(1) == count) return mask.to(at::kFloat);
  const at::Tensor lengths = mask.ne(0).sum(1);
  at::Tensor rows = at::zeros({mask.size(0), count});
  for (std::int64_t i = 0; i < mask.size(0); ++i) rows[i].narrow(0, 0, backbone.rows_of(lengths[i].item<std::int64_t>())).fill_(1.0);
  return rows;
}

/// The feature that a tower's head reads, from padded outputs by HuggingFace's names: [B, D].
at::Tensor pooled(const TensorMap& outputs, const TensorMap& inputs, const train::Tower& tower) {
  using backbones::Pooling;
  const Pooling pooling = tower.pooling();
  const at::Tensor& rows = outputs.at("last_hidden_state");
  if (pooling == Pooling::pooler) return outputs.at("pooler_output");
  if (pooling == Pooling::first) return rows.select(1, 0);
  if (pooling == Pooling::patches) return rows.narrow(1, 1, rows.size(1) - 1).mean(1);
  if (pooling == Pooling::all) return rows.flatten(1);
  const auto mask = inputs.find("attention_mask");
  if (mask == inputs.end()) return rows.mean(1);
  const at::Tensor weights = mask_of_rows(mask->second, rows.size(1), tower.backbone()).unsqueeze(2);
  return (rows * weights).sum(1) / weights.sum(1);
}

/// The outputs of a run's tower, with the head's logits.
TensorMap run_outputs(const std::string& folder, const TensorMap& inputs) {
  const train::TrainedRun opened = train::open_run(folder);
  if (opened.model->towers().size() > 1)
    throw Error(
        {.what = "the run has two towers", .where = folder, .expected = "a run with one", .hint = "mmtune predict answers with both"});
  const train::Tower& tower = *opened.model->towers().front();
  TensorMap outputs = tower.backbone().forward_named(inputs, nn::Context{});
  if (!opened.model->has_head()) return outputs;  // what a decoder says is among them
  const at::Tensor features = pooled(outputs, inputs, tower);
  std::vector<std::int64_t> every;
  for (std::int64_t i = 0; i < features.size(0); ++i) every.push_back(i);
  outputs["logits"] = opened.model->head()({{features, every}}, nn::Context{});
  return outputs;
}

void write_outputs(const Options& options, const TensorMap& outputs) {
  std::vector<at::Tensor> kept;
  std::vector<io::TensorEntry> entries;
  for (const auto& [name, tensor] : outputs) {
    kept.push_back(tensor.detach().contiguous());
    entries.push_back(nn::to_entry(name, kept.back()));
  }
  write_tensor_file(options.out, entries, options.json);
}

/// The outputs of a model, with an expert where one is given, and the gradients that the inputs ask for.
TensorMap model_outputs(const Options& options, TensorMap& inputs, const TensorMap& gradients) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(io::resolve_model(options.model));
  const std::unique_ptr<backbones::Backbone> backbone = backbones::open_backbone(checkpoint, tower_for(inputs));
  if (!backbone->load_report().unused.empty()) log_info(checkpoint.folder().string() + ": " + backbone->load_report().summary());
  std::unique_ptr<experts::Expert> expert;
  if (!options.expert.empty()) {
    const std::string fingerprint = options.any_backbone ? "" : io::backbone_fingerprint(checkpoint);
    experts::OpenedExpert opened = experts::open_expert(options.expert, *backbone, fingerprint, options.any_backbone);
    expert = std::move(opened.expert);
    if (!expert->complementary_widths().empty())
      throw Error({.what = "this expert works with a second tower, which is not here",
                   .where = options.expert,
                   .got = std::string(expert->kind()),
                   .hint = "mmtune predict asks a run with all its towers"});
    if (!opened.head.empty())
      log_warning(options.expert + ": its head (" + opened.head.front().name + ", …) is left out; mmtune import makes a run of both");
  }
  if (!gradients.empty())
    for (auto& [name, tensor] : inputs)
      if (tensor.is_floating_point()) tensor.requires_grad_(true);
  const at::AutoGradMode mode(!gradients.empty());
  TensorMap outputs = backbone->forward_named(inputs, nn::Context{});
  if (!gradients.empty()) add_gradients(inputs, gradients, outputs);
  for (auto& [name, tensor] : outputs) tensor = tensor.detach();
  return outputs;
}

int run(const Options& options) {
  auto [inputs, gradients] = read_inputs(options.inputs);
  std::error_code ignored;
  if (std::filesystem::exists(std::filesystem::path(options.model) / "run.json", ignored)) {
    if (!options.expert.empty() || !gradients.empty())
      throw UsageError({.what = "a run takes neither --expert nor gradients", .where = options.model, .expected = "a model folder"});
    const at::NoGradGuard no_grad;
    write_outputs(options, run_outputs(options.model, inputs));
  } else {
    write_outputs(options, model_outputs(options, inputs, gradients));
  }
  return 0;
}

}  // namespace

Command forward_command() {
  return {.name = "forward",
          .summary = "named tensors in, the model's named outputs out",
          .example =
              "mmtune forward bert-base-uncased --inputs x.safetensors --out y.safetensors\n"
              "mmtune forward bert-base-uncased --inputs x.safetensors --out y.safetensors --expert runs/first/expert\n"
              "mmtune forward runs/first --inputs x.safetensors --out y.safetensors",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional(
                "MODEL", &options->model,
                {.help = "a model folder, the name of a bundled or cached model, or a run (its logits too)", .required = true});
            arguments.option("--inputs", &options->inputs,
                             {.help = "safetensors file with input_ids, attention_mask, pixel_values, … by HuggingFace's names; tensors "
                                      "named grad.OUTPUT ask for the gradients of the floating-point inputs",
                              .required = true,
                              .value = "FILE"});
            arguments.option("-o,--out", &options->out, {.help = "the safetensors file to write", .required = true, .value = "FILE"});
            arguments.option("--expert", &options->expert, {.help = "an expert's folder to attach", .value = "DIR"});
            arguments.flag("--any-backbone", options->any_backbone, "attach the expert although it was trained on another backbone");
            arguments.flag("--json", options->json, "print names, dtypes and shapes as JSON");
            return [options](const Session&) { return run(*options); };
          },
          .engine = true};
}

}  // namespace mmtune::cli
