#include "train/hf_heads.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "experts/kinds.h"
#include "experts/peft_names.h"
#include "nn/weights.h"

namespace mmtune::train {

namespace {

using backbones::Pooling;
using Names = std::vector<std::pair<std::string, std::string>>;

const Names linear = {{"weight", "classifier.weight"}, {"bias", "classifier.bias"}};

const std::vector<std::string> projector = {"projector.weight", "projector.bias"};

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

const at::Tensor& head_tensor(const Head& head, const std::string& name) {
  for (const nn::NamedTensor& one : head.tensors())
    if (one.name == name) return one.tensor;
  MMTUNE_ASSERT(false);
  return head.tensors().front().tensor;
}

std::string without_prefix(const std::string& name, const std::string& prefix) {
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

std::string wording(const HfHead& head, std::int64_t width) {
  return wording(head.pooling, head.kind, "tanh", width);
}

/// Those over a tower that its checkpoint could have.
std::vector<HfHead> heads_over(const Tower& tower) {
  const std::string& architecture = tower.backbone().info().architecture;
  // CLIP's classification model is one over the checkpoint of both towers.
  if (architecture == "clip_vision_model" && tower.checkpoint().config().value("model_type", "") != "clip") return {};
  return hf_heads(architecture);
}

bool computes(const HfHead& head, const Recipe& recipe, const Tower& tower) {
  if (head.pooling != tower.pooling() || head.kind != recipe.head.kind) return false;
  return head.kind == HeadKind::linear || (recipe.head.activation == "tanh" && recipe.head.hidden == tower.backbone().info().width);
}

/// The label that each row of the checkpoint's head stands for; empty where config.json does not say.
std::vector<std::string> labels_of(const Json& config) {
  const auto found = config.find("id2label");
  if (found == config.end() || !found->is_object()) return {};
  std::vector<std::string> labels;
  for (std::size_t i = 0; i < found->size(); ++i) {
    const auto label = found->find(std::to_string(i));
    if (label == found->end() || !label->is_string()) return {};
    labels.push_back(label->get<std::string>());
  }
  return labels;
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
  if (architecture == "wav2vec2") {
    return {{.model_class = "Wav2Vec2ForSequenceClassification",
             .auto_class = "AutoModelForAudioClassification",
             .pooling = Pooling::mean,
             .modules = {"projector", "classifier"},
             .names = linear,
             .projected = true}};
  }
  if (architecture == "clip_vision_model") return {picture("CLIPForImageClassification", Pooling::patches)};
  return {};
}

bool reads_sum_of_layers(const io::Checkpoint& checkpoint) {
  return checkpoint.config().value("model_type", "") == "wav2vec2" && checkpoint.config().value("use_weighted_layer_sum", false);
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
  if (reads_sum_of_layers(tower.checkpoint()))
    refuse(no_class, "use_weighted_layer_sum = false in config.json", "true: their head reads a learned sum of all layers");
  for (const HfHead& head : heads_over(tower)) {
    if (computes(head, recipe, tower)) return head;
    expected += (expected.empty() ? "" : ", or ") + wording(head, info.width);
  }
  refuse(expected.empty() ? "transformers has no classification model over this backbone that mmtune knows" : no_class, expected,
         wording(tower.pooling(), recipe.head.kind, recipe.head.activation, recipe.head.hidden));
  MMTUNE_ASSERT(false);
  return {};
}

std::vector<nn::NamedTensor> to_hf(const HfHead& head, const Head& ours, const Json& config) {
  std::vector<nn::NamedTensor> theirs;
  for (const auto& [name, their_name] : head.names) theirs.push_back({their_name, head_tensor(ours, name).detach()});
  if (!head.projected) return theirs;
  const at::Tensor weight = theirs.at(0).tensor, bias = theirs.at(1).tensor;
  const std::int64_t classes = weight.size(0), rows = config.value("classifier_proj_size", std::int64_t{256});
  if (classes > rows)
    throw Error({.what = "the model of transformers passes fewer features on than there are classes",
                 .where = "classifier_proj_size in config.json",
                 .expected = "at least " + std::to_string(classes),
                 .got = std::to_string(rows),
                 .hint = "--no-head leaves the head out and writes the expert alone"});
  const auto padded = [rows](const at::Tensor& tensor) {
    std::vector<std::int64_t> sizes = tensor.sizes().vec();
    sizes.front() = rows - sizes.front();
    return at::cat({tensor, at::zeros(sizes, tensor.options())});
  };
  return {{projector.at(0), padded(weight)},
          {projector.at(1), padded(bias)},
          {theirs.at(0).name, at::eye(classes, rows, weight.options())},
          {theirs.at(1).name, at::zeros({classes}, bias.options())}};
}

at::Tensor from_hf(const HfHead& head, const std::string& name, const std::vector<nn::NamedTensor>& theirs, const std::string& prefix,
                   const std::string& where) {
  const auto of = [&](const std::string& their_name) -> const at::Tensor& {
    const std::string bare = without_prefix(their_name, prefix);
    const auto found = std::find_if(theirs.begin(), theirs.end(), [&](const nn::NamedTensor& one) { return one.name == bare; });
    MMTUNE_ASSERT(found != theirs.end());
    return found->tensor;
  };
  const auto their_name = [&](const std::string& our_name) {
    return std::find_if(head.names.begin(), head.names.end(), [&](const auto& one) { return one.first == our_name; })->second;
  };
  if (!head.projected) return of(their_name(name));
  const at::Tensor &weight = of(their_name("weight")), &first = of(projector.at(0)), &first_bias = of(projector.at(1));
  if (weight.dim() != 2 || first.dim() != 2 || weight.size(1) != first.size(0) || first_bias.numel() != first.size(0))
    throw Error({.what = "the classifier does not read what the projector writes",
                 .where = where,
                 .expected = "classifier.weight [classes, n], projector.weight [n, width], projector.bias [n]",
                 .got = c10::str(weight.sizes(), ", ", first.sizes(), " and ", first_bias.sizes())});
  if (name == "weight") return at::matmul(weight, first);
  return at::matmul(weight, first_bias) + of(their_name("bias"));
}

bool begin_with_checkpoint_head(const Recipe& recipe, const Model& model, const std::vector<std::string>& classes) {
  if (recipe.task != "classify" || !model.has_head() || model.towers().size() > 1 || recipe.head.normalise) return false;
  const Tower& tower = *model.towers().front();
  const io::Checkpoint& checkpoint = tower.checkpoint();
  const std::vector<std::string> labels = labels_of(checkpoint.config());
  if (labels.size() != classes.size() || !std::is_permutation(labels.begin(), labels.end(), classes.begin()) ||
      std::set(labels.begin(), labels.end()).size() != labels.size() || reads_sum_of_layers(checkpoint))
    return false;
  std::vector<std::int64_t> rows;  // of the checkpoint's head, in the order of the task's classes
  for (const std::string& name : classes) rows.push_back(std::find(labels.begin(), labels.end(), name) - labels.begin());
  const std::string where = checkpoint.folder().string();
  const std::string prefix(experts::task_prefix(tower.backbone().info().architecture));
  for (const HfHead& head : heads_over(tower)) {
    if (!computes(head, recipe, tower)) continue;
    std::vector<std::string> names;
    for (const auto& [ours, theirs] : head.names) names.push_back(theirs);
    if (head.projected) names.insert(names.end(), projector.begin(), projector.end());
    std::vector<nn::NamedTensor> theirs;
    for (const std::string& name : names)
      if (const io::TensorEntry* const entry = checkpoint.find(name))
        theirs.push_back({without_prefix(name, prefix), nn::to_tensor(*entry, checkpoint.mapping_of(*entry))});
    if (theirs.size() != names.size()) continue;
    const at::NoGradGuard no_grad;
    std::vector<std::pair<at::Tensor, at::Tensor>> filled;
    for (const nn::NamedTensor& one : model.head().tensors()) {
      if (one.name.starts_with("absent.")) continue;
      at::Tensor value = from_hf(head, one.name, theirs, prefix, where);
      const bool last = one.name.starts_with(head.kind == HeadKind::linear ? "" : "2.");
      if (last && value.dim() > 0 && value.size(0) == static_cast<std::int64_t>(rows.size()))
        value = value.index_select(0, at::tensor(rows, at::kLong));
      if (value.sizes() != one.tensor.sizes()) return false;
      filled.emplace_back(one.tensor, value);
    }
    for (auto& [target, value] : filled) target.copy_(value);
    return true;
  }
  return false;
}

HfHead hf_head_named(const std::vector<std::string>& names, const backbones::BackboneInfo& info, const std::string& where) {
  const std::string prefix(experts::task_prefix(info.architecture));
  std::string known;
  for (const HfHead& head : hf_heads(info.architecture)) {
    std::vector<std::string> theirs;
    for (const auto& [ours, name] : head.names) theirs.push_back(without_prefix(name, prefix));
    if (head.projected) theirs.insert(theirs.end(), projector.begin(), projector.end());
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
