// mmtune forward MODEL: named tensors in, the model's named outputs out, for comparing with other tools.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <optional>

#include "arguments.h"
#include "backbones/backbone.h"
#include "commands.h"
#include "core/error.h"
#include "experts/expert.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "nn/weights.h"
#include "tensor_file.h"

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

int run(const Options& options) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(io::resolve_model(options.model));
  auto [inputs, gradients] = read_inputs(options.inputs);
  const std::unique_ptr<backbones::Backbone> backbone = backbones::open_backbone(checkpoint, tower_for(inputs));
  std::unique_ptr<experts::Expert> expert;
  if (!options.expert.empty()) {
    const std::string fingerprint = options.any_backbone ? "" : io::backbone_fingerprint(checkpoint);
    expert = experts::load_expert(options.expert, *backbone, fingerprint, options.any_backbone);
  }
  if (!gradients.empty())
    for (auto& [name, tensor] : inputs)
      if (tensor.is_floating_point()) tensor.requires_grad_(true);
  const at::AutoGradMode mode(!gradients.empty());
  TensorMap outputs = backbone->forward_named(inputs, nn::Context{});
  if (!gradients.empty()) add_gradients(inputs, gradients, outputs);

  std::vector<at::Tensor> kept;
  std::vector<io::TensorEntry> entries;
  for (const auto& [name, tensor] : outputs) {
    kept.push_back(tensor.detach().contiguous());
    entries.push_back(nn::to_entry(name, kept.back()));
  }
  write_tensor_file(options.out, entries, options.json);
  return 0;
}

}  // namespace

Command forward_command() {
  return {.name = "forward",
          .summary = "named tensors in, the model's named outputs out",
          .example =
              "mmtune forward bert-base-uncased --inputs x.safetensors --out y.safetensors\n"
              "mmtune forward bert-base-uncased --inputs x.safetensors --out y.safetensors --expert runs/first/expert",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("MODEL", &options->model,
                                 {.help = "a model folder, or the name of a bundled or cached model", .required = true});
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
