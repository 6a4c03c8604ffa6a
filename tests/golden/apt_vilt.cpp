// Golden cases of APT and its baselines on the whole of ViLT, of ViLT's input, and of the pictures' preprocessing.

#include <ATen/ATen.h>

#include <cmath>
#include <regex>

#include "apt_models.h"
#include "backbones/vilt_names.h"
#include "backbones/vilt_pictures.h"
#include "core/error.h"
#include "io/checkpoint.h"
#include "vision/processor.h"

namespace mmtune::golden {

namespace {

using at::Tensor;
using Sizes = std::vector<std::pair<std::int64_t, std::int64_t>>;

/// Rows and columns of patches of every picture.
Sizes grids_of(const Case& golden) {
  Sizes grids;
  for (const Json& one : golden.json().at("image_sizes_in_patches_hw")) grids.emplace_back(one.at(0), one.at(1));
  return grids;
}

Sizes in_pixels(Sizes grids, std::int64_t patch) {
  for (auto& [height, width] : grids) {
    height *= patch;
    width *= patch;
  }
  return grids;
}

/// The original took the patches in a random order, and chose those of the margin at random: ours in that order.
class PatchOrder {
 public:
  /// `index` [B, L, 2]: row and column of every patch of the original; `ours`: padded.
  PatchOrder(const Tensor& index, const backbones::PatchSelection& ours, std::int64_t rows, std::int64_t columns)
      : index_(index), columns_(columns) {
    std::size_t next = 0;
    for (std::size_t b = 0; b < ours.counts.size(); ++b) {
      places_.emplace_back();
      for (std::int64_t i = 0; i < ours.counts[b]; ++i) places_.back().emplace(ours.patches[next++] % (rows * columns), i);
    }
  }

  /// `got` and `reference` [B, N, …], whose patches begin at `first`; rows in front keep their places. Patches of the margin that ours did
  /// not take count as right.
  Tensor arranged(const Tensor& got, const Tensor& reference, std::int64_t first) const {
    Tensor result = reference.clone();
    result.slice(1, 0, first).copy_(got.slice(1, 0, first));
    const auto place = index_.accessor<std::int64_t, 3>();
    for (std::int64_t b = 0; b < index_.size(0); ++b) {
      const auto& own = places_[static_cast<std::size_t>(b)];
      for (std::int64_t i = 0; i < index_.size(1); ++i) {
        const auto found = own.find(place[b][i][0] * columns_ + place[b][i][1]);
        if (found != own.end()) result[b][first + i].copy_(got[b][first + found->second]);
      }
    }
    return result;
  }

 private:
  Tensor index_;
  std::int64_t columns_;
  std::vector<std::map<std::int64_t, std::int64_t>> places_;  ///< of each picture: patch → our row
};

Json vilt_config(const Case& golden, std::int64_t modality_types) {
  const Json& settings = settings_of(golden);
  const auto width = settings.at("hidden_size").get<std::int64_t>();
  return {{"model_type", "vilt"},
          {"vocab_size", settings.at("vocab_size")},
          {"hidden_size", width},
          {"num_hidden_layers", settings.at("num_layers")},
          {"num_attention_heads", settings.at("num_heads")},
          {"intermediate_size", settings.at("mlp_ratio").get<std::int64_t>() * width},
          {"max_position_embeddings", settings.at("max_text_len")},
          {"image_size", settings.at("image_size")},
          {"patch_size", settings.at("patch_size")},
          {"max_image_length", settings.at("max_image_len")},
          {"modality_type_vocab_size", modality_types}};
}

std::string official_site(const std::string& site) {
  static const std::regex pattern("encoder\\.layer\\.([0-9]+)\\.attention\\.output");
  std::smatch found;
  if (!std::regex_match(site, found, pattern)) throw Error({.what = "APT at an unexpected place", .where = site});
  return "transformer.blocks." + found[1].str() + ".attn";
}

/// One pass of a case: what goes in, and what its intermediates' names end with.
struct Pass {
  Tensor ids, mask, image;
  Sizes grids;
  std::int64_t type = 1;
  std::string call;
};

class ViltCase {
 public:
  explicit ViltCase(Case& golden)
      : golden_(golden), model_(golden, vilt_config(golden, golden.take("w.token_type_embeddings.weight").size(0))) {
    model_.backbone().sites().first_token->value = model_.leaf("token4classifier");
    model_.free("embeddings.text_embeddings.token_type_embeddings.weight", "text_embeddings.token_type_embeddings.weight");
    model_.free("embeddings.token_type_embeddings.weight", "token_type_embeddings.weight");
    model_.free("pooler.dense.weight", "pooler.dense.weight");
    model_.free("pooler.dense.bias", "pooler.dense.bias");
    model_.attach_apt(true, official_site);
    if (golden.has("w.prompt")) model_.attach_prompts("prompt");
  }

  OfficialModel& model() { return model_; }

  Tensor features(const Pass& pass) {
    const std::int64_t batch = pass.ids.size(0), words = pass.ids.size(1), patch = model_.backbone().info().patch_height;
    const std::int64_t rows = pass.image.size(2) / patch, columns = pass.image.size(3) / patch;
    backbones::ModelInputs inputs;
    inputs.input_ids = pass.ids.reshape({-1});
    inputs.text_layout = nn::Layout::uniform(batch, words, pass.mask.ne(0));
    inputs.pixel_values = pass.image;
    inputs.picture_sizes = in_pixels(pass.grids, patch);
    inputs.image_type = pass.type;
    if (!golden_.has("mid.patch_index" + pass.call)) return model_.backbone().forward(inputs, {}).pooler_output;

    const auto ours = backbones::select_patches(pass.grids, rows, columns, model_.backbone().info().max_patches, true);
    const PatchOrder order(golden_.take("mid.patch_index" + pass.call), ours, rows, columns);
    // Text, class token, patches; prompts that travel along stand at the original's end, and leave ours before the last norm.
    const auto compare = [&](const std::string& name, const Tensor& got, std::int64_t first, const Tensor& prompts = {}) {
      if (!golden_.has(name)) return;
      const Tensor reference = golden_.take(name);
      const std::int64_t own = got.size(1);
      Tensor arranged = order.arranged(got, reference.slice(1, 0, own), first);
      if (reference.size(1) > own) arranged = at::cat({arranged, prompts.defined() ? prompts : reference.slice(1, own)}, 1);
      golden_.compare(name, arranged);
    };
    const auto compare_block = [&](const std::string& name, const nn::Tokens& tokens) {
      nn::Tokens plain = tokens;
      const Tensor prompts = plain.prompt_count > 0 ? plain.prompts() : Tensor();
      if (plain.prompt_count > 0) plain.remove_prompts();
      compare(name, as_batch(plain.rows, batch), words + 1, prompts);
    };
    const auto compare_input = [&](const nn::Tokens& tokens) {
      nn::Tokens plain = tokens;
      if (plain.prompt_count > 0) plain.remove_prompts();
      const Tensor type = model_.leaf("token_type_embeddings.weight")[pass.type].detach();
      compare("mid.visual_embed" + pass.call, as_batch(plain.rows.detach(), batch).slice(1, words) - type, 1);
      const Tensor mask = plain.layout.key_mask();
      MMTUNE_ASSERT(mask.defined());
      compare("mid.image_masks" + pass.call, mask.slice(1, words).to(at::kLong), 1);
    };

    std::vector<std::unique_ptr<BlockWatch>> watches;
    for (nn::SequenceSite* site : model_.backbone().sites().sequences) {
      const std::string name = "mid.block" + std::to_string(site->layer) + pass.call;
      watches.push_back(std::make_unique<BlockWatch>(*site, site->layer == 0 ? BlockWatch::Seen(compare_input) : BlockWatch::Seen(),
                                                     [&compare_block, name](const nn::Tokens& tokens) { compare_block(name, tokens); }));
    }
    const std::string call = pass.call.empty() ? "" : pass.call.substr(1) + ".";
    const AttentionWatch attention(model_.backbone(), [&](const std::string& site, const Tensor& output, bool behind) {
      compare("mid." + official_site(site) + ".APT." + call + (behind ? "attn_diff" : "attn_nodiff"), as_batch(output, batch), words + 1);
    });
    const backbones::ModelOutputs outputs = model_.backbone().forward(inputs, {});
    compare("mid.final_norm" + pass.call, as_batch(outputs.last_hidden_state, batch), words + 1);
    golden_.compare("mid.cls_feats" + pass.call, outputs.pooler_output);
    return outputs.pooler_output;
  }

 private:
  Case& golden_;
  OfficialModel model_;
};

void whole_vilt(Case& golden) {
  ViltCase vilt(golden);
  const Tensor ids = golden.take("in.text_ids"), mask = golden.take("in.text_masks");
  const Sizes grids = grids_of(golden);
  Tensor loss;
  const auto one_pass = [&](const std::string& image, std::int64_t type, const std::string& call) {
    return vilt.features({.ids = ids, .mask = mask, .image = golden.take(image), .grids = grids, .type = type, .call = call});
  };
  if (golden.has("in.vqa_targets")) {
    const auto answer = [&] { return vilt.model().mlp_head("vqa_classifier", one_pass("in.image", 1, "")); };
    const auto judged = [&](const Tensor& logits) { return answer_loss(logits, golden.take("in.vqa_targets")); };
    if (golden.has("out.lrs")) {
      vilt.model().compare_training([&] { return judged(answer()); });
      return;
    }
    const Tensor logits = answer();
    golden.compare("out.logits", logits);
    loss = judged(logits);
  } else if (golden.has("in.answers")) {
    const Tensor both = at::cat({one_pass("in.image_0", 1, ".call0"), one_pass("in.image_1", 2, ".call1")}, 1);
    const Tensor logits = vilt.model().mlp_head("nlvr2_classifier", both);
    golden.compare("out.logits", logits);
    loss = at::cross_entropy_loss(logits, golden.take("in.answers"));
  } else {
    // Every picture with its own caption and the wrong ones, behind each other.
    std::vector<Tensor> texts = {ids}, masks = {mask};
    for (std::size_t i = 0; golden.has("in.false_text_" + std::to_string(i) + "_ids"); ++i) {
      texts.push_back(golden.take("in.false_text_" + std::to_string(i) + "_ids"));
      masks.push_back(golden.take("in.false_text_" + std::to_string(i) + "_masks"));
    }
    const auto count = static_cast<std::int64_t>(texts.size());
    Sizes repeated;
    for (const auto& grid : grids) repeated.insert(repeated.end(), texts.size(), grid);
    const Tensor features = vilt.features({.ids = at::stack(texts, 1).flatten(0, 1),
                                           .mask = at::stack(masks, 1).flatten(0, 1),
                                           .image = golden.take("in.image").repeat_interleave(count, 0),
                                           .grids = repeated});
    const Tensor scores = vilt.model().linear_head("rank_output", features).view({-1, count});
    golden.compare("out.score", scores);
    loss = at::cross_entropy_loss(scores, at::zeros({scores.size(0)}, at::kLong));
  }
  golden.compare("out.loss", loss.view({1}));
  loss.backward();
  vilt.model().compare_gradients();
}

void visual_embedding(Case& golden) {
  const std::int64_t patch = golden.config("patch"), side = golden.config("grid");
  const OfficialFolder folder(golden, Json::object());
  const nn::Weights weights =
      nn::Weights::of(io::Checkpoint::open(folder.path()), {""}, "transformer.cls_token").laid_out([](const std::string& name) {
        return backbones::original_vilt_place(name, false);
      });
  const Tensor image = golden.take("in.image");
  const std::int64_t rows = image.size(2) / patch, columns = image.size(3) / patch;
  backbones::PatchShape shape{.width = golden.config("hidden"),
                              .channels = image.size(1),
                              .height = side * patch,
                              .image_width = side * patch,
                              .patch_height = patch,
                              .patch_width = patch};
  const Sizes grids = grids_of(golden);
  const backbones::ViltPictures pictures(shape, weights / "embeddings");
  const backbones::PictureRows all = pictures(image, in_pixels(grids, patch), true, {});
  const auto batch = static_cast<std::int64_t>(grids.size());
  const Tensor embedded = at::cat({all.class_row.unsqueeze(0).expand({batch, 1, shape.width}), as_batch(all.patches, batch)}, 1);
  // The original's random choice of a few is compared with ours of all.
  for (const std::string part : {"all", "sub"}) {
    const std::string prefix = "out." + part + ".";
    const PatchOrder order(golden.take(prefix + "patch_index"), all.selection, rows, columns);
    golden.compare(prefix + "x", order.arranged(embedded, golden.take(prefix + "x"), 1));
    const std::int64_t most = part == "sub" ? golden.config("max_image_len_small") : 0;
    const auto ours = backbones::select_patches(grids, rows, columns, most, true);
    const Tensor mask = golden.take(prefix + "mask");
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t count = ours.counts[static_cast<std::size_t>(b)];
      std::int64_t visible = 1;
      for (std::int64_t i = 0; i < count; ++i) visible += ours.visible[static_cast<std::size_t>(b * count + i)] ? 1 : 0;
      if (count + 1 != mask.size(1) || visible != mask[b].sum().item<std::int64_t>())
        golden.fail(prefix + "mask: another number of patches");
    }
  }
}

vision::Image image_of(const Tensor& pixels) {
  vision::Image image{.width = pixels.size(1), .height = pixels.size(0), .pixels = {}};
  const Tensor bytes = pixels.round().to(at::kByte).contiguous();
  image.pixels.assign(bytes.const_data_ptr<std::uint8_t>(), bytes.const_data_ptr<std::uint8_t>() + bytes.numel());
  return image;
}

std::unique_ptr<vision::ImageProcessor> processor_of(bool pixelbert, std::int64_t size) {
  const Json config = pixelbert ? Json{{"image_processor_type", "ViltImageProcessor"}, {"size", {{"shortest_edge", size}}}}
                                : Json{{"image_processor_type", "CLIPImageProcessor"},
                                       {"size", {{"shortest_edge", size}}},
                                       {"crop_size", {{"height", size}, {"width", size}}}};
  return vision::ImageProcessor::from_json(config.dump(), "the case");
}

void preprocessing(Case& golden) {
  static const std::regex pattern("out\\.(.*)\\.(pixelbert|clip)"), size_pattern("size=([0-9]+)");
  for (const std::string& name : golden.names("out.")) {
    std::smatch found, size;
    const std::string about = golden.json().at("tensors").at(name).at("desc").get<std::string>();
    if (!std::regex_match(name, found, pattern) || !std::regex_search(about, size, size_pattern)) continue;
    const auto processor = processor_of(found[2] == "pixelbert", std::stoll(size[1].str()));
    const vision::PixelValues pixels = (*processor)(image_of(golden.take("in." + found[1].str())));
    golden.compare(name, at::tensor(pixels.values).view({3, pixels.height, pixels.width}));
  }
  for (const Json& row : golden.json().at("minmaxresize_table")) {
    const auto width = row.at("w").get<std::int64_t>(), height = row.at("h").get<std::int64_t>();
    const auto new_width = row.at("new_w").get<std::int64_t>(), new_height = row.at("new_h").get<std::int64_t>();
    const std::string what = "a picture of " + std::to_string(width) + " x " + std::to_string(height);
    const vision::Image image{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(3 * width * height))};
    try {
      const vision::PixelValues pixels = (*processor_of(true, row.at("size").get<std::int64_t>()))(image);
      if (pixels.width != new_width || pixels.height != new_height) golden.fail(what + ": another size");
    } catch (const Error&) {
      if (new_width > 0 && new_height > 0) golden.fail(what + ": refused");
    }
  }
}

}  // namespace

std::vector<Kind> apt_vilt_kinds() {
  return {
      {"ViLT's input", [](const Case& golden) { return golden.has("out.all.patch_index"); }, visual_embedding},
      {"preprocessing", [](const Case& golden) { return golden.json().contains("minmaxresize_table"); }, preprocessing},
      {"whole ViLT", [](const Case& golden) { return golden.has("w.transformer.patch_embed.proj.weight") && golden.has("in.text_ids"); },
       whole_vilt}};
}

}  // namespace mmtune::golden
