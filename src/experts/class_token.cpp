// The row in front of every text of a fused model, learned: what the released code of APT trains beside its prompts ("token4classifier").
// It begins as the embedding of the checkpoint's own class token, so that nothing changes before training.

#include <ATen/ATen.h>

#include "core/error.h"
#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

class ClassToken final : public Expert {
 public:
  explicit ClassToken(nn::FirstTokenSite& site) : site_(&site), value_(leaf(site.usual.defined() ? site.usual : at::zeros({site.width}))) {
    set_enabled(true);
  }
  ~ClassToken() override { set_enabled(false); }

  std::string_view kind() const override { return "class_token"; }
  std::vector<nn::NamedTensor> tensors() const override { return {{site_->name, value_}}; }
  Json config() const override { return {{"peft_type", "MMTUNE_CLASS_TOKEN"}}; }
  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    if (enabled && site_->value.defined()) throw Error({.what = "another one is attached already", .where = site_->name});
    site_->value = enabled ? value_ : at::Tensor();
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  std::int64_t extra_macs(std::int64_t) const override { return 0; }

 private:
  nn::FirstTokenSite* site_;
  at::Tensor value_;
  bool enabled_ = false;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "class_token"; }
  std::string_view summary() const override { return "the embedding in front of every text (ViLT, METER)"; }
  void declare(OptionVisitor&) override {}
  void read_config(const Json&, const std::string&) override {}
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator) const override {
    if (backbone.sites().first_token == nullptr)
      throw UsageError({.what = "only a backbone that reads a text and a picture together has a class token to learn",
                        .where = "expert.method = \"class_token\"",
                        .expected = "ViLT or METER",
                        .got = backbone.info().architecture});
    return std::make_unique<ClassToken>(*backbone.sites().first_token);
  }
};

}  // namespace

std::unique_ptr<ExpertRecipe> class_token_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
