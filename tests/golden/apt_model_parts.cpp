#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <unistd.h>

#include "apt_models.h"
#include "core/error.h"
#include "core/files.h"
#include "experts/apt.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "nn/weights.h"
#include "train/optimiser.h"

namespace mmtune::golden {

using at::Tensor;

const Json& settings_of(const Case& golden) {
  const Json& config = golden.json().at("config");
  return config.contains("model_config") ? config.at("model_config") : config;
}

OfficialFolder::OfficialFolder(Case& golden, const Json& config)
    : path_(std::filesystem::temp_directory_path() / ("mmtune-golden-" + std::to_string(::getpid()) + "-" + golden.name())) {
  std::filesystem::create_directories(path_);
  write_file_atomically(path_ / "config.json", config.dump());
  std::vector<Tensor> kept;
  std::vector<io::TensorEntry> entries;
  for (const std::string& name : golden.names("w.")) {
    kept.push_back(golden.take(name).contiguous());
    entries.push_back(nn::to_entry(name.substr(2), kept.back()));
  }
  io::write_safetensors(path_ / "model.safetensors", entries);
}

OfficialFolder::~OfficialFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

OfficialModel::OfficialModel(Case& golden, const Json& config)
    : golden_(golden), folder_(golden, config), backbone_(backbones::open_backbone(io::Checkpoint::open(folder_.path()))) {}

Tensor OfficialModel::leaf(const std::string& official) {
  Tensor& leaf = leaves_[official];
  if (!leaf.defined()) leaf = golden_.take("w." + official).clone().requires_grad_(true);
  return leaf;
}

void OfficialModel::free(const std::string& slot, const std::string& official) {
  for (const nn::TensorSlot& one : backbone_->sites().tensors) {
    if (one.name != slot) continue;
    *one.tensor = leaf(official);
    return;
  }
  throw Error({.what = "the backbone has no such tensor", .where = golden_.name(), .got = slot});
}

void OfficialModel::attach_apt(bool learn_scale, const std::function<std::string(const std::string&)>& official_site) {
  constexpr std::string_view own = ".APT.";
  std::string some;
  for (const std::string& name : golden_.names("w."))
    if (name.ends_with("APT.mm_tokens")) some = name.substr(0, name.size() - std::string("mm_tokens").size());
  if (some.empty()) return;
  experts::AptOptions options;
  options.prompts = golden_.take(some + "mm_tokens").size(0);
  options.rank = golden_.take(some + "mm.0.weight").size(0);
  options.learn_scale = learn_scale;
  at::Generator generator = at::detail::createCPUGenerator(1);
  experts_.push_back(std::make_unique<experts::Apt>(options, *backbone_, generator));
  for (const nn::NamedTensor& item : experts_.back()->tensors()) {
    const std::size_t at = item.name.find(own);
    if (at == std::string::npos) throw Error({.what = "an unexpected tensor", .where = golden_.name(), .got = item.name});
    const std::string official = official_site(item.name.substr(0, at)) + item.name.substr(at);
    const at::NoGradGuard no_grad;
    Tensor target = item.tensor;
    target.copy_(golden_.take("w." + official));
    if (item.tensor.requires_grad()) leaves_[official] = item.tensor;
  }
}

void OfficialModel::attach_prompts(const std::string& official) {
  const Tensor table = golden_.take("w." + official);
  const bool deep = table.size(0) > 1 || backbone_->info().layers == 1;
  const auto recipe = experts::expert_recipe("prompt");
  recipe->read_config({{"peft_type", deep ? "MMTUNE_DEEP_PROMPT" : "MMTUNE_PROMPT"}, {"num_virtual_tokens", table.size(2)}},
                      golden_.name());
  experts_.push_back(recipe->build(*backbone_, at::detail::createCPUGenerator(1)));
  std::vector<Tensor> parts;
  for (const nn::NamedTensor& item : experts_.back()->tensors()) parts.push_back(item.tensor);
  if (static_cast<std::int64_t>(parts.size()) != table.size(0)) throw Error({.what = "prompts for other blocks", .where = golden_.name()});
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parts.size(); ++i) parts[i].copy_(table[static_cast<std::int64_t>(i)][0]);
  gathered_[official] = [parts] {
    std::vector<Tensor> gradients;
    for (const Tensor& part : parts) gradients.push_back(part.grad());
    return at::stack(gradients).unsqueeze(1);
  };
}

Tensor OfficialModel::mlp_head(const std::string& prefix, const Tensor& features) {
  const Tensor inner = at::linear(features, leaf(prefix + ".0.weight"), leaf(prefix + ".0.bias"));
  const Tensor normed = at::layer_norm(inner, {inner.size(1)}, leaf(prefix + ".1.weight"), leaf(prefix + ".1.bias"), 1e-5);
  return at::linear(at::gelu(normed), leaf(prefix + ".3.weight"), leaf(prefix + ".3.bias"));
}

Tensor OfficialModel::linear_head(const std::string& prefix, const Tensor& features) {
  return at::linear(features, leaf(prefix + ".weight"), leaf(prefix + ".bias"));
}

void OfficialModel::compare_gradients() {
  // What is zero in exact arithmetic is rounding noise in both.
  constexpr double noise = 1e-6;
  for (const std::string& name : golden_.names("grad.")) {
    const std::string official = name.substr(std::string("grad.").size());
    Tensor gradient;
    if (const auto several = gathered_.find(official); several != gathered_.end()) {
      gradient = several->second();
    } else if (const auto one = leaves_.find(official); one != leaves_.end()) {
      gradient = one->second.grad().defined() ? one->second.grad() : at::zeros_like(one->second);
    } else {
      golden_.fail(name + ": nothing of ours is trained in its place");
      continue;
    }
    const Tensor reference = golden_.take(name);
    if (reference.abs().max().item<double>() < noise) {
      if (gradient.abs().max().item<double>() > noise) golden_.fail(name + ": not zero");
      continue;
    }
    golden_.compare(name, gradient);
  }
}

void OfficialModel::compare_training(const std::function<Tensor()>& loss) {
  loss();  // makes all leaves
  train::TrainSection section;
  const Json& config = golden_.json().at("config");
  section.lr = config.at("learning_rate").get<double>();
  section.beta1 = config.at("betas").at(0).get<double>();
  section.beta2 = config.at("betas").at(1).get<double>();
  section.eps = config.at("eps").get<double>();
  section.optimizer = train::OptimiserKind::adamw_late_decay;
  nn::Parameters parameters;
  for (const Json& group : golden_.json().at("param_groups")) {
    for (const Json& one : group.at("params")) {
      const std::string name = one.at("name").get<std::string>();
      if (!one.value("trainable", true) || !leaves_.contains(name)) continue;
      parameters.add(name, leaves_.at(name));
      section.groups.push_back(
          {.pattern = name, .lr_scale = group.at("lr").get<double>() / section.lr, .weight_decay = group.at("weight_decay").get<double>()});
    }
  }
  std::vector<train::OptimiserGroup> groups = train::flatten_into_groups(parameters, section);
  const auto optimiser = train::make_optimiser(section, parameters, std::move(groups));
  // The rates are the original schedule's; the groups' factors must be ours.
  const Tensor rates = golden_.take("out.lrs");
  for (std::int64_t group = 0; group < rates.size(1); ++group) {
    const double factor = golden_.json().at("param_groups").at(static_cast<std::size_t>(group)).at("lr").get<double>() / section.lr;
    if (!at::allclose(rates.select(1, group), rates.select(1, 0) * factor, 1e-5, 0)) golden_.fail("out.lrs: groups with other factors");
  }
  std::vector<Tensor> losses;
  for (std::int64_t step = 0; step < rates.size(0); ++step) {
    parameters.gradients().zero_();
    const Tensor value = loss();
    value.backward();
    losses.push_back(value.detach().view({1}));
    optimiser->step(step, rates[step][0].item<double>());
    const std::string prefix = "out.step" + std::to_string(step + 1) + ".";
    for (const std::string& name : golden_.names(prefix)) {
      const auto one = leaves_.find(name.substr(prefix.size()));
      if (one == leaves_.end()) {
        golden_.fail(name + ": nothing of ours is trained in its place");
      } else {
        golden_.compare(name, one->second.detach());
      }
    }
  }
  golden_.compare("out.losses", at::cat(losses));
}

BlockWatch::BlockWatch(nn::SequenceSite& site, Seen entering, Seen leaving)
    : site_(site), inner_(site.hook), entering_(std::move(entering)), leaving_(std::move(leaving)) {
  site.hook = this;
}

BlockWatch::~BlockWatch() {
  site_.hook = inner_;
}

void BlockWatch::before_block(nn::Tokens& tokens, const nn::Context& context) {
  if (inner_ != nullptr) inner_->before_block(tokens, context);
  if (entering_) entering_(tokens);
}

void BlockWatch::after_block(nn::Tokens& tokens, const nn::Context& context) {
  if (leaving_) leaving_(tokens);
  if (inner_ != nullptr) inner_->after_block(tokens, context);
}

class AttentionWatch::Tap final : public nn::SublayerHook {
 public:
  Tap(std::string site, bool behind, Seen seen) : site_(std::move(site)), behind_(behind), seen_(std::move(seen)) {}
  Tensor apply(const Tensor& output, const Tensor&, const nn::Layout&, const nn::Context&) override {
    seen_(site_, output, behind_);
    return output;
  }

 private:
  std::string site_;
  bool behind_;
  Seen seen_;
};

AttentionWatch::AttentionWatch(backbones::Backbone& backbone, const Seen& seen) {
  for (nn::SublayerSite* site : backbone.sites().sublayers) {
    if (site->role == nn::SublayerSite::Role::feed_forward) continue;
    sites_.push_back(site);
    for (const bool behind : {false, true}) {
      taps_.push_back(std::make_unique<Tap>(site->name, behind, seen));
      site->hooks.insert(behind ? site->hooks.end() : site->hooks.begin(), taps_.back().get());
    }
  }
}

AttentionWatch::~AttentionWatch() {
  for (nn::SublayerSite* site : sites_) {
    site->hooks.erase(site->hooks.begin());
    site->hooks.pop_back();
  }
}

Tensor answer_loss(const Tensor& logits, const Tensor& targets) {
  return at::binary_cross_entropy_with_logits(logits, targets) * targets.size(1);
}

Tensor as_batch(const Tensor& rows, std::int64_t batch) {
  std::vector<std::int64_t> shape = rows.sizes().vec();
  shape.front() /= batch;
  shape.insert(shape.begin(), batch);
  return rows.reshape(shape);
}

}  // namespace mmtune::golden
