// Golden cases of APT's tasks: heads with their losses and metrics, recalls, VQA's answers, and the arithmetic of costs.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <numeric>

#include "backbones/backbone.h"
#include "data/vqa_answers.h"
#include "golden.h"
#include "official_names.h"
#include "report/recall.h"
#include "train/classify.h"
#include "train/head.h"
#include "train/prompt_costs.h"
#include "train/retrieve.h"
#include "train/vqa.h"

namespace mmtune::golden {

namespace {

using at::Tensor;

/// A pooler or an affine map of the case, with leaves bound to it.
struct Map {
  Map(Case& golden, Bindings& bindings, const std::string& name) {
    weight = at::zeros_like(golden.take("w." + name + ".weight")).requires_grad_(true);
    bias = at::zeros_like(golden.take("w." + name + ".bias")).requires_grad_(true);
    bindings.bind(name + ".weight", weight);
    bindings.bind(name + ".bias", bias);
  }
  Tensor operator()(const Tensor& x) const { return at::linear(x, weight, bias); }
  Tensor weight, bias;
};

/// The pooled feature of one pass: ViLT's one stream or METER's two.
class Poolers {
 public:
  Poolers(Case& golden, Bindings& bindings, const std::string& part) : golden_(golden) {
    if (golden.has("w." + part + ".pooler.dense.weight")) {
      maps_.emplace_back(golden, bindings, part + ".pooler.dense");
      inputs_ = {"x"};
    } else {
      maps_.emplace_back(golden, bindings, part + ".cross_modal_text_pooler.dense");
      maps_.emplace_back(golden, bindings, part + ".cross_modal_image_pooler.dense");
      inputs_ = {"x_text", "x_image"};
    }
  }
  Tensor operator()(const std::string& pass) {
    std::vector<Tensor> pooled;
    for (std::size_t i = 0; i < maps_.size(); ++i)
      pooled.push_back(maps_[i](golden_.take("in." + pass + "." + inputs_[i]).select(1, 0)).tanh());
    return at::cat(pooled, 1);
  }

 private:
  Case& golden_;
  std::vector<Map> maps_;
  std::vector<std::string> inputs_;
};

/// The product's head of kind mlp_norm over features of the given widths, filled with the official classifier.
train::Head head_of(Case& golden, Bindings& bindings, const std::string& official, const std::vector<std::int64_t>& widths) {
  const Tensor first = golden.take("w." + official + ".0.weight"), last = golden.take("w." + official + ".3.weight");
  train::HeadSection section;
  section.kind = train::HeadKind::mlp_norm;
  section.hidden = first.size(0);
  std::vector<train::HeadTower> towers;
  for (std::size_t i = 0; i < widths.size(); ++i) towers.push_back({i == 0 ? "main" : "main_pair", widths[i]});
  train::Head head(section, towers, last.size(0), at::detail::createCPUGenerator(1));
  for (const nn::NamedTensor& item : head.tensors()) bindings.bind(official + "." + item.name, item.tensor);
  return head;
}

std::vector<std::int64_t> in_order(std::int64_t count) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), std::int64_t{0});
  return rows;
}

/// Examples whose answers score as the case says: how many of ten annotators gave each follows from its score.
data::Dataset answered(Case& golden) {
  data::Dataset dataset;
  const Json &labels = golden.json().at("vqa_labels"), &scores = golden.json().at("vqa_scores");
  for (std::size_t i = 0; i < labels.size(); ++i) {
    data::Example example;
    for (std::size_t k = 0; k < labels[i].size(); ++k) {
      const double score = scores[i][k].get<double>();
      const std::int64_t given = score >= 1.0 ? 4 : std::llround(score / 0.3);
      for (std::int64_t n = 0; n < given; ++n) example.answers.push_back("answer" + std::to_string(labels[i][k].get<std::int64_t>()));
    }
    while (example.answers.size() < 10) example.answers.emplace_back("something else");
    dataset.examples.push_back(std::move(example));
  }
  return dataset;
}

void compare_metric(Case& golden, const std::string& tensor, const train::Scorer& scorer, std::string_view name) {
  for (const report::Metric& metric : scorer.metrics(std::nullopt))
    if (metric.name == name) golden.compare(tensor, at::full({1}, metric.value));
}

void vqa(Case& golden) {
  Bindings bindings(golden, "w.");
  Poolers poolers(golden, bindings, "vqa");
  const Tensor feature = poolers("vqa");
  const train::Head head = head_of(golden, bindings, "vqa.vqa_classifier", {feature.size(1)});
  std::vector<std::string> answers;
  for (std::int64_t i = 0; i < golden.config("answers"); ++i) answers.push_back("answer" + std::to_string(i));
  const train::Vqa task(data::AnswerSpace(answers, false), train::VqaLoss::binary);
  const data::Dataset dataset = answered(golden);
  const std::vector<std::int64_t> all = in_order(feature.size(0));
  golden.compare("in.vqa.targets", task.targets(dataset, all));
  const Tensor logits = head({{feature, all}}, {});
  golden.compare("out.vqa.logits", logits);
  const Tensor loss = task.loss(logits, dataset, all) / task.weight(dataset, all);
  golden.compare("out.vqa.loss", loss.view({1}));
  const auto scorer = task.scorer();
  scorer->add(logits.detach(), dataset, all);
  compare_metric(golden, "out.vqa.score", *scorer, "vqa_accuracy");
  loss.backward();
  bindings.compare_gradients();
}

void nlvr2(Case& golden) {
  Bindings bindings(golden, "w.");
  Poolers poolers(golden, bindings, "nlvr2");
  const Tensor first = poolers("nlvr2.0"), second = poolers("nlvr2.1");
  const train::Head head = head_of(golden, bindings, "nlvr2.nlvr2_classifier", {first.size(1), second.size(1)});
  const std::vector<std::int64_t> all = in_order(first.size(0));
  const Tensor logits = head({{first, all}, {second, all}}, {});
  golden.compare("out.nlvr2.logits", logits);
  data::Dataset dataset;
  const Tensor labels = golden.take("in.nlvr2.answers");
  for (std::int64_t i = 0; i < labels.size(0); ++i) {
    dataset.examples.emplace_back();
    dataset.examples.back().labels = {labels[i].item<std::int64_t>()};
  }
  const train::Classify task({"False", "True"}, false, 0.5);
  const Tensor loss = task.loss(logits, dataset, all) / task.weight(dataset, all);
  golden.compare("out.nlvr2.loss", loss.view({1}));
  const auto scorer = task.scorer();
  scorer->add(logits.detach(), dataset, all);
  compare_metric(golden, "out.nlvr2.accuracy", *scorer, "accuracy");
  loss.backward();
  bindings.compare_gradients();
}

void ranking(Case& golden) {
  Bindings bindings(golden, "w.");
  Poolers poolers(golden, bindings, "irtr");
  const Tensor feature = poolers("irtr");
  const Map rank(golden, bindings, "irtr.rank_output");
  const std::int64_t false_texts = golden.config("false_texts"), count = feature.size(0) / (1 + false_texts);
  const Tensor logits = rank(feature);
  golden.compare("out.irtr.score", logits.view({count, 1 + false_texts}));
  const train::Retrieve task(false_texts, true);
  const std::vector<std::int64_t> all = in_order(count);
  const Tensor loss = task.loss(logits, {}, all) / task.weight({}, all);
  golden.compare("out.irtr.loss", loss.view({1}));
  loss.backward();
  for (const std::string& name : golden.names("grad.irtr.")) {
    if (name != "grad.irtr.rank_output.bias") continue;
    // Zero in exact arithmetic: the softmax does not see it.
    if (rank.bias.grad().abs().max().item<double>() > 1e-6) golden.fail(name + ": not zero");
    golden.ignore(name);
  }
  bindings.compare_gradients();
}

/// The matching head of pre-training, over the feature of the ranking's poolers: a linear head of the product with two classes.
void matching(Case& golden) {
  Bindings bindings(golden, "w.");
  Poolers poolers(golden, bindings, "irtr");
  const Tensor feature = poolers("itm").detach(), labels = golden.take("in.itm.labels");
  train::Head head({}, {{"main", feature.size(1)}}, 2, at::detail::createCPUGenerator(1));
  for (const nn::NamedTensor& item : head.tensors()) bindings.bind("irtr.itm_score.fc." + item.name, item.tensor);
  data::Dataset dataset;
  for (std::int64_t i = 0; i < labels.size(0); ++i) {
    dataset.examples.emplace_back();
    dataset.examples.back().labels = {std::llround(labels[i].item<double>())};
  }
  const std::vector<std::int64_t> all = in_order(labels.size(0));
  const Tensor logits = head({{feature, all}}, {});
  golden.compare("out.itm.logits", logits);
  const train::Classify task({"other", "own"}, false, 0.5);
  const Tensor loss = task.loss(logits, dataset, all) / task.weight(dataset, all);
  golden.compare("out.itm.loss", loss.view({1}));
  loss.backward();
  for (const nn::NamedTensor& item : head.tensors()) golden.compare("grad.itm.itm_score.fc." + item.name, item.tensor.grad());
  // The alignment of words and patches is a loss of ViLT's pre-training, which APT has not.
  for (const char* name : {"out.itm.wpa_loss", "in.itm.text_feats", "in.itm.image_feats", "in.itm.text_masks", "in.itm.image_masks"})
    golden.ignore(name);
}

void heads(Case& golden) {
  vqa(golden);
  nlvr2(golden);
  ranking(golden);
  matching(golden);
}

void recall(Case& golden) {
  const Tensor scores = golden.take("in.scores").contiguous(), owner = golden.take("in.text_image_index"),
               pictures = golden.take("in.image_index");
  std::vector<std::int64_t> picture_of;
  for (std::int64_t i = 0; i < owner.size(0); ++i) picture_of.push_back(pictures.eq(owner[i]).nonzero().item<std::int64_t>());
  const report::Ranks ranks = report::ranks({scores.const_data_ptr<float>(), static_cast<std::size_t>(scores.numel())},
                                            static_cast<std::size_t>(scores.size(0)), picture_of);
  std::vector<double> values;
  for (const report::Metric& metric : report::recalls(ranks))
    if (metric.name != "r1") values.push_back(metric.value);
  golden.compare("out.recalls", at::tensor(values, at::kDouble));
}

void answers(Case& golden) {
  for (const Json& one : golden.json().at("normalize"))
    golden.check(one.at("raw").dump(), data::normal_answer(one.at("raw").get<std::string>()), one.at("norm"));
  for (const auto& [given, score] : golden.json().at("soft_score").items())
    golden.check("soft score of " + given, std::llround(data::soft_score(std::stoll(given), 10) * 1e6),
                 std::llround(score.get<double>() * 1e6));
}

/// Multiply-accumulates of an entry without those of norms, which are no products.
double products(const Json& entry) {
  return entry.value("linear", 0.0) + entry.value("matmul", 0.0);
}

void costs(Case& golden) {
  constexpr std::int64_t width = 768, layers_of_stream = 6, layers = 12, bottleneck = 96;
  for (const Json& entry : golden.json().at("entries")) {
    const auto p = entry.at("prompts").get<std::int64_t>(), r = entry.at("rank").get<std::int64_t>();
    std::vector<train::PromptPlace> places;
    std::int64_t adapter = 0, tokens = 0;
    if (entry.contains("tokens")) {
      tokens = entry["tokens"].get<std::int64_t>();
      places.assign(layers, {tokens, tokens, width, false});
      adapter = 2 * layers * 2 * tokens * width * bottleneck;
      // Prompts as ordinary tokens of all blocks.
      const auto shallow = [&](std::int64_t n) { return backbones::encoder_macs(layers, width, 4 * width, n, false); };
      golden.check("base", static_cast<double>(shallow(tokens) + width * width), products(entry.at("base")));  // and the pooler
      golden.check("shallow prompts", static_cast<double>(shallow(tokens + p) - shallow(tokens)),
                   products(entry.at("extra_shallow_prompt")));
      golden.check("deep prompts", train::deep_reported_macs(places, p), products(entry.at("extra_deep_prompt_official")));
    } else {
      const auto text = entry["text_tokens"].get<std::int64_t>(), image = entry["image_tokens"].get<std::int64_t>();
      tokens = text + image;
      for (const std::int64_t rows : {text, image})
        for (const bool cross : {false, true}) places.insert(places.end(), layers_of_stream, {rows, tokens, width, cross});
      adapter = 3 * layers_of_stream * 2 * tokens * width * bottleneck;
      golden.check("deep prompts of the released code", train::deep_macs(train::cross_places(places), p),
                   products(entry.at("extra_deep_prompt_released(cross-attention K/V)")));
      if (entry.contains("readme_formula_deep_prompt_macs"))
        golden.check("deep prompts as reported", train::deep_reported_macs(places, p),
                     entry["readme_formula_deep_prompt_macs"].get<double>());
    }
    golden.check("diffusion", train::apt_macs(places, p, r), products(entry.at("extra_apt")));
    golden.check("parameters", train::apt_parameters(places, p, r), entry.at("params_apt"));
    if (entry.contains("params_deep_prompt"))
      golden.check("parameters of deep prompts", train::deep_parameters(places, p), entry["params_deep_prompt"]);
    if (entry.contains("extra_adapter_96")) golden.check("adapters", static_cast<double>(adapter), products(entry["extra_adapter_96"]));
  }
}

}  // namespace

std::vector<Kind> apt_task_kinds() {
  const auto has = [](const char* tensor) { return [tensor](const Case& golden) { return golden.has(tensor); }; };
  const auto says = [](const char* key) { return [key](const Case& golden) { return golden.json().contains(key); }; };
  return {{"apt: heads", has("w.vqa.vqa_classifier.0.weight"), heads},
          {"apt: recall", has("out.recalls"), recall},
          {"apt: answers", says("soft_score"), answers},
          {"apt: costs", says("entries"), costs}};
}

}  // namespace mmtune::golden
