// Golden cases of APT and its baselines on the whole of METER, and of its position tables.

#include <ATen/ATen.h>

#include "apt_models.h"
#include "backbones/meter_names.h"
#include "core/error.h"

namespace mmtune::golden {

namespace {

using at::Tensor;

Json meter_config(Case& golden) {
  const Json& settings = settings_of(golden);
  const auto width = settings.at("hidden_size").get<std::int64_t>(), patch = settings.at("patch_size").get<std::int64_t>();
  const Tensor positions = golden.take("w.text_transformer.embeddings.position_embeddings.weight");
  const auto blocks = [&](const std::string& prefix, const std::string& tensor) {
    std::int64_t count = 0;
    while (golden.has("w." + prefix + std::to_string(count) + tensor)) ++count;
    return count;
  };
  const std::string resblocks = "vit_model.visual.transformer.resblocks.";
  const std::int64_t clip_width = golden.take("w.vit_model.visual.class_embedding").size(0);
  return {{"model_type", "meter"},
          {"hidden_size", width},
          {"num_attention_heads", settings.at("num_heads")},
          {"num_hidden_layers", settings.at("num_top_layer")},
          {"intermediate_size", settings.at("mlp_ratio").get<std::int64_t>() * width},
          {"modality_type_vocab_size", golden.take("w.token_type_embeddings.weight").size(0)},
          {"text_config",
           {{"model_type", "roberta"},
            {"hidden_size", width},
            {"num_attention_heads", settings.at("num_heads")},
            {"num_hidden_layers", blocks("text_transformer.encoder.layer.", ".output.dense.weight")},
            {"intermediate_size", golden.take("w.text_transformer.encoder.layer.0.intermediate.dense.weight").size(0)},
            {"vocab_size", settings.at("vocab_size")},
            {"max_position_embeddings", positions.size(0)},
            {"type_vocab_size", golden.take("w.text_transformer.embeddings.token_type_embeddings.weight").size(0)},
            {"layer_norm_eps", 1e-5},
            {"pad_token_id", 1}}},
          {"vision_config",
           {{"model_type", "clip_vision_model"},
            {"hidden_size", clip_width},
            {"num_attention_heads", std::max<std::int64_t>(clip_width / 64, 1)},
            {"num_hidden_layers", blocks(resblocks, ".ln_1.weight")},
            {"intermediate_size", golden.take("w." + resblocks + "0.mlp.c_fc.weight").size(0)},
            {"image_size", settings.at("image_size")},
            {"patch_size", patch}}}};
}

/// Prompts as they are, in front of the keys and values of a cross-attention.
class AttendedPrompts final : public nn::KeyValueHook {
 public:
  AttendedPrompts(backbones::Backbone& backbone, nn::KeyValueSite& site, Tensor prompts) : site_(site), prompts_(std::move(prompts)) {
    for (const nn::WeightSite* map : backbone.sites().weights) {
      if (map->name == site.name + ".key") key_ = map;
      if (map->name == site.name + ".value") value_ = map;
    }
    MMTUNE_ASSERT(key_ != nullptr && value_ != nullptr);
    site.hook = this;
  }
  ~AttendedPrompts() override { site_.hook = nullptr; }
  AttendedPrompts(const AttendedPrompts&) = delete;
  AttendedPrompts& operator=(const AttendedPrompts&) = delete;
  nn::KeyValueRows rows(const nn::Context&) override {
    const auto made = [this](const nn::WeightSite& map) {
      return at::linear(prompts_, map.weight, map.bias).view({prompts_.size(0), site_.heads, site_.head_width});
    };
    return {made(*key_), made(*value_)};
  }

 private:
  nn::KeyValueSite& site_;
  Tensor prompts_;
  const nn::WeightSite *key_ = nullptr, *value_ = nullptr;
};

/// Prompts in front of a stream for good, as the released shallow variant leaves them.
class LeadingPrompts final : public nn::SequenceHook {
 public:
  LeadingPrompts(nn::SequenceSite& site, Tensor prompts) : site_(site), prompts_(std::move(prompts)) { site.hook = this; }
  ~LeadingPrompts() override { site_.hook = nullptr; }
  LeadingPrompts(const LeadingPrompts&) = delete;
  LeadingPrompts& operator=(const LeadingPrompts&) = delete;
  void before_block(nn::Tokens& tokens, const nn::Context&) override {
    tokens.insert_prompts(prompts_, 0);
    tokens.prompt_count = 0;  // rows like all others from here on
  }
  void after_block(nn::Tokens&, const nn::Context&) override {}

 private:
  nn::SequenceSite& site_;
  Tensor prompts_;
};

struct Pass {
  Tensor ids, mask, image;
  std::int64_t type = 1;
  std::string call;
};

class MeterCase {
 public:
  explicit MeterCase(Case& golden) : golden_(golden), model_(golden, meter_config(golden)) {
    // The encoders' own insides; what comes out of them is compared.
    golden.ignore("mid.roberta_");
    golden.ignore("mid.clip_");
    backbones::Backbone& backbone = model_.backbone();
    backbone.sites().first_token->value = model_.leaf("token4classifier");
    model_.free("token_type_embeddings.weight", "token_type_embeddings.weight");
    for (const std::string stream : {"text", "image"})
      for (const std::string part : {"weight", "bias"}) {
        const std::string name = "cross_modal_" + stream + "_pooler.dense." + part;
        model_.free(name, name);
      }
    model_.attach_apt(false, [](const std::string& site) { return site; });
    if (!golden.has("w.prompts.0")) return;
    const bool shallow = golden.mentions("never removed");
    // The released deep variant puts the prompts of a stream in front of it where the other one attends to it.
    const auto of_stream = [&](const std::string& name) {
      const bool text = name.starts_with("cross_modal_text_layers");
      return model_.leaf(text == shallow ? "prompts.0" : "prompts.1").squeeze(1);
    };
    if (shallow) {
      for (nn::SequenceSite* site : backbone.sites().sequences)
        if (site->layer == 0) leading_.push_back(std::make_unique<LeadingPrompts>(*site, of_stream(site->name)[0]));
    } else {
      for (nn::KeyValueSite* site : backbone.sites().keys_values)
        if (site->name.find(".crossattention.") != std::string::npos)
          attended_.push_back(std::make_unique<AttendedPrompts>(backbone, *site, of_stream(site->name)[site->layer]));
    }
  }

  OfficialModel& model() { return model_; }

  Tensor features(const Pass& pass) {
    const std::int64_t batch = pass.ids.size(0);
    backbones::ModelInputs inputs;
    inputs.input_ids = pass.ids.reshape({-1});
    inputs.text_layout = nn::Layout::uniform(batch, pass.ids.size(1), pass.mask.ne(0));
    inputs.pixel_values = pass.image;
    inputs.image_type = pass.type;
    const auto stream_of = [](const std::string& name) { return std::string(name.starts_with("cross_modal_text") ? "text" : "image"); };
    const auto compare_input = [&](const std::string& stream, const Tensor& given) {
      const bool text = stream == "text";
      const std::string whole = (text ? "mid.fusion_in_text" : "mid.fusion_in_image_as_seen_by_text_layer0") + pass.call;
      const Tensor seen = !text && !attended_.empty() ? at::cat({model_.leaf("prompts.1")[0].expand({batch, -1, -1}), given}, 1) : given;
      golden_.compare(whole, seen);
      const Tensor rows = leading_.empty() ? given : given.slice(1, model_.leaf("prompts.0").size(2));
      const std::string name = "mid." + stream + "_transform" + pass.call;
      if (!golden_.has(name)) return;
      Tensor before = (rows - model_.leaf("token_type_embeddings.weight")[text ? 0 : pass.type]).detach();
      // The learned first row stands behind the map.
      if (text) before.slice(1, 0, 1).copy_(golden_.take(name).slice(1, 0, 1));
      golden_.compare(name, before);
    };
    std::vector<std::unique_ptr<BlockWatch>> watches;
    for (nn::SequenceSite* site : model_.backbone().sites().sequences) {
      const std::string stream = stream_of(site->name);
      BlockWatch::Seen entering;
      if (site->layer == 0) entering = [&, stream](const nn::Tokens& tokens) { compare_input(stream, as_batch(tokens.rows, batch)); };
      watches.push_back(std::make_unique<BlockWatch>(*site, entering, [&, stream, layer = site->layer](const nn::Tokens& tokens) {
        golden_.compare("mid." + stream + "_layer" + std::to_string(layer) + pass.call, as_batch(tokens.rows, batch));
      }));
    }
    const std::string call = pass.call.empty() ? "" : pass.call.substr(1) + ".";
    const AttentionWatch attention(model_.backbone(), [&](const std::string& site, const Tensor& output, bool behind) {
      golden_.compare("mid." + site + ".APT." + call + (behind ? "attn_diff" : "attn_nodiff"), as_batch(output, batch));
    });
    const backbones::ModelOutputs outputs = model_.backbone().forward(inputs, {});
    const std::vector<Tensor> halves = outputs.pooler_output.chunk(2, 1);
    golden_.compare("mid.cls_feats_text" + pass.call, halves[0]);
    golden_.compare("mid.cls_feats_image" + pass.call, halves[1]);
    return outputs.pooler_output;
  }

 private:
  Case& golden_;
  OfficialModel model_;
  std::vector<std::unique_ptr<LeadingPrompts>> leading_;
  std::vector<std::unique_ptr<AttendedPrompts>> attended_;
};

/// The original's retrieval objective: matching of pairs of which some are wrong, and ranking.
Tensor retrieval_loss(Case& golden, MeterCase& meter) {
  const Tensor ids = golden.take("in.text_ids"), mask = golden.take("in.text_masks"), image = golden.take("in.image");
  const Tensor labels = golden.take("in.itm_labels");
  const Tensor kept = labels.view({-1, 1, 1, 1}).eq(1);
  const Tensor pair =
      meter.features({.ids = ids, .mask = mask, .image = at::where(kept, image, golden.take("in.false_image_0")), .call = ".call0"});
  const Tensor logits = at::linear(pair, golden.take("w.itm_score.fc.weight"), golden.take("w.itm_score.fc.bias"));
  golden.compare("out.itm_logits", logits);
  const Tensor matching = at::cross_entropy_loss(logits, labels.to(at::kLong));
  golden.compare("out.itm_loss", matching.view({1}));
  std::vector<Tensor> texts = {ids}, masks = {mask};
  for (std::size_t i = 0; golden.has("in.false_text_" + std::to_string(i) + "_ids"); ++i) {
    texts.push_back(golden.take("in.false_text_" + std::to_string(i) + "_ids"));
    masks.push_back(golden.take("in.false_text_" + std::to_string(i) + "_masks"));
  }
  const auto count = static_cast<std::int64_t>(texts.size());
  const Tensor features = meter.features({.ids = at::stack(texts, 1).flatten(0, 1),
                                          .mask = at::stack(masks, 1).flatten(0, 1),
                                          .image = image.repeat_interleave(count, 0),
                                          .call = ".call1"});
  const Tensor scores = meter.model().linear_head("rank_output", features).view({-1, count});
  golden.compare("out.score", scores);
  const Tensor ranking = at::cross_entropy_loss(scores, at::zeros({scores.size(0)}, at::kLong));
  golden.compare("out.irtr_loss", ranking.view({1}));
  return matching + ranking;
}

void whole_meter(Case& golden) {
  MeterCase meter(golden);
  const auto text = [&](const std::string& image, std::int64_t type, const std::string& call) {
    return meter.features(
        {.ids = golden.take("in.text_ids"), .mask = golden.take("in.text_masks"), .image = golden.take(image), .type = type, .call = call});
  };
  const bool trains = golden.has("out.lrs");
  const auto pair_loss = [&] {
    const Tensor both = at::cat({text("in.image_0", 1, ".call0"), text("in.image_1", 2, ".call1")}, 1);
    const Tensor logits = meter.model().mlp_head("nlvr2_classifier", both);
    if (!trains) golden.compare("out.logits", logits);
    return at::cross_entropy_loss(logits, golden.take("in.answers"));
  };
  const auto answers_loss = [&] {
    const Tensor logits = meter.model().mlp_head("vqa_classifier", text("in.image", 1, ""));
    if (!trains) golden.compare("out.logits", logits);
    return answer_loss(logits, golden.take("in.vqa_targets"));
  };
  const auto loss_of = [&] {
    if (golden.has("in.answers")) return pair_loss();
    return golden.has("in.vqa_targets") ? answers_loss() : retrieval_loss(golden, meter);
  };
  if (trains) {
    meter.model().compare_training(loss_of);
    return;
  }
  const Tensor loss = loss_of();
  golden.compare("out.loss", loss.view({1}));
  loss.backward();
  meter.model().compare_gradients();
}

void position_tables(Case& golden) {
  const Tensor clip = golden.take("out.clip"), swin = golden.take("out.swin");
  golden.compare("out.clip", backbones::resized_grid_table(golden.take("in.clip"), clip.sizes(), "in.clip"));
  golden.compare("out.swin", backbones::resized_offset_table(golden.take("in.swin"), swin.sizes(), "in.swin"));
}

}  // namespace

std::vector<Kind> apt_meter_kinds() {
  return {{"METER's positions", [](const Case& golden) { return golden.has("in.clip") && golden.has("in.swin"); }, position_tables},
          {"whole METER", [](const Case& golden) { return golden.has("w.cross_modal_text_transform.weight") && golden.has("in.text_ids"); },
           whole_meter}};
}

}  // namespace mmtune::golden
