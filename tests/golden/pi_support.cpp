#include "pi_support.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include "core/error.h"

namespace mmtune::golden {

using at::Tensor;
using experts::InterpolationPart;

void fill_official(Case& golden, backbones::Backbone& backbone, const std::string& prefix) {
  const at::NoGradGuard no_grad;
  for (const nn::TensorSlot& slot : backbone.sites().tensors) {
    const Tensor value = golden.take(prefix + slot.name);
    if (value.sizes() != slot.tensor->sizes()) throw Error({.what = "the case has a tensor of another shape", .where = slot.name});
    slot.tensor->copy_(value);
  }
}

std::unique_ptr<backbones::Ofa> official_ofa(Case& golden) {
  const bool pictures = golden.has("w.encoder.image_proj.weight");
  const auto size = [&](const std::string& tensor, std::int64_t axis) { return golden.take("w." + tensor).size(axis); };
  backbones::OfaShape shape;
  shape.width = golden.config("d_model");
  shape.heads = golden.config("heads");
  shape.encoder_inner = shape.decoder_inner = golden.config("ffn");
  shape.encoder_layers = golden.config("enc_layers");
  shape.decoder_layers = golden.config("dec_layers");
  shape.vocabulary = golden.config("vocab");
  shape.encoder_positions = size("encoder.embed_positions.weight", 0);
  shape.decoder_positions = size("decoder.embed_positions.weight", 0);
  shape.token_buckets = golden.config("token_bucket_size");
  shape.pictures = pictures;
  if (pictures) {
    const Json stem = golden.json().at("config").at("stem");
    shape.image_buckets = golden.config("image_bucket_size");
    shape.stem = {.first = stem.at("conv1_out"), .planes = stem.at("planes"), .blocks = stem.at("blocks")};
  }
  auto ofa = std::make_unique<backbones::Ofa>(shape, nn::Weights::fresh(1));
  fill_official(golden, *ofa);
  // One tensor under three names, and what only pictures made by the decoder would need.
  const Tensor embedding = golden.take("w.decoder.embed_tokens.weight");
  for (const char* name : {"w.decoder.output_projection.weight", "w.encoder.embed_tokens.weight"})
    if (!at::equal(golden.take(name), embedding)) golden.fail(std::string(name) + " is not the tied embedding");
  for (const char* prefix : {"w.decoder.code_layernorm_embedding", "w.decoder.embed_image_positions", "w.decoder.image_pos_ln",
                             "w.decoder.image_rel_pos_table_list"})
    golden.ignore(prefix);
  for (const std::string& name : golden.names("w."))
    if (name.ends_with("num_batches_tracked")) golden.ignore(name);
  return ofa;
}

std::string official_adapter(const std::string& ours, std::optional<std::size_t> expert) {
  const std::size_t at = ours.find(".adapter.");
  MMTUNE_ASSERT(at != std::string::npos);
  const std::string site = ours.substr(0, at), part = ours.substr(at + std::string(".adapter.").size());
  const std::size_t dot = site.rfind('.');
  const std::string which = site.substr(dot + 1) == "fc2" ? "2" : "1";
  const std::string layer = site.substr(0, dot + 1);
  return layer + (expert ? "adapters" + which + "." + std::to_string(*expert) : "adapter" + which) + "." + part;
}

std::string official_coefficients(const std::string& site) {
  const std::size_t dot = site.rfind('.');
  return site.substr(0, dot + 1) + "adapter_interpolation_weight" + (site.substr(dot + 1) == "fc2" ? "2" : "1");
}

std::vector<std::string> names_of_expert(const std::string& kind, const Json& config, backbones::Backbone& backbone) {
  const auto recipe = experts::expert_recipe(kind);
  recipe->read_config(config, "golden");
  const auto expert = recipe->build(backbone, at::detail::createCPUGenerator(1));
  std::vector<std::string> names;
  for (const nn::NamedTensor& one : expert->tensors()) names.push_back(one.name);
  return names;
}

InterpolationPart adapter_part(Case& golden, const std::vector<std::string>& names, const Json& config, std::size_t number,
                               const std::function<std::string(const std::string&)>& official) {
  InterpolationPart part{
      .task = std::to_string(number), .folder = "expert " + std::to_string(number), .tensors = {}, .config = config, .kind = "adapter"};
  for (const std::string& name : names) part.tensors.push_back({name, golden.take(official(name)).clone()});
  return part;
}

std::unique_ptr<experts::Interpolated> official_average(Case& golden, backbones::Backbone& backbone, std::int64_t count) {
  const Json config = {{"bottleneck", golden.config("adapter_dim")}, {"activation", "relu"}};
  const std::vector<std::string> names = names_of_expert("adapter", config, backbone);
  std::vector<InterpolationPart> parts;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
    parts.push_back(adapter_part(golden, names, config, i, [i](const std::string& name) { return "w." + official_adapter(name, i); }));
  auto average = std::make_unique<experts::Interpolated>(backbone, std::move(parts), std::nullopt, experts::InterpolationOptions{});
  const at::NoGradGuard no_grad;
  const Tensor logits = expert_tensor(*average, "coefficients");
  for (std::size_t s = 0; s < average->sites().size(); ++s)
    logits[static_cast<std::int64_t>(s)].copy_(golden.take("w." + official_coefficients(average->sites()[s])));
  return average;
}

void compare_average_gradients(Case& golden, const experts::Interpolated& average) {
  for (const nn::NamedTensor& one : average.tensors()) {
    const Tensor gradient = one.tensor.grad();
    if (one.name == "coefficients") {
      for (std::size_t s = 0; s < average.sites().size(); ++s)
        golden.compare("grad." + official_coefficients(average.sites()[s]), gradient[static_cast<std::int64_t>(s)]);
      continue;
    }
    const std::size_t of = one.name.rfind(".of_");
    golden.compare("grad." + official_adapter(one.name.substr(0, of), std::stoul(one.name.substr(of + 4))), gradient);
  }
}

Tensor expert_tensor(const experts::Expert& expert, const std::string& name) {
  for (const nn::NamedTensor& item : expert.tensors())
    if (item.name == name) return item.tensor;
  throw Error({.what = "the expert has no such tensor", .where = std::string(expert.kind()), .got = name});
}

Tensor rows_of(const Tensor& sequence_first) {
  return sequence_first.transpose(0, 1).reshape({-1, sequence_first.size(2)});
}

Tensor sequence_first(const Tensor& rows, std::int64_t batch) {
  return rows.view({batch, -1, rows.size(1)}).transpose(0, 1);
}

}  // namespace mmtune::golden
