#include "io/published_ofa.h"

#include <cmath>

#include "core/error.h"

namespace mmtune::io {

namespace {

/// Names of the ResNets by the blocks of their first three stages; nothing for others.
std::string resnet_of(const std::vector<std::int64_t>& blocks) {
  if (blocks == std::vector<std::int64_t>{3, 4, 6}) return "resnet50";
  if (blocks == std::vector<std::int64_t>{3, 8, 36}) return "resnet152";
  return "resnet101";
}

}  // namespace

std::optional<PublishedModel> recognise_ofa(const TorchArchive& archive, const PublishedOptions& options, const std::string& where) {
  if (archive.find("encoder.pos_q_linear.weight") == nullptr || archive.find("decoder.cross_pos_q_linear.weight") == nullptr)
    return std::nullopt;
  if (options.image_encoder) throw UsageError({.what = "OFA has no image encoder of its own", .where = "--image-encoder"});
  const auto size = [&](const std::string& name, std::size_t axis) {
    const TensorEntry* const tensor = archive.find(name);
    if (tensor == nullptr) throw Error({.what = "the checkpoint lacks a tensor", .where = where, .expected = name});
    if (tensor->shape.size() <= axis || tensor->shape[axis] < 1)
      throw Error({.what = "a tensor of the checkpoint has too few axes or is empty", .where = where, .got = printable(name)});
    return tensor->shape[axis];
  };
  const auto count = [&](const std::string& front, const std::string& back) {
    std::int64_t number = 0;
    while (archive.find(front + std::to_string(number) + back) != nullptr) ++number;
    if (number == 0) throw Error({.what = "the checkpoint lacks a tensor", .where = where, .expected = front + "0" + back});
    return number;
  };
  const std::int64_t image_rows = size("encoder.image_rel_pos_table_list.0.weight", 0) - 3;
  const auto line = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(std::max<std::int64_t>(image_rows, 0)))));
  if (line < 1 || line * line != image_rows || line % 2 == 0)
    throw Error({.what = "the position table is of no square", .where = where, .got = "encoder.image_rel_pos_table_list.0.weight"});
  std::vector<std::int64_t> blocks;
  for (int stage = 1; stage <= 3; ++stage)
    blocks.push_back(count("encoder.embed_images.layer" + std::to_string(stage) + ".", ".conv1.weight"));
  const std::int64_t heads = size("encoder.layers.0.self_attn.c_attn", 0);
  if (options.heads && *options.heads != heads)
    throw UsageError({.what = "the checkpoint has another number of heads",
                      .where = "--heads",
                      .expected = std::to_string(heads),
                      .got = std::to_string(*options.heads)});
  PublishedModel model{.architecture = "ofa", .image_encoder = {}, .config = {}, .preprocessor = {}};
  model.config = {{"model_type", "ofa"},
                  {"architectures", {"OFAModel"}},
                  {"d_model", size("encoder.layer_norm.weight", 0)},
                  {"vocab_size", size("encoder.embed_tokens.weight", 0)},
                  {"encoder_layers", count("encoder.layers.", ".fc1.weight")},
                  {"decoder_layers", count("decoder.layers.", ".fc1.weight")},
                  {"encoder_attention_heads", heads},
                  {"decoder_attention_heads", size("decoder.layers.0.self_attn.c_attn", 0)},
                  {"encoder_ffn_dim", size("encoder.layers.0.fc1.weight", 0)},
                  {"decoder_ffn_dim", size("decoder.layers.0.fc1.weight", 0)},
                  {"max_position_embeddings", size("encoder.embed_positions.weight", 0) - 2},
                  {"token_bucket_size", (size("encoder.token_rel_pos_table_list.0.weight", 0) + 1) / 2},
                  {"image_bucket_size", (line + 1) / 2},
                  {"resnet_type", resnet_of(blocks)},
                  {"normformer", true},
                  {"attn_scale_factor", 2.0},
                  {"scale_embedding", false},
                  {"bos_token_id", 0},
                  {"pad_token_id", 1},
                  {"eos_token_id", 2},
                  {"decoder_start_token_id", 0}};
  const std::int64_t side = options.image_size.value_or(480);
  model.preprocessor = {{"image_processor_type", "OFAImageProcessor"}, {"size", {{"height", side}, {"width", side}}}};
  model.tokenizer = {{"tokenizer_class", "OFATokenizer"}};
  // What is computed again, and one embedding under three names.
  for (const TensorEntry& tensor : archive.tensors()) {
    const std::string& name = tensor.name;
    if (name.ends_with("rp_bucket") || name.ends_with("image_position_idx") || name.ends_with(".version") ||
        name == "decoder.output_projection.weight" || name == "decoder.embed_tokens.weight")
      model.left_out.insert(name);
  }
  return model;
}

}  // namespace mmtune::io
