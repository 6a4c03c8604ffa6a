#include "mope_stacks.h"

#include <memory>
#include <regex>

#include "backbones/swin_windows.h"
#include "core/error.h"
#include "train/classify.h"
#include "train/head.h"
#include "train/optimiser.h"

namespace mmtune::golden {

namespace {

using at::Tensor;
using experts::Mope;
using experts::MopeMapper;
using experts::MopeOptions;
using experts::MopeVariant;

Tensor as_batch(const nn::Tokens& tokens) {
  return tokens.rows.view({tokens.layout.batch(), -1, tokens.rows.size(1)});
}

/// Stands in a site's place and lets the expert's own hook do the work; compares the tokens around it.
class Watch final : public nn::SequenceHook {
 public:
  using Seen = std::function<void(const nn::Tokens&)>;
  Watch(nn::SequenceSite& site, Seen entering, Seen prompted, Seen leaving)
      : site_(site), inner_(site.hook), entering_(std::move(entering)), prompted_(std::move(prompted)), leaving_(std::move(leaving)) {
    MMTUNE_ASSERT(inner_ != nullptr);
    site.hook = this;
  }
  ~Watch() override { site_.hook = inner_; }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void before_block(nn::Tokens& tokens, const nn::Context& context) override {
    entering_(tokens);
    inner_->before_block(tokens, context);
    tokens.prompts_end = false;  // the case knows what becomes of the prompts, read or not
    prompted_(tokens);
  }
  void after_block(nn::Tokens& tokens, const nn::Context& context) override {
    leaving_(tokens);
    inner_->after_block(tokens, context);
  }

 private:
  nn::SequenceSite& site_;
  nn::SequenceHook* inner_;
  Seen entering_, prompted_, leaving_;
};

using Watches = std::vector<std::unique_ptr<Watch>>;

Watches watch_bert(Case& golden, backbones::Backbone& backbone) {
  Watches watches;
  for (nn::SequenceSite* site : backbone.sites().sequences) {
    const std::string tag = "mid.text.layer" + std::to_string(site->layer) + ".seq_";
    watches.push_back(std::make_unique<Watch>(
        *site, [](const nn::Tokens&) {},
        [&golden, tag, first = site->layer == 0](const nn::Tokens& tokens) {
          golden.compare(tag + "in", as_batch(tokens));
          if (!first) return;
          const Tensor visible = tokens.layout.key_mask();
          golden.compare("mid.text.additive_mask",
                         at::zeros(visible.sizes()).masked_fill(visible.logical_not(), -10000.0).unsqueeze(1).unsqueeze(1));
        },
        [&golden, tag](const nn::Tokens& tokens) { golden.compare(tag + "out", as_batch(tokens)); }));
  }
  return watches;
}

Watches watch_swin(Case& golden, backbones::Backbone& backbone) {
  Watches watches;
  static const std::regex pattern("encoder\\.layers\\.([0-9]+)\\.blocks\\.([0-9]+)");
  for (nn::SequenceSite* site : backbone.sites().sequences) {
    std::smatch found;
    MMTUNE_ASSERT(std::regex_match(site->name, found, pattern));
    const std::int64_t stage = std::stoll(found[1].str()), block = std::stoll(found[2].str());
    const std::string tag = "mid.stage" + std::to_string(stage) + ".block" + std::to_string(block) + ".seq_";
    watches.push_back(std::make_unique<Watch>(
        *site,
        [&golden, stage, block](const nn::Tokens& tokens) {
          if (block > 0) return;
          golden.compare(stage == 0 ? "mid.patch_embed" : "mid.stage" + std::to_string(stage - 1) + ".merged", as_batch(tokens));
        },
        [&golden, tag](const nn::Tokens& tokens) { golden.compare(tag + "in", as_batch(tokens)); },
        [&golden, tag](const nn::Tokens& tokens) { golden.compare(tag + "out", as_batch(tokens)); }));
  }
  return watches;
}

/// The padded batch of a case.
backbones::ModelInputs text_of(Case& golden) {
  backbones::ModelInputs inputs;
  const Tensor ids = golden.take("input.input_ids");
  inputs.text_layout = nn::Layout::uniform(ids.size(0), ids.size(1), golden.take("input.attention_mask").ne(0));
  inputs.input_ids = ids.flatten();
  inputs.token_type_ids = golden.take("input.token_type_ids").flatten();
  return inputs;
}

/// A head of the product with one tower's feature, filled with the official classifier.
std::unique_ptr<train::Head> head_of(Case& golden, const std::string& official, Bindings& bindings) {
  const Tensor weight = golden.take("weight." + official + ".weight");
  auto head = std::make_unique<train::Head>(train::HeadSection{}, std::vector<train::HeadTower>{{"main", weight.size(1), false}},
                                            weight.size(0), at::detail::createCPUGenerator(1));
  for (const nn::NamedTensor& item : head->tensors()) bindings.bind(official + "." + item.name, item.tensor);
  return head;
}

Tensor logits_of(const train::Head& head, const Tensor& feature) {
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < feature.size(0); ++i) rows.push_back(i);
  return head({{feature, rows}}, {});
}

/// The product's task on the case's labels: one index an example, or a row of zeros and ones.
Tensor task_loss(Case& golden, const Tensor& logits) {
  const Tensor labels = golden.take("input.label");
  const bool multi = labels.dim() == 2;
  data::Dataset dataset;
  dataset.multi_label = multi;
  std::vector<std::int64_t> examples;
  for (std::int64_t i = 0; i < labels.size(0); ++i) {
    data::Example example;
    if (multi) {
      for (std::int64_t c = 0; c < labels.size(1); ++c)
        if (labels[i][c].item<double>() > 0.5) example.labels.push_back(c);
    } else {
      example.labels.push_back(labels[i].item<std::int64_t>());
    }
    dataset.examples.push_back(std::move(example));
    examples.push_back(i);
  }
  std::vector<std::string> classes;
  for (std::int64_t c = 0; c < logits.size(1); ++c) classes.push_back(std::to_string(c));
  const train::Classify task(classes, multi, 0.5);
  return task.loss(logits, dataset, examples) / task.weight(dataset, examples);
}

/// Deep static prompts, as the product's own kind makes them.
std::unique_ptr<experts::Expert> deep_prompts(Case& golden, const std::string& official, backbones::Backbone& backbone,
                                              Bindings& bindings) {
  const Tensor table = golden.take("weight." + official);  // [layers, l, D]
  const auto recipe = experts::expert_recipe("prompt");
  // As tokens of the blocks, which the cases look at.
  recipe->read_config({{"peft_type", "MMTUNE_DEEP_PROMPT"}, {"num_virtual_tokens", table.size(1)}, {"once", false}}, golden.name());
  auto expert = recipe->build(backbone, at::detail::createCPUGenerator(1));
  for (const nn::SequenceSite* site : backbone.sites().sequences)
    bindings.bind(official, tensor_of(*expert, site->name + ".prompt_embeddings"),
                  [layer = site->layer](const Tensor& t) { return t.select(0, layer); });
  return expert;
}

MopeOptions swin_options(Case& golden, std::int64_t complementary_width) {
  MopeOptions options;
  options.complementary_widths = {complementary_width};
  options.experts = golden.config("K");
  options.prompt_length = golden.config("l");
  options.mapper_width = golden.config("d_map");
  options.router_main = golden.config("d_inter");
  options.router_complementary = golden.config("d_cross");
  options.temperature = golden.constant("temperature");
  options.importance_threshold = golden.constant("importance_threshold");
  options.importance_weight = golden.constant("w_imp");
  options.released_window_order = golden.mentions("mod B");
  return options;
}

std::string tag_of(const std::string& site) {
  static const std::regex pattern("encoder\\.layers\\.([0-9]+)\\.blocks\\.([0-9]+)");
  std::smatch found;
  MMTUNE_ASSERT(std::regex_match(site, found, pattern));
  return "stage" + found[1].str() + ".block" + found[2].str();
}

/// The mapper's and the routers' intermediates after a pass over `y`.
void compare_experts(Case& golden, const Mope& mope, const Tensor& y) {
  const Tensor hidden = mope.mapper().hidden(y);
  golden.compare("mid.mapper_hidden", hidden);
  const std::vector<Tensor> before = mope.mapper().projected(hidden).split_with_sizes(mope.mapper().widths, 1);
  const std::vector<Tensor> tokens = mope.mapper().tokens(hidden);
  for (std::size_t stage = 0; stage < tokens.size(); ++stage) {
    golden.compare("mid.mapped_prompt_preact." + std::to_string(stage), before[stage]);
    golden.compare("mid.mapped_prompt." + std::to_string(stage), tokens[stage]);
  }
  for (const experts::MopeRouting& one : mope.routing()) {
    const std::string prefix = "mid." + tag_of(one.site) + ".";
    compare_routing(golden, prefix, one, mope.options());
    golden.compare(prefix + "dynamic_prompt", one.dynamic);
  }
}

/// The recorded noise of every routed block, in the order of the blocks.
void replay_noise(Case& golden, backbones::Backbone& backbone, Mope& mope) {
  std::vector<Tensor> draws;
  for (const nn::SequenceSite* site : backbone.sites().sequences) {
    const std::string name = "input.noise." + tag_of(site->name);
    if (golden.has(name)) draws.push_back(golden.take(name));
  }
  mope.set_probe({.noise = [draws](std::size_t block) { return draws.at(block); }});
}

/// The masks of shifted windows that the case keeps: ours have the prompts' zeros around them.
void compare_shift_masks(Case& golden, const std::string& prefix) {
  static const std::regex pattern(".*layers\\.([0-9]+)\\.blocks\\.[0-9]+\\.attn_mask");
  const std::int64_t size = golden.config("img") / golden.config("patch"), window = golden.config("window");
  for (const std::string& name : golden.names("buffer." + prefix + "layers.")) {
    std::smatch found;
    if (!std::regex_match(name, found, pattern)) continue;
    const std::int64_t side = size >> std::stoll(found[1].str());
    golden.compare(name, backbones::Windows(side, side, window, window / 2, window).shift_mask(0));
  }
}

}  // namespace

at::Tensor leaf_of(Case& golden, const std::string& name) {
  return golden.take(name).clone().requires_grad_(true);
}

void compare_routing(Case& golden, const std::string& prefix, const experts::MopeRouting& routing, const MopeOptions& options) {
  golden.compare(prefix + "pooled", routing.pooled);
  golden.compare(prefix + "q_self", routing.query_main);
  golden.compare(prefix + "q_cross", routing.query_complementary);
  golden.compare(prefix + "softmax_arg", routing.logits);
  golden.compare(prefix + "scores", routing.scores);
  golden.compare(prefix + "cv2", experts::mope_variation(routing.scores));
  golden.compare(prefix + "importance", experts::mope_importance(routing.scores, options.importance_threshold.value()));
}

Tensor with_importance(const Mope& mope, const Tensor& task) {
  const Tensor added = mope.auxiliary_loss();
  return added.defined() ? task + added : task;
}

/// Runs the main tower on the case's picture with the complementary feature `y`, compares what it gives on the way, and returns the logits.
Tensor compare_picture_tower(Case& golden, backbones::Backbone& backbone, const Mope& mope, const Tensor& y, const train::Head& head) {
  backbones::ModelInputs inputs;
  inputs.pixel_values = golden.take("input.image");
  nn::Context context;
  context.complementary = y;
  const backbones::ModelOutputs outputs = backbone.forward(inputs, context);
  golden.compare("mid.final_norm", outputs.last_hidden_state.view({outputs.layout.batch(), -1, outputs.last_hidden_state.size(1)}));
  const Tensor cls = backbones::pool(outputs, backbones::Pooling::mean);
  golden.compare("out.cls", cls);
  Tensor logits = logits_of(head, cls);
  golden.compare("out.logits", logits);
  compare_experts(golden, mope, y);
  return logits;
}

void bert_stack(Case& golden) {
  const auto backbone = official_bert(golden, "bert_encoder.");
  for (const Json& name : golden.json().at("trainable_without_gradient")) golden.ignore("weight." + name.get<std::string>());
  Bindings bindings(golden);
  nn::Context context;
  std::unique_ptr<experts::Expert> expert;
  Tensor feature, scores;
  if (golden.has("input.vision_feature")) {
    feature = leaf_of(golden, "input.vision_feature");
    context.complementary = feature;
    MopeOptions options;
    options.complementary_widths = {feature.size(1)};
    options.prompt_length = golden.config("l_t");
    options.variant = MopeVariant::cross_only;
    options.dynamic_prompt = golden.has("input.route_score");
    options.mapper = options.dynamic_prompt ? MopeMapper::Kind::linear : MopeMapper::Kind::identity;
    options.experts = golden.take("weight.prompt_vectors.0").size(0) - 1;
    at::Generator generator = at::detail::createCPUGenerator(1);
    auto mope = std::make_unique<Mope>(options, *backbone, generator);
    for (const nn::SequenceSite* site : backbone->sites().sequences) {
      const std::string official = "prompt_vectors." + std::to_string(site->layer);
      bindings.bind(official, tensor_of(*mope, site->name + ".static"), [](const Tensor& t) { return t.select(0, 0); });
      if (options.dynamic_prompt)
        bindings.bind(official, tensor_of(*mope, site->name + ".experts"), [](const Tensor& t) { return t.narrow(0, 1, t.size(0) - 1); });
    }
    if (options.dynamic_prompt) {
      scores = leaf_of(golden, "input.route_score");
      mope->set_probe(
          {.scores = [&scores](std::size_t block, const Tensor&) { return scores.select(1, static_cast<std::int64_t>(block)); }});
      std::int64_t offset = 0;
      for (std::size_t group = 0; group < mope->mapper().widths.size(); ++group) {
        const std::int64_t width = mope->mapper().widths[group];
        const View slice = [offset, width](const Tensor& t) { return t.narrow(0, offset, width); };
        const std::string official = "prompt_proj_" + std::to_string(group) + ".";
        bindings.bind(official + "weight", tensor_of(*mope, "mapper.projection.weight"), {}, slice);
        bindings.bind(official + "bias", tensor_of(*mope, "mapper.projection.bias"), {}, slice);
        offset += width;
      }
      golden.ignore("weight.prompt_proj_");  // a model of few layers has groups that none of them belongs to
    }
    expert = std::move(mope);
  } else {
    expert = deep_prompts(golden, "prompt_vector", *backbone, bindings);
  }
  const auto head = head_of(golden, "heads", bindings);
  const Watches watches = watch_bert(golden, *backbone);
  const backbones::ModelOutputs outputs = backbone->forward(text_of(golden), context);
  const Tensor cls = backbones::pool(outputs, backbones::Pooling::first);
  golden.compare("out.cls", cls);
  const Tensor logits = logits_of(*head, cls);
  golden.compare("out.logits", logits);
  const Tensor loss = task_loss(golden, logits);
  golden.compare("loss.total", loss);
  loss.backward();
  bindings.compare_gradients();
  if (feature.defined()) golden.compare("grad.input.vision_feature", feature.grad());
  if (scores.defined()) golden.compare("grad.input.route_score", scores.grad());
}

void swin_stack(Case& golden) {
  const auto backbone = official_swin(golden, "encoder.");
  const Tensor y = leaf_of(golden, "input.text_feature");
  MopeOptions options = swin_options(golden, y.size(1));
  Tensor scores;
  if (golden.has("input.route_score")) {
    scores = leaf_of(golden, "input.route_score");
    options.variant = MopeVariant::cross_only;
    options.mapper = MopeMapper::Kind::linear;  // y is the mapper's hidden feature already
    options.importance_weight = 0;
  }
  at::Generator generator = at::detail::createCPUGenerator(1);
  Mope mope(options, *backbone, generator);
  Bindings bindings(golden);
  bind_swin_mope(golden, "encoder.", mope, bindings);
  for (const char* list : {"trainable_without_gradient", "frozen"})
    for (const Json& name : golden.json().at(list))
      // What a block that makes no prompts holds for its router; the earlier variant uses none of the later one's.
      if (name.get<std::string>().find("mm_") != std::string::npos) golden.ignore("weight." + name.get<std::string>());
  if (scores.defined()) {
    golden.ignore("weight.encoder.mm_");
    golden.ignore("buffer.encoder.mm_");
    // The learned input prompts are replaced before any block sees them; we have none.
    golden.ignore("weight.encoder.prompt_embeddings");
    golden.compare("grad.encoder.prompt_embeddings", at::zeros_like(golden.take("weight.encoder.prompt_embeddings")));
    const std::vector<nn::SequenceSite*>& sites = backbone->sites().sequences;
    mope.set_probe({.scores = [&scores, &mope, depth = golden.config_list("depths").front(), sites](std::size_t block, const Tensor&) {
      // The blocks of the first stage share a gate.
      const std::int64_t layer = sites[block]->layer;
      return scores.select(1, layer < depth ? 0 : layer - 1);
    }});
  } else {
    replay_noise(golden, *backbone, mope);
  }
  const auto head = head_of(golden, "classifier", bindings);
  const Watches watches = watch_swin(golden, *backbone);
  compare_shift_masks(golden, "encoder.");
  const Tensor logits = compare_picture_tower(golden, *backbone, mope, y, *head);
  Tensor total = task_loss(golden, logits);
  golden.compare("loss.task", total);
  if (!scores.defined()) {
    golden.compare("loss.importance", mope.importance());
    total = with_importance(mope, total);
  }
  golden.compare("loss.total", total);
  total.backward();
  bindings.compare_gradients();
  golden.compare("grad.input.text_feature", y.grad());
  if (scores.defined()) golden.compare("grad.input.route_score", scores.grad());
}

namespace {

/// A number that the JSON's equations give, like "lr 4e-4 vision group".
double stated(const Case& golden, const std::string& pattern, double otherwise) {
  const std::string equations = golden.json().at("equations").dump();
  std::smatch found;
  return std::regex_search(equations, found, std::regex(pattern)) ? std::stod(found[1].str()) : otherwise;
}

/// One clipped AdamW step from the stored gradients.
void optimiser_step(Case& golden, const experts::Expert& picture, const experts::Expert& text, const train::Head& head,
                    Bindings& bindings) {
  const std::string number = "([0-9.]+e?-?[0-9]*)";
  const double lr = stated(golden, "lr " + number + " vision", 4e-4), text_lr = stated(golden, number + " text group", 5e-4);
  const double decay = stated(golden, "weight decay " + number, 1e-3);
  nn::Parameters parameters;
  const auto add = [&parameters](const std::string& prefix, const std::vector<nn::NamedTensor>& tensors) {
    for (const nn::NamedTensor& item : tensors)
      if (item.tensor.requires_grad()) parameters.add(prefix + item.name, item.tensor);
  };
  add("picture.", picture.tensors());
  add("text.", text.tensors());
  add("head.", head.tensors());
  train::TrainSection section;
  section.lr = lr;
  section.weight_decay = decay;
  section.groups = {{.pattern = "text.*", .lr_scale = text_lr / lr, .weight_decay = decay}, {.pattern = "*", .weight_decay = decay}};
  std::vector<train::OptimiserGroup> groups = train::flatten_into_groups(parameters, section);
  const auto optimiser = train::make_optimiser(section, parameters, std::move(groups));
  bindings.load_gradients();
  const double norm = train::clip_gradient(parameters.gradients(), stated(golden, "gradient norm to " + number, 1.0));
  golden.compare("mid.grad_global_norm", at::scalar_tensor(norm, at::kFloat));
  optimiser->step(0, lr);
  bindings.compare_after_step(
      [=](const std::string& official) { return 1.0 - decay * (official.starts_with("text_model.") ? text_lr : lr); });
}

}  // namespace

void whole_classifier(Case& golden) {
  const auto text = official_bert(golden, "text_model.bert_encoder.");
  const auto picture = official_swin(golden, "vision_model.encoder.");
  Bindings bindings(golden);
  const auto prompts = deep_prompts(golden, "text_model.prompt_vector", *text, bindings);
  at::Generator generator = at::detail::createCPUGenerator(1);
  Mope mope(swin_options(golden, text->info().width), *picture, generator);
  bind_swin_mope(golden, "vision_model.encoder.", mope, bindings);
  replay_noise(golden, *picture, mope);
  const auto head = head_of(golden, "vision_model.classifier", bindings);
  for (const char* list : {"trainable_without_gradient", "frozen"})
    for (const Json& name : golden.json().at(list))
      if (name.get<std::string>().find("mm_") != std::string::npos || name.get<std::string>().starts_with("text_model."))
        golden.ignore("weight." + name.get<std::string>());
  compare_shift_masks(golden, "vision_model.encoder.");

  const Watches text_watches = watch_bert(golden, *text), picture_watches = watch_swin(golden, *picture);
  const Tensor y = backbones::pool(text->forward(text_of(golden), {}), backbones::Pooling::first);
  golden.compare("out.text_feature", y);
  const Tensor logits = compare_picture_tower(golden, *picture, mope, y, *head);
  const Tensor task = task_loss(golden, logits), total = with_importance(mope, task);
  golden.compare("loss.task", task);
  golden.compare("loss.importance", mope.importance());
  golden.compare("loss.total", total);
  total.backward();
  bindings.compare_gradients();
  optimiser_step(golden, mope, *prompts, *head, bindings);
}

}  // namespace mmtune::golden
