#include "tvp_support.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "core/error.h"

namespace mmtune::golden {

using at::Tensor;

Tensor picture_values(const Tensor& bytes) {
  return bytes.to(at::kFloat).div(255.0);
}

experts::PixelPrompt border_prompt(const Tensor& delta, std::int64_t width, std::int64_t image) {
  experts::PixelPrompt prompt({.form = experts::PromptForm::border, .frame = delta.size(-1), .width = width, .image = image},
                              at::detail::createCPUGenerator(0));
  fill_prompt(prompt, "perturbation", delta);
  return prompt;
}

void fill_prompt(const experts::PixelPrompt& prompt, const std::string& name, const Tensor& values) {
  const at::NoGradGuard no_grad;
  for (const nn::NamedTensor& one : prompt.tensors()) {
    Tensor target = one.tensor;
    if (one.name == name) target.copy_(values);
  }
}

GoldenClip golden_clip(Case& golden, const std::string& prefix, const Tensor& ids) {
  const Json& clip = golden.json().at("config").at("clip");
  const Json &vision = clip.at("vision"), &text = clip.at("text");
  const Json config = {{"model_type", "clip"},
                       {"projection_dim", clip.at("projection_dim")},
                       {"vision_config",
                        {{"hidden_size", vision.at("hidden")},
                         {"num_hidden_layers", vision.at("layers")},
                         {"num_attention_heads", vision.at("heads")},
                         {"intermediate_size", vision.at("mlp")},
                         {"image_size", vision.at("image")},
                         {"patch_size", vision.at("patch")},
                         {"hidden_act", vision.value("act", "quick_gelu")},
                         {"layer_norm_eps", vision.value("eps", 1e-5)}}},
                       {"text_config",
                        {{"vocab_size", text.at("vocab")},
                         {"hidden_size", text.at("hidden")},
                         {"num_hidden_layers", text.at("layers")},
                         {"num_attention_heads", text.at("heads")},
                         {"intermediate_size", text.at("mlp")},
                         {"max_position_embeddings", text.at("ctx")},
                         {"bos_token_id", text.at("bos")},
                         {"eos_token_id", text.at("eos")},
                         {"pad_token_id", text.at("pad")},
                         {"hidden_act", text.value("act", "quick_gelu")},
                         {"layer_norm_eps", text.value("eps", 1e-5)}}}};
  std::unique_ptr<backbones::Backbone> backbone = backbones::fresh_backbone(config, 1);
  Tensor log_scale;
  for (const nn::TensorSlot& slot : backbone->sites().tensors) {
    const std::string name = prefix + slot.name;
    const bool beside = slot.name == "logit_scale" && !golden.has(name);
    const Tensor value = golden.take(beside ? "pass0.logit_scale" : name);
    if (value.sizes() != slot.tensor->sizes()) throw Error({.what = "of another shape", .where = name});
    *slot.tensor = value;
    if (slot.name == "logit_scale") log_scale = value;
  }
  const at::NoGradGuard no_grad;
  const Tensor captions = backbone->forward_named({{"input_ids", ids}}, {}).at("text_embeds");
  auto model = std::make_unique<methods::CaptionModel>(std::move(backbone), log_scale, experts::clip_norm);
  return {std::move(model), captions};
}

}  // namespace mmtune::golden
