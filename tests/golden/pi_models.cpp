// Cases of pi-Tuning over whole models: embeddings and the graph, averages of adapters and prefixes, their training, the loss between them.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "core/error.h"
#include "methods/task_graph.h"
#include "pi_support.h"
#include "train/explain_pi.h"
#include "train/optimiser.h"
#include "train/token_loss.h"

namespace mmtune::golden {

namespace {

using at::Tensor;
using backbones::Ofa;

/// A batch of words in, words so far, words wanted.
struct Texts {
  Tensor source, before, target;
  std::int64_t tokens() const { return target.ne(1).sum().item<std::int64_t>(); }
};

Texts texts_of(Case& golden, const std::string& prefix = "in.") {
  return {golden.take(prefix + "src_tokens"), golden.take(prefix + "prev_output_tokens"), golden.take(prefix + "target")};
}

Texts part(const Texts& texts, std::int64_t first, std::int64_t count) {
  return {texts.source.narrow(0, first, count), texts.before.narrow(0, first, count), texts.target.narrow(0, first, count)};
}

/// Without columns of padding alone, as rows collated by themselves would be.
Tensor trimmed(const Tensor& words) {
  std::int64_t length = words.size(1);
  while (length > 1 && words.select(1, length - 1).eq(1).all().item<bool>()) --length;
  return words.narrow(1, 0, length);
}

Tensor logits_of(Ofa& ofa, const Texts& texts, const nn::Context& context = {}) {
  return ofa.decode(texts.before, ofa.encode({.words = texts.source, .pictures = {}, .picture_there = {}}, context), context);
}

train::TokenLoss loss_of(const Tensor& logits, const Texts& texts, double smoothing) {
  return train::token_loss(logits.reshape({-1, logits.size(2)}), texts.target.reshape({-1}), {.smoothing = smoothing});
}

Tensor number(double value) {
  return at::tensor({value}, at::kDouble);
}

// ---------------------------------------------------------------------------------------------------------------------- task graph

void fill_adapter(Case& golden, const experts::Expert& adapter, const std::string& prefix) {
  const at::NoGradGuard no_grad;
  for (const nn::NamedTensor& one : adapter.tensors()) {
    Tensor target = one.tensor;
    target.copy_(golden.take(prefix + official_adapter(one.name)));
    target.mutable_grad() = Tensor();
  }
}

std::vector<Tensor> take_gradients(const experts::Expert& expert) {
  std::vector<Tensor> gradients;
  for (const nn::NamedTensor& one : expert.tensors()) {
    Tensor tensor = one.tensor;
    gradients.push_back(tensor.grad().clone());
    tensor.mutable_grad() = Tensor();
  }
  return gradients;
}

using Diagonals = std::vector<std::vector<Tensor>>;  // [task][component]

void compare_graph(Case& golden, const Diagonals& diagonals, const std::vector<std::string>& names, const std::string& suffix) {
  const auto tasks = static_cast<std::int64_t>(diagonals.size()), components = static_cast<std::int64_t>(names.size());
  std::vector<std::vector<methods::ComponentView>> views;
  for (const std::vector<Tensor>& task : diagonals) {
    views.emplace_back();
    for (std::size_t c = 0; c < task.size(); ++c)
      views.back().push_back({names[c], task[c].sizes().vec(), task[c].const_data_ptr<float>(), task[c].numel()});
  }
  Tensor similarity = at::eye(tasks, at::kDouble), cosine = at::eye(tasks, at::kDouble);
  Tensor by_component = at::ones({components, tasks, tasks}, at::kDouble);
  for (std::int64_t i = 0; i < tasks; ++i)
    for (std::int64_t j = 0; j < tasks; ++j) {
      if (i == j) continue;
      const methods::PairSimilarity pair = methods::compare(views[static_cast<std::size_t>(i)], views[static_cast<std::size_t>(j)]);
      similarity[i][j] = pair.similarity;
      cosine[i][j] = pair.cosine;
      for (std::int64_t c = 0; c < components; ++c) by_component[c][i][j] = pair.components[static_cast<std::size_t>(c)].value;
    }
  golden.compare("out.similarity" + suffix, similarity);
  Tensor neighbours = at::empty({tasks, tasks - 1}, at::kLong);
  for (std::int64_t i = 0; i < tasks; ++i) {
    const Tensor order = std::get<1>(similarity[i].sort(true, 0, true));
    neighbours[i].copy_(order.masked_select(order.ne(i)));
  }
  golden.compare("out.neighbours" + suffix, neighbours);
  if (!suffix.empty()) return;
  golden.compare("out.similarity_components", by_component);
  golden.compare("out.plain_cosine", cosine);
}

void run_graph(Case& golden) {
  const auto ofa = official_ofa(golden);
  const std::int64_t batch = golden.config("fisher_batch"), count = golden.config("samples_per_task");
  const double smoothing = golden.config_number("label_smoothing");
  const auto recipe = experts::expert_recipe("adapter");
  recipe->read_config({{"bottleneck", golden.config("adapter_dim")}, {"activation", "relu"}}, "golden");
  const auto adapter = recipe->build(*ofa, at::detail::createCPUGenerator(1));
  const std::vector<nn::NamedTensor> tensors = adapter->tensors();
  // Components in the case's own order.
  const auto order = golden.json().at("config").at("components").get<std::vector<std::string>>();
  Diagonals released, single;
  for (std::size_t task = 0; golden.has("task" + std::to_string(task) + ".in.target"); ++task) {
    const std::string prefix = "task" + std::to_string(task) + ".";
    fill_adapter(golden, *adapter, prefix + "w.");
    const Texts texts = texts_of(golden, prefix + "in.");
    // As released: the gradients of whole micro-batches, squared.
    std::map<std::string, Tensor> sums, squares;
    std::vector<double> batch_losses, sample_losses;
    for (std::int64_t first = 0; first < count; first += batch) {
      const Texts own = part(texts, first, std::min(batch, count - first));
      const Texts narrow{trimmed(own.source), trimmed(own.before), trimmed(own.target)};
      const Tensor logits = logits_of(*ofa, narrow);
      if (first == 0) golden.compare(prefix + "logits_first_batch", logits);
      const Tensor loss = loss_of(logits, narrow, smoothing).loss;
      loss.backward();
      batch_losses.push_back(loss.item<double>());
      const std::vector<Tensor> gradients = take_gradients(*adapter);
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        Tensor& sum = sums[official_adapter(tensors[i].name)];
        sum = sum.defined() ? sum + gradients[i].square() : gradients[i].square();
      }
    }
    // By example: one pass over all of them, squared in closed form.
    const Tensor logits = logits_of(*ofa, texts, {.examples = count});
    loss_of(logits, texts, smoothing).loss.backward();
    const std::vector<Tensor> closed = take_gradients(*adapter);
    for (std::size_t i = 0; i < tensors.size(); ++i) squares[official_adapter(tensors[i].name)] = closed[i];
    for (std::int64_t e = 0; e < count; ++e)
      sample_losses.push_back(loss_of(logits.detach().narrow(0, e, 1), part(texts, e, 1), smoothing).loss.item<double>());
    golden.compare(prefix + "batch_loss", at::tensor(batch_losses, at::kDouble));
    golden.compare(prefix + "sample_loss", at::tensor(sample_losses, at::kDouble));
    released.emplace_back();
    single.emplace_back();
    for (const std::string& name : order) {
      released.back().push_back(sums.at(name) / static_cast<double>(golden.config("normaliser")));
      single.back().push_back(squares.at(name) / static_cast<double>(golden.config("normaliser_b1")));
      golden.compare(prefix + "fisher." + name, released.back().back());
      golden.compare(prefix + "fisher_b1." + name, single.back().back());
    }
  }
  compare_graph(golden, released, order, "");
  compare_graph(golden, single, order, "_b1");
}

// ------------------------------------------------------------------------------------------------------------------------ prefixes

void run_prefixes(Case& golden) {
  const auto ofa = official_ofa(golden);
  const std::int64_t count = golden.config("k");
  const std::vector<nn::KeyValueSite*> all = ofa->sites().keys_values;
  std::vector<std::unique_ptr<experts::Interpolated>> averages;
  for (const std::string side : {"encoder", "decoder"}) {
    // The two stacks have prefixes of their own length: an expert each.
    std::vector<nn::KeyValueSite*>& sites = ofa->sites().keys_values;
    sites.clear();
    for (nn::KeyValueSite* site : all)
      if (site->name.starts_with(side)) sites.push_back(site);
    const Json config = {{"num_virtual_tokens", golden.config(side + "_prompt_length")}};
    std::vector<experts::InterpolationPart> parts;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::string official = "w." + side + "." + side + "_prompt_encoder." + std::to_string(i) + ".embedding.weight";
      parts.push_back({.task = std::to_string(i),
                       .folder = official,
                       .tensors = {{"prompt_embeddings", golden.take(official).clone()}},
                       .config = config,
                       .kind = "prefix"});
    }
    averages.push_back(std::make_unique<experts::Interpolated>(*ofa, std::move(parts), std::nullopt, experts::InterpolationOptions{}));
    const at::NoGradGuard no_grad;
    expert_tensor(*averages.back(), "coefficients").copy_(golden.take("w." + side + ".prompt_weight_scale"));
  }
  ofa->sites().keys_values = all;
  for (const auto& average : averages) average->before_pass({});
  const Texts texts = texts_of(golden);
  const Tensor logits = logits_of(*ofa, texts);
  const train::TokenLoss loss = loss_of(logits, texts, golden.config_number("label_smoothing"));
  loss.loss.backward();
  golden.compare("out.logits", logits);
  golden.compare("out.logits_merged", logits);
  golden.compare("loss", loss.loss.reshape({1}));
  golden.compare("out.ntokens", number(static_cast<double>(loss.tokens)));
  for (std::size_t s = 0; s < averages.size(); ++s) {
    const std::string side = s == 0 ? "encoder" : "decoder";
    experts::Interpolated& average = *averages[s];
    average.after_backward();
    golden.compare("merged." + side + "_prompt_embedding", average.kept().tensors().front().tensor);
    std::vector<Tensor> alphas;
    for (const std::vector<double>& row : average.coefficients()) alphas.push_back(at::tensor(row, at::kDouble));
    golden.compare("mid." + side + ".alpha", at::stack(alphas));
    golden.compare("grad." + side + ".prompt_weight_scale", expert_tensor(average, "coefficients").grad());
    for (std::int64_t i = 0; i < count; ++i)
      golden.compare("grad." + side + "." + side + "_prompt_encoder." + std::to_string(i) + ".embedding.weight",
                     expert_tensor(average, "prompt_embeddings.of_" + std::to_string(i)).grad());
  }
}

// ------------------------------------------------------------------------------------------------------------------------ training

void compare_average(Case& golden, const std::string& prefix, const experts::Interpolated& average, bool experts_too) {
  for (const nn::NamedTensor& one : average.tensors()) {
    if (one.name == "coefficients") {
      for (std::size_t s = 0; s < average.sites().size(); ++s)
        golden.compare(prefix + official_coefficients(average.sites()[s]), one.tensor.detach()[static_cast<std::int64_t>(s)]);
    } else if (experts_too) {
      const std::size_t of = one.name.rfind(".of_");
      golden.compare(prefix + official_adapter(one.name.substr(0, of), std::stoul(one.name.substr(of + 4))), one.tensor);
    }
  }
}

void run_training(Case& golden) {
  const auto ofa = official_ofa(golden);
  const auto average = official_average(golden, *ofa, golden.config("k"));
  nn::Parameters parameters;
  for (const nn::NamedTensor& one : average->tensors()) parameters.add(one.name, one.tensor);
  train::TrainSection section;
  section.lr = golden.config_number("lr");
  section.weight_decay = golden.config_number("weight_decay");
  // Biases and coefficients decay too.
  section.groups = {{.pattern = "*", .lr_scale = 1.0, .weight_decay = section.weight_decay}};
  const auto optimiser = train::make_optimiser(section, parameters, train::flatten_into_groups(parameters, section));
  const std::int64_t steps = golden.config("steps"), total = golden.config("total_updates");
  const auto warmup = static_cast<std::int64_t>(std::floor(golden.config_number("warmup_ratio") * static_cast<double>(total)));
  std::vector<double> losses, nlls, tokens, norms, rates;
  for (std::int64_t step = 0; step < steps; ++step) {
    const std::string own = "step" + std::to_string(step) + ".";
    const Texts texts = texts_of(golden, "in." + own);
    parameters.gradients().zero_();
    average->before_pass({});
    const train::TokenLoss loss = loss_of(logits_of(*ofa, texts), texts, golden.config_number("label_smoothing"));
    loss.loss.backward();
    average->after_backward();
    parameters.gradients().div_(static_cast<double>(loss.tokens));
    norms.push_back(train::clip_gradient(parameters.gradients(), golden.config_number("clip_norm")));
    // The released schedule: from 0 up to the rate, then down to 0 in a line.
    const double rate =
        section.lr * (step <= warmup && warmup > 0 ? static_cast<double>(step) / static_cast<double>(warmup)
                                                   : static_cast<double>(total - step) / static_cast<double>(total - warmup));
    optimiser->step(step, rate);
    losses.push_back(loss.loss.item<double>());
    nlls.push_back(loss.nll.item<double>());
    tokens.push_back(static_cast<double>(loss.tokens));
    rates.push_back(rate);
    compare_average(golden, "out." + own, *average, false);
  }
  golden.compare("out.loss", at::tensor(losses, at::kDouble));
  golden.compare("out.nll", at::tensor(nlls, at::kDouble));
  golden.compare("out.ntokens", at::tensor(tokens, at::kDouble));
  golden.compare("out.grad_norm", at::tensor(norms, at::kDouble));
  golden.compare("out.lr", at::tensor(rates, at::kDouble));
  compare_average(golden, "final.", *average, true);
}

// ----------------------------------------------------------------------------------------------------------------------- landscape

void run_landscape(Case& golden) {
  const auto ofa = official_ofa(golden);
  const Json config = {{"bottleneck", golden.config("adapter_dim")}, {"activation", "relu"}};
  const std::vector<std::string> names = names_of_expert("adapter", config, *ofa);
  std::vector<experts::InterpolationPart> parts;
  for (std::size_t i = 0; golden.has("expert" + std::to_string(i) + "." + official_adapter(names.front())); ++i)
    parts.push_back(adapter_part(golden, names, config, i,
                                 [i](const std::string& name) { return "expert" + std::to_string(i) + "." + official_adapter(name); }));
  const std::size_t count = parts.size();
  experts::Interpolated average(*ofa, std::move(parts), std::nullopt, {});
  const Texts texts = texts_of(golden);
  const at::NoGradGuard no_grad;
  const auto loss_at = [&](std::vector<double> weights) {
    weights.resize(count, 0.0);
    average.fix(weights);
    const train::TokenLoss loss = loss_of(logits_of(*ofa, texts), texts, golden.config_number("label_smoothing"));
    return loss.loss.item<double>() / static_cast<double>(loss.tokens);
  };
  std::vector<double> alone, line, plane;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<double> weights(count, 0.0);
    weights[i] = 1;
    alone.push_back(loss_at(weights));
  }
  golden.compare("out.expert_losses", at::tensor(alone, at::kDouble));
  const Tensor steps = golden.take("in.line_alphas");
  for (std::int64_t i = 0; i < steps.size(0); ++i) {
    const auto alpha = steps[i].item<double>();
    line.push_back(loss_at({1 - alpha, alpha}));
  }
  golden.compare("out.line_losses", at::tensor(line, at::kDouble));
  const train::PlaneAxes axes = train::plane_axes(average.products(), 0, 1, 2);
  golden.compare("out.u_norm", number(axes.u_length));
  golden.compare("out.v_norm", number(axes.v_length));
  golden.compare("out.expert2_coordinate_on_u", number(axes.along * axes.u_length));
  const Tensor points = golden.take("in.plane_points");
  for (std::int64_t i = 0; i < points.size(0); ++i)
    plane.push_back(loss_at(axes.weights(points[i][0].item<double>(), points[i][1].item<double>())));
  golden.compare("out.plane_losses", at::tensor(plane, at::kDouble));
  golden.compare("out.soup_loss", number(loss_at(std::vector<double>(count, 1.0 / static_cast<double>(count)))));
}

}  // namespace

std::vector<Kind> pi_model_kinds() {
  return {{"task graph", [](const Case& c) { return c.has("out.neighbours"); }, run_graph},
          {"prefixes, averaged", [](const Case& c) { return c.has("w.encoder.prompt_weight_scale"); }, run_prefixes},
          {"training of an average", [](const Case& c) { return c.has("in.step0.target"); }, run_training},
          {"loss between experts", [](const Case& c) { return c.has("in.plane_points"); }, run_landscape}};
}

}  // namespace mmtune::golden
