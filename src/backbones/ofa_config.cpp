// OFA as a model folder: config.json of its port to transformers (OFA-Sys/ofa-*), tensors by that port's names or by fairseq's.

#include <algorithm>

#include "backbones/ofa.h"
#include "backbones/registry.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

/// The stem that the tensors are of; without any, the one that the configuration names.
OfaStemShape stem_shape(const Config& config, const nn::Weights& w) {
  OfaStemShape stem;
  const std::string type = config.text("resnet_type", "resnet101");
  if (type == "resnet50") {
    stem.blocks = {3, 4, 6};
  } else if (type == "resnet152") {
    stem.blocks = {3, 8, 36};
  } else if (type != "resnet101") {
    throw Error({.what = "resnet_type is not supported",
                 .where = config.where(),
                 .expected = "resnet50, resnet101 or resnet152",
                 .got = printable(type)});
  }
  const nn::Weights images = w / "encoder" / "embed_images";
  const auto first = images.shape_of("conv1.weight");
  if (!first || first->size() != 4) {
    // Of models that are made anew, smaller ones too.
    if (config.has("resnet_width")) stem.first = config.integer("resnet_width");
    if (config.has("resnet_planes")) stem.planes = config.integers("resnet_planes", 3);
    if (config.has("resnet_blocks")) stem.blocks = config.integers("resnet_blocks", 3);
    return stem;
  }
  stem.first = first->front();
  stem.planes.clear();
  stem.blocks.clear();
  for (int stage = 1; stage <= 3; ++stage) {
    const nn::Weights layers = images / ("layer" + std::to_string(stage));
    const auto planes = (layers / 0).shape_of("conv1.weight");
    if (!planes || planes->empty())
      throw Error(
          {.what = "the checkpoint lacks a stage of the stem", .where = config.where(), .expected = (layers / 0).path() + ".conv1.weight"});
    std::int64_t count = 0;
    while ((layers / count).shape_of("conv1.weight")) ++count;
    stem.planes.push_back(planes->front());
    stem.blocks.push_back(count);
  }
  return stem;
}

std::unique_ptr<Backbone> make(const Config& config, const nn::Weights& w) {
  for (const char* key : {"normformer", "add_type_embedding", "layernorm_embedding", "patch_layernorm_embedding",
                          "share_decoder_input_output_embed", "encoder_normalize_before", "decoder_normalize_before"})
    config.require(key, true);
  for (const char* key : {"scale_embedding", "entangle_position_embedding", "use_images_as_pairs"}) config.require(key, false);
  if (config.number("attn_scale_factor", 2.0) != 2.0) config.require("attn_scale_factor", 2.0);
  if (config.text("activation_function", "gelu") != "gelu") config.require("activation_function", "gelu");
  for (const auto& [key, id] : {std::pair{"bos_token_id", 0}, {"pad_token_id", 1}, {"eos_token_id", 2}}) config.require(key, id);
  OfaShape shape;
  shape.width = config.integer("d_model");
  shape.heads = config.integer("encoder_attention_heads");
  if (config.integer("decoder_attention_heads", shape.heads) != shape.heads || shape.width % shape.heads != 0)
    throw Error({.what = "the attention heads of encoder and decoder must be as many, and divide d_model", .where = config.where()});
  shape.encoder_inner = config.integer("encoder_ffn_dim");
  shape.decoder_inner = config.integer("decoder_ffn_dim");
  shape.encoder_layers = config.integer("encoder_layers");
  shape.decoder_layers = config.integer("decoder_layers");
  shape.vocabulary = config.integer("vocab_size");
  shape.token_buckets = config.integer("token_bucket_size", 256);
  shape.image_buckets = config.integer("image_bucket_size", 42);
  const auto rows_of = [&](const std::string& name, std::int64_t otherwise) {
    const auto found = w.shape_of(name);
    return found && !found->empty() ? found->front() : otherwise;
  };
  // fairseq's tables have two rows more, for padding.
  const std::int64_t usual = config.integer("max_position_embeddings", 1024) + 2;
  shape.encoder_positions = rows_of("encoder.embed_positions.weight", usual);
  shape.decoder_positions = rows_of("decoder.embed_positions.weight", usual);
  shape.image_positions = rows_of("encoder.embed_image_positions.weight", shape.image_buckets * shape.image_buckets + 1);
  shape.stem = stem_shape(config, w);
  // Whoever wrote the file: the port's names, or fairseq's.
  const bool fresh = !w.shape_of("encoder.layer_norm.weight");
  if (fresh || w.shape_of("encoder.layers.0.self_attn_mid_layer_norm.weight")) shape.names = transformers_names;
  return std::make_unique<Ofa>(shape, w);
}

}  // namespace

Architecture ofa_architecture() {
  return {"ofa", {"", "model."}, "encoder.layer_norm.weight", make};
}

}  // namespace mmtune::backbones
