#include "io/published_models.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "core/staged_folder.h"
#include "io/published_ofa.h"
#include "io/safetensors.h"

namespace mmtune::io {

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t usual_head_width = 64;

/// Questions about shapes, whose errors name the tensor.
class Shapes {
 public:
  Shapes(const TorchArchive& archive, const std::string& where) : archive_(archive), where_(where) {}
  bool has(const std::string& name) const { return archive_.find(name) != nullptr; }
  std::int64_t of(const std::string& name, std::size_t axis) const {
    const TensorEntry* const tensor = archive_.find(name);
    if (tensor == nullptr) throw Error({.what = "the checkpoint lacks a tensor", .where = where_, .expected = name});
    if (tensor->shape.size() <= axis || tensor->shape[axis] < 1)
      throw Error({.what = "a tensor of the checkpoint has too few axes or is empty", .where = where_, .got = printable(name)});
    return tensor->shape[axis];
  }
  /// How many numbers from 0 on stand between `front` and `back`.
  std::int64_t count(const std::string& front, const std::string& back) const {
    std::int64_t number = 0;
    while (has(front + std::to_string(number) + back)) ++number;
    if (number == 0) throw Error({.what = "the checkpoint lacks a tensor", .where = where_, .expected = front + "0" + back});
    return number;
  }
  std::int64_t side(const std::string& name, std::size_t axis, std::int64_t beside) const {
    const std::int64_t cells = of(name, axis) - beside;
    const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(std::max<std::int64_t>(cells, 0)))));
    if (cells < 1 || side * side != cells)
      throw Error({.what = "the position table is of no square", .where = where_, .got = printable(name)});
    return side;
  }
  const std::string& where() const { return where_; }

 private:
  const TorchArchive& archive_;
  const std::string& where_;
};

std::int64_t heads_of(const TorchArchive& archive, const PublishedOptions& options, std::int64_t width, const std::string& where) {
  const std::int64_t heads =
      options.heads.value_or(archive.hyper_parameter("num_heads").value_or(std::max<std::int64_t>(width / usual_head_width, 1)));
  if (heads < 1 || width % heads != 0)
    throw Error({.what = "the attention's width is not a multiple of its heads",
                 .where = where,
                 .expected = "a divisor of " + std::to_string(width),
                 .got = std::to_string(heads),
                 .hint = "say their number with --heads"});
  return heads;
}

Json vilt_config(const TorchArchive& archive, const Shapes& shapes, const PublishedOptions& options) {
  const std::int64_t width = shapes.of("text_embeddings.word_embeddings.weight", 1),
                     patch = shapes.of("transformer.patch_embed.proj.weight", 2);
  return {{"model_type", "vilt"},
          {"architectures", {"ViltModel"}},
          {"vocab_size", shapes.of("text_embeddings.word_embeddings.weight", 0)},
          {"max_position_embeddings", shapes.of("text_embeddings.position_embeddings.weight", 0)},
          {"type_vocab_size", shapes.of("text_embeddings.token_type_embeddings.weight", 0)},
          {"modality_type_vocab_size", shapes.of("token_type_embeddings.weight", 0)},
          {"hidden_size", width},
          {"num_hidden_layers", shapes.count("transformer.blocks.", ".norm1.weight")},
          {"num_attention_heads", heads_of(archive, options, width, shapes.where())},
          {"intermediate_size", shapes.of("transformer.blocks.0.mlp.fc1.weight", 0)},
          {"hidden_act", "gelu"},
          {"layer_norm_eps", 1e-12},
          {"block_layer_norm_eps", 1e-6},
          {"num_channels", shapes.of("transformer.patch_embed.proj.weight", 1)},
          {"patch_size", patch},
          {"image_size", shapes.side("transformer.pos_embed", 1, 1) * patch},
          {"max_image_length", -1}};
}

Json roberta_config(const Shapes& shapes) {
  const std::string embeddings = "text_transformer.embeddings.";
  const std::int64_t width = shapes.of(embeddings + "word_embeddings.weight", 1);
  return {{"model_type", "roberta"},
          {"vocab_size", shapes.of(embeddings + "word_embeddings.weight", 0)},
          {"max_position_embeddings", shapes.of(embeddings + "position_embeddings.weight", 0)},
          {"type_vocab_size", shapes.of(embeddings + "token_type_embeddings.weight", 0)},
          {"hidden_size", width},
          {"num_hidden_layers", shapes.count("text_transformer.encoder.layer.", ".output.dense.weight")},
          {"num_attention_heads", std::max<std::int64_t>(width / usual_head_width, 1)},
          {"intermediate_size", shapes.of("text_transformer.encoder.layer.0.intermediate.dense.weight", 0)},
          {"hidden_act", "gelu"},
          {"layer_norm_eps", 1e-5},
          {"pad_token_id", 1}};
}

Json clip_config(const Shapes& shapes, const PublishedOptions& options) {
  const std::string visual = "vit_model.visual.";
  const std::int64_t width = shapes.of(visual + "class_embedding", 0), patch = shapes.of(visual + "conv1.weight", 2);
  return {{"model_type", "clip_vision_model"},
          {"hidden_size", width},
          {"num_hidden_layers", shapes.count(visual + "transformer.resblocks.", ".ln_1.weight")},
          {"num_attention_heads", std::max<std::int64_t>(width / usual_head_width, 1)},
          {"intermediate_size", shapes.of(visual + "transformer.resblocks.0.mlp.c_fc.weight", 0)},
          {"hidden_act", "quick_gelu"},
          {"layer_norm_eps", 1e-5},
          {"num_channels", shapes.of(visual + "conv1.weight", 1)},
          {"patch_size", patch},
          {"image_size", options.image_size.value_or(shapes.side(visual + "positional_embedding", 0, 1) * patch)}};
}

Json swin_config(const Shapes& shapes, const PublishedOptions& options) {
  // A picture is 32 windows' worth of pixels wide: 4 a patch, and three mergings.
  constexpr std::int64_t pixels_a_window = 32;
  const std::string first = "vit_model.layers.0.blocks.0.";
  Json depths = Json::array(), heads = Json::array();
  const std::int64_t stages = shapes.count("vit_model.layers.", ".blocks.0.norm1.weight");
  for (std::int64_t stage = 0; stage < stages; ++stage) {
    const std::string blocks = "vit_model.layers." + std::to_string(stage) + ".blocks.";
    depths.push_back(shapes.count(blocks, ".norm1.weight"));
    heads.push_back(shapes.of(blocks + "0.attn.relative_position_bias_table", 1));
  }
  const std::int64_t trained = (shapes.side(first + "attn.relative_position_bias_table", 0, 0) + 1) / 2;
  const std::int64_t size = options.image_size.value_or(trained * pixels_a_window);
  if (size % pixels_a_window != 0)
    throw Error({.what = "Swin's pictures have a side that is a multiple of 32", .where = "--image-size", .got = std::to_string(size)});
  const std::int64_t width = shapes.of("vit_model.patch_embed.proj.weight", 0);
  return {{"model_type", "swin"},
          {"embed_dim", width},
          {"depths", depths},
          {"num_heads", heads},
          {"window_size", size / pixels_a_window},
          {"mlp_ratio", static_cast<double>(shapes.of(first + "mlp.fc1.weight", 0)) / static_cast<double>(width)},
          {"hidden_act", "gelu"},
          {"layer_norm_eps", 1e-5},
          {"num_channels", shapes.of("vit_model.patch_embed.proj.weight", 1)},
          {"patch_size", shapes.of("vit_model.patch_embed.proj.weight", 2)},
          {"image_size", size}};
}

Json meter_config(const TorchArchive& archive, const Shapes& shapes, const PublishedOptions& options, const Json& vision) {
  const std::int64_t width = shapes.of("cross_modal_text_transform.weight", 0);
  return {{"model_type", "meter"},
          {"hidden_size", width},
          {"num_hidden_layers", shapes.count("cross_modal_text_layers.", ".output.dense.weight")},
          {"num_attention_heads", heads_of(archive, options, width, shapes.where())},
          {"intermediate_size", shapes.of("cross_modal_text_layers.0.intermediate.dense.weight", 0)},
          {"hidden_act", "gelu"},
          {"layer_norm_eps", 1e-12},
          {"modality_type_vocab_size", shapes.of("token_type_embeddings.weight", 0)},
          {"text_config", roberta_config(shapes)},
          {"vision_config", vision}};
}

void check_encoder(const PublishedOptions& options, const std::string& held, const std::string& where) {
  if (!options.image_encoder) return;
  if (*options.image_encoder != "clip" && *options.image_encoder != "swin")
    throw UsageError({.what = "no such image encoder",
                      .where = "--image-encoder",
                      .expected = "clip or swin",
                      .got = printable(*options.image_encoder)});
  if (*options.image_encoder == held) return;
  throw Error({.what = "the checkpoint has another image encoder", .where = where, .expected = *options.image_encoder, .got = held});
}

}  // namespace

PublishedModel recognise_published(const TorchArchive& archive, const PublishedOptions& options, const std::string& where) {
  const Shapes shapes(archive, where);
  if (options.image_size && (*options.image_size < 1 || *options.image_size > 4096))
    throw UsageError({.what = "--image-size is out of range", .where = "import", .expected = "1 to 4096"});
  if (std::optional<PublishedModel> ofa = recognise_ofa(archive, options, where)) return *std::move(ofa);
  PublishedModel model;
  if (shapes.has("cross_modal_text_transform.weight")) {
    const bool clip = shapes.has("vit_model.visual.conv1.weight");
    if (!clip && !shapes.has("vit_model.patch_embed.proj.weight"))
      throw Error({.what = "the checkpoint's image encoder is none that METER has",
                   .where = where,
                   .expected = "CLIP's (vit_model.visual.conv1.weight) or Swin's (vit_model.patch_embed.proj.weight)"});
    check_encoder(options, clip ? "clip" : "swin", where);
    const Json vision = clip ? clip_config(shapes, options) : swin_config(shapes, options);
    const Json& size = vision.at("image_size");
    model = {.architecture = "meter",
             .image_encoder = vision.at("model_type"),
             .config = meter_config(archive, shapes, options, vision),
             .preprocessor = {}};
    model.preprocessor = {{"image_processor_type", "CLIPImageProcessor"},
                          {"size", {{"shortest_edge", size}}},
                          {"crop_size", {{"height", size}, {"width", size}}}};
    return model;
  }
  if (shapes.has("transformer.patch_embed.proj.weight") && shapes.has("text_embeddings.word_embeddings.weight")) {
    if (options.image_encoder) throw UsageError({.what = "ViLT has no image encoder", .where = "--image-encoder"});
    model = {.architecture = "vilt", .image_encoder = {}, .config = vilt_config(archive, shapes, options), .preprocessor = {}};
    model.preprocessor = {{"image_processor_type", "ViltImageProcessor"},
                          {"size", {{"shortest_edge", options.image_size ? Json(*options.image_size) : model.config.at("image_size")}}},
                          {"size_divisor", model.config.at("patch_size")}};
    return model;
  }
  throw Error(
      {.what = "the tensors are of no published model that is known",
       .where = where,
       .expected =
           "ViLT (transformer.patch_embed.proj.weight), METER (cross_modal_text_transform.weight) or OFA (encoder.pos_q_linear.weight)",
       .got = archive.tensors().empty() ? "no tensor" : printable(archive.tensors().front().name) + ", …"});
}

ImportedCheckpoint import_published(const fs::path& file, const fs::path& out, const fs::path& tokenizer, const PublishedOptions& options) {
  constexpr std::array<const char*, 6> tokenizer_files = {"tokenizer.json", "tokenizer_config.json",   "vocab.txt",
                                                          "vocab.json",     "special_tokens_map.json", "merges.txt"};
  const TorchArchive archive = TorchArchive::open(file);
  ImportedCheckpoint imported{.model = recognise_published(archive, options, file.string())};
  std::vector<TensorEntry> kept;
  for (const TensorEntry& tensor : archive.tensors()) {
    if (imported.model.left_out.contains(tensor.name)) continue;
    imported.parameters += tensor.elements();
    kept.push_back(tensor);
  }
  imported.tensors = kept.size();
  StagedFolder staged(out);
  write_safetensors(staged.path() / "model.safetensors", kept, {{"format", "pt"}});
  write_file_atomically(staged.path() / "config.json", imported.model.config.dump(2) + "\n");
  write_file_atomically(staged.path() / "preprocessor_config.json", imported.model.preprocessor.dump(2) + "\n");
  if (!tokenizer.empty() && !imported.model.tokenizer.is_null()) {
    for (const char* name : {"vocab.json", "merges.txt"}) {
      std::error_code ignored;
      if (!fs::exists(tokenizer / name, ignored))
        throw Error({.what = "the folder holds no vocab.json and merges.txt",
                     .where = tokenizer.string(),
                     .hint = "those of BART and RoBERTa are the model's"});
      write_file_atomically(staged.path() / name, read_file(tokenizer / name));
    }
    write_file_atomically(staged.path() / "tokenizer_config.json", imported.model.tokenizer.dump(2) + "\n");
  } else if (!tokenizer.empty()) {
    bool any = false;
    for (const char* name : tokenizer_files) {
      std::error_code ignored;
      if (!fs::exists(tokenizer / name, ignored)) continue;
      write_file_atomically(staged.path() / name, read_file(tokenizer / name));
      any = true;
    }
    if (!any)
      throw Error({.what = "the folder holds no tokenizer",
                   .where = tokenizer.string(),
                   .expected = "tokenizer.json, or vocab.txt, or vocab.json"});
  }
  staged.commit();
  return imported;
}

}  // namespace mmtune::io
