#include "train/hf_heads.h"

#include <algorithm>

#include "core/error.h"
#include "experts/kinds.h"
#include "experts/peft_names.h"

namespace mmtune::train {

namespace {

using backbones::Pooling;
using Names = std::vector<std::pair<std::string, std::string>>;

const Names linear = {{"weight", "classifier.weight"}, {"bias", "classifier.bias"}};

std::string_view name_of(Pooling pooling) {
  switch (pooling) {
    case Pooling::first:
      return "first";
    case Pooling::mean:
      return "mean";
    case Pooling::patches:
      return "patches";
    case Pooling::pooler:
      return "pooler";
    case Pooling::all:
      return "all";
    case Pooling::projection:
      return "projection";
    case Pooling::automatic:
      break;
  }
  return "automatic";
}

std::string wording(Pooling pooling, HeadKind kind, const std::string& activation, std::int64_t hidden) {
  std::string text = "pooling \"" + std::string(name_of(pooling)) + "\" and a " + (kind == HeadKind::linear ? "linear" : "mlp") + " head";
  if (kind == HeadKind::mlp) text += " (activation \"" + activation + "\", hidden = " + std::to_string(hidden) + ")";
  return text;
}

std::string wording(const HfHead& head, std::int64_t width) {
  return wording(head.pooling, head.kind, "tanh", width);
}

}  // namespace

std::vector<HfHead> hf_heads(std::string_view architecture) {
  const std::string text_class = "AutoModelForSequenceClassification", image_class = "AutoModelForImageClassification";
  const auto picture = [&](const std::string& model_class, Pooling pooling) -> HfHead {
    return {model_class, image_class, "", pooling, HeadKind::linear, {"classifier"}, linear};
  };
  if (architecture == "bert") {
    const Names pooled = {{"0.weight", "bert.pooler.dense.weight"},
                          {"0.bias", "bert.pooler.dense.bias"},
                          {"2.weight", "classifier.weight"},
                          {"2.bias", "classifier.bias"}};
    return {{"BertForSequenceClassification", text_class, "SEQ_CLS", Pooling::pooler, HeadKind::linear, {"classifier"}, linear},
            {"BertForSequenceClassification", text_class, "SEQ_CLS", Pooling::first, HeadKind::mlp, {"pooler", "classifier"}, pooled}};
  }
  if (architecture == "roberta" || architecture == "xlm-roberta") {
    const std::string model_class = architecture == "roberta" ? "Roberta" : "XLMRoberta";
    const Names two = {{"0.weight", "classifier.dense.weight"},
                       {"0.bias", "classifier.dense.bias"},
                       {"2.weight", "classifier.out_proj.weight"},
                       {"2.bias", "classifier.out_proj.bias"}};
    return {{model_class + "ForSequenceClassification", text_class, "SEQ_CLS", Pooling::first, HeadKind::mlp, {"classifier"}, two}};
  }
  if (architecture == "vit") return {picture("ViTForImageClassification", Pooling::first)};
  if (architecture == "swin")
    return {picture("SwinForImageClassification", Pooling::mean), picture("SwinForImageClassification", Pooling::pooler)};
  if (architecture == "clip_vision_model") return {picture("CLIPForImageClassification", Pooling::patches)};
  return {};
}

HfHead hf_head_of(const Recipe& recipe, const Model& model) {
  const auto refuse = [](const std::string& what, const std::string& expected, const std::string& got) {
    throw Error({.what = what,
                 .where = "head",
                 .expected = expected,
                 .got = got,
                 .hint = "--no-head leaves the head out and writes the expert alone"});
  };
  const std::string no_class = "no model of transformers computes this head";
  if (model.towers().size() > 1) refuse(no_class, "one tower", "two towers, fused late");
  if (recipe.head.normalise) refuse(no_class, "normalise = false", "normalise = true");
  const Tower& tower = *model.towers().front();
  const backbones::BackboneInfo& info = tower.backbone().info();
  std::string expected;
  // CLIP's classification model is one over the checkpoint of both towers.
  const bool lone_tower = info.architecture == "clip_vision_model" && tower.checkpoint().config().value("model_type", "") != "clip";
  for (const HfHead& head : lone_tower ? std::vector<HfHead>{} : hf_heads(info.architecture)) {
    const bool same_layers = head.kind == HeadKind::linear ? recipe.head.kind == HeadKind::linear
                                                           : recipe.head.kind == HeadKind::mlp && recipe.head.activation == "tanh" &&
                                                                 recipe.head.hidden == info.width;
    if (head.pooling == tower.pooling() && same_layers) return head;
    expected += (expected.empty() ? "" : ", or ") + wording(head, info.width);
  }
  refuse(expected.empty() ? "transformers has no classification model over this backbone that mmtune knows" : no_class, expected,
         wording(tower.pooling(), recipe.head.kind, recipe.head.activation, recipe.head.hidden));
  MMTUNE_ASSERT(false);
  return {};
}

HfHead hf_head_named(const std::vector<std::string>& names, const backbones::BackboneInfo& info, const std::string& where) {
  const std::string prefix(experts::task_prefix(info.architecture));
  std::string known;
  for (const HfHead& head : hf_heads(info.architecture)) {
    std::vector<std::string> theirs;
    for (const auto& [ours, name] : head.names) theirs.push_back(name.starts_with(prefix) ? name.substr(prefix.size()) : name);
    if (std::is_permutation(theirs.begin(), theirs.end(), names.begin(), names.end())) return head;
    known += (known.empty() ? "" : ", or ") + experts::listed(theirs);
  }
  throw Error({.what = "the head is none that mmtune has over this backbone",
               .where = where,
               .expected = known,
               .got = experts::listed(names),
               .hint = "without a head the folder is an expert for mmtune forward --expert"});
}

void describe_head(const HfHead& head, const backbones::BackboneInfo& info, Recipe& recipe) {
  recipe.backbone.main_pooling = head.pooling;
  recipe.head.kind = head.kind;
  recipe.head.fusion = Fusion::concat;
  recipe.head.normalise = false;
  if (head.kind == HeadKind::linear) return;
  recipe.head.activation = "tanh";
  recipe.head.hidden = info.width;
}

}  // namespace mmtune::train
