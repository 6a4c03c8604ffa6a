#include "experts/companions.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "experts/kinds.h"
#include "experts/peft_targets.h"
#include "experts/unfrozen.h"

namespace mmtune::experts {

namespace {

const std::vector<Choice<Biases>>& choices() {
  static const std::vector<Choice<Biases>> all = {{"none", Biases::none, "none of them"},
                                                  {"all", Biases::all, "every bias of the backbone"},
                                                  {"lora_only", Biases::lora_only, "those of the targets"}};
  return all;
}

std::string_view name_of(Biases bias) {
  return bias == Biases::none ? "none" : bias == Biases::all ? "all" : "lora_only";
}

std::string module_of(const std::string& tensor) {
  const std::size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? tensor : tensor.substr(0, dot);
}

class Accompanied final : public Expert {
 public:
  Accompanied(std::unique_ptr<Expert> expert, Biases bias, std::vector<std::string> saved, UnfrozenTensors tensors)
      : expert_(std::move(expert)), bias_(bias), saved_(std::move(saved)), unfrozen_(std::move(tensors)) {
    unfrozen_.put(true);
  }
  ~Accompanied() override { unfrozen_.put(false); }

  std::string_view kind() const override { return expert_->kind(); }
  std::vector<nn::NamedTensor> tensors() const override {
    std::vector<nn::NamedTensor> all = expert_->tensors();
    all.insert(all.end(), unfrozen_.tensors().begin(), unfrozen_.tensors().end());
    return all;
  }
  Json config() const override {
    Json config = expert_->config();
    if (bias_ != Biases::none) config["bias"] = name_of(bias_);
    if (!saved_.empty()) config["modules_to_save"] = saved_;
    return config;
  }
  void set_enabled(bool enabled) override {
    expert_->set_enabled(enabled);
    unfrozen_.put(enabled);
  }
  bool enabled() const override { return expert_->enabled(); }
  bool mergeable() const override { return expert_->mergeable(); }
  void before_pass(const nn::Context& context) override {
    expert_->before_pass(context);
    if (enabled()) unfrozen_.put_for(context);
  }
  bool squares_gradients() const override { return expert_->squares_gradients() && unfrozen_.squares_gradients(); }
  std::int64_t extra_macs(std::int64_t tokens) const override { return expert_->extra_macs(tokens); }

 private:
  std::unique_ptr<Expert> expert_;
  Biases bias_;
  std::vector<std::string> saved_;
  UnfrozenTensors unfrozen_;
};

}  // namespace

void Companions::declare(OptionVisitor& v, bool with_bias) {
  if (with_bias) v.choice("bias", bias, choices(), {.help = "biases of the backbone that are trained too"});
  v.field("modules_to_save", modules_to_save,
          {.help = "modules of the backbone that are trained whole beside it: names, or endings of names (\"pooler\")"});
}

void Companions::read_config(const Json& config, const std::string& where, bool with_bias) {
  read(config, where, "modules_to_save", modules_to_save);
  read(config, where, absent_key, absent);
  if (!with_bias) return;
  std::string name = "none";
  read(config, where, "bias", name);
  const auto found = std::find_if(choices().begin(), choices().end(), [&](const Choice<Biases>& one) { return one.name == name; });
  if (found == choices().end())
    throw Error({.what = "key \"bias\" is unknown", .where = where, .expected = "none, all or lora_only", .got = printable(name)});
  bias = found->value;
}

std::unique_ptr<Expert> Companions::around(std::unique_ptr<Expert> expert, backbones::Backbone& backbone,
                                           const std::vector<std::string>& targets) const {
  if (bias == Biases::none && modules_to_save.empty()) return expert;
  const std::set<std::string> adapted(targets.begin(), targets.end());
  std::vector<nn::TensorSlot> slots;
  std::vector<std::string> names;
  std::set<std::string> saved;
  for (const nn::TensorSlot& slot : backbone.sites().tensors) {
    if (std::find(absent.begin(), absent.end(), slot.name) != absent.end()) continue;
    const std::string module = module_of(slot.name);
    const bool whole =
        std::any_of(modules_to_save.begin(), modules_to_save.end(), [&](const std::string& ending) { return lies_in(module, ending); });
    const bool is_bias = slot.name.ends_with(".bias");
    const bool of_target = is_bias && adapted.contains(module);
    if (!whole && !(bias == Biases::all && is_bias) && !(bias == Biases::lora_only && of_target)) continue;
    slots.push_back(slot);
    names.push_back(of_target && !whole ? module + ".base_layer.bias" : slot.name);
    if (whole) saved.insert(module);
  }
  for (const std::string& ending : modules_to_save) {
    const bool any = std::any_of(saved.begin(), saved.end(), [&](const std::string& module) { return lies_in(module, ending); });
    if (any) continue;
    std::set<std::string> modules;
    for (const nn::TensorSlot& slot : backbone.sites().tensors) modules.insert(module_of(slot.name));
    nothing_chosen(ending, {modules.begin(), modules.end()}, "module", "expert.modules_to_save");
  }
  return std::make_unique<Accompanied>(std::move(expert), bias, std::vector<std::string>(saved.begin(), saved.end()),
                                       UnfrozenTensors(slots, names));
}

}  // namespace mmtune::experts
