#include "experts/visual_prompt.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "core/error.h"
#include "experts/kinds.h"

namespace mmtune::experts {

VisualPrompt::VisualPrompt(PixelPrompt prompt, const ChannelNorm& norm, nn::InputSite* site, std::int64_t seed)
    : prompt_(std::move(prompt)), norm_(norm), site_(site), generator_(at::detail::createCPUGenerator(static_cast<std::uint64_t>(seed))) {
  if (prompt_.shape().form == PromptForm::border) mask_ = prompt_.masks().front();
  if (site_ != nullptr) set_enabled(true);
}

VisualPrompt::~VisualPrompt() {
  if (site_ != nullptr) set_enabled(false);
}

Json VisualPrompt::config() const {
  const PromptShape& shape = prompt_.shape();
  return {{"peft_type", "MMTUNE_VISUAL_PROMPT"}, {"form", name_of(shape.form)}, {"frame", shape.frame},  {"width", shape.width},
          {"image_size", shape.image},           {"image_mean", norm_.mean},    {"image_std", norm_.std}};
}

void VisualPrompt::set_enabled(bool enabled) {
  if (enabled == enabled_) return;
  MMTUNE_ASSERT(site_ != nullptr);
  if (enabled && site_->hook != nullptr) throw Error({.what = "another expert changes these pixels already", .where = site_->name});
  site_->hook = enabled ? this : nullptr;
  enabled_ = enabled;
}

at::Tensor VisualPrompt::apply(const at::Tensor& pixels, const nn::Context& context) {
  const PromptShape& shape = prompt_.shape();
  const at::Tensor mean = norm_.mean_tensor().to(pixels.device()), std = norm_.std_tensor().to(pixels.device());
  // Resizing keeps sums of weights, so that it may come before or behind normalisation.
  at::Tensor shown = pixels * std + mean;
  if (shape.image != pixels.size(-1) || shape.image != pixels.size(-2))
    shown = at::_upsample_bicubic2d_aa(shown, {shape.image, shape.image}, false);
  const at::Tensor picture = framed(shown, shape.frame);
  if (!shape.before_normalisation()) {
    at::Generator generator = context.generator && context.generator->device().is_cpu() ? *context.generator : generator_;
    return prompt_.input(picture, norm_, pixels.size(-1), prompt_.draw_place(generator));
  }
  // Outside the border nothing learns: the optimisers of `mmtune train` know no mask.
  const at::Tensor delta = prompt_.tensors().front().tensor;
  const at::Tensor added = mask_.defined() ? delta * mask_.to(delta.device()) : delta;
  return (resized_to(picture + added, pixels.size(-1)) - mean) / std;
}

namespace {

struct Options {
  PromptForm form = PromptForm::border;
  std::optional<std::int64_t> frame, width, image_size;
  std::vector<double> mean{clip_norm.mean.begin(), clip_norm.mean.end()}, std{clip_norm.std.begin(), clip_norm.std.end()};
  std::string start;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "visual_prompt"; }
  std::string_view summary() const override { return "pixels around or on every picture (visual prompting; TVP's border)"; }

  void declare(OptionVisitor& v) override {
    v.choice("form", options_.form,
             {{"border", PromptForm::border, "a border around the picture, in pixel units (TVP, EVP)"},
              {"full", PromptForm::full, "the whole frame, in pixel units"},
              {"vp_padding", PromptForm::vp_padding, "four strips on the normalised picture (VP)"},
              {"vp_fixed_patch", PromptForm::vp_fixed_patch, "a patch in its upper left corner (VP)"},
              {"vp_random_patch", PromptForm::vp_random_patch, "a patch at a place drawn for every batch (VP)"}},
             {.help = "what is learned"});
    v.field("frame", options_.frame, {.help = "side of the prompted picture", .min = 1, .unset = "the backbone's"});
    v.field("width", options_.width, {.help = "of the border, the strips or the patch", .min = 1, .unset = "30/224 of the frame"});
    v.field("image_size", options_.image_size,
            {.help = "side of the picture inside the border; more than frame - 2 width: the border covers some of it",
             .min = 1,
             .unset = "frame - 2 width"});
    v.field("image_mean", options_.mean,
            {.help = "what the backbone's pictures are normalised by (default: CLIP's)", .min = -100, .max = 100, .min_items = 3});
    v.field("image_std", options_.std, {.help = "the same, deviations", .max = 100, .above = 0, .min_items = 3});
    v.field("start", options_.start, {.help = "a prompt to begin with: a run, an expert's folder or a .safetensors file"});
    v.require("image_mean", options_.mean.size() == 3, "three numbers");
    v.require("image_std", options_.std.size() == 3, "three numbers");
  }

  std::vector<std::string*> paths() override { return {&options_.start}; }

  void read_config(const Json& config, const std::string& where) override {
    std::string form(name_of(options_.form));
    read(config, where, "form", form);
    options_.form = prompt_form_named(form, where);
    const PromptShape usual = PromptShape::usual(options_.form, 224);
    std::int64_t frame = usual.frame, width = usual.width, image = usual.image;
    read(config, where, "frame", frame);
    read(config, where, "width", width);
    read(config, where, "image_size", image);
    options_.frame = frame;
    options_.width = width;
    options_.image_size = image;
    for (const auto& [key, values] : {std::pair{"image_mean", &options_.mean}, std::pair{"image_std", &options_.std}}) {
      const auto found = config.find(key);
      if (found == config.end()) continue;
      const bool numbers = found->is_array() && found->size() == 3 &&
                           std::all_of(found->begin(), found->end(), [](const Json& one) { return one.is_number(); });
      if (!numbers) throw Error({.what = std::string("key \"") + key + "\" is not three numbers", .where = where});
      *values = found->get<std::vector<double>>();
    }
  }

  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    nn::InputSite* site = nullptr;
    for (nn::InputSite* one : backbone.sites().inputs)
      if (one->name == "pixel_values") site = one;
    const backbones::BackboneInfo& info = backbone.info();
    if (site == nullptr || info.image_channels != 3 || info.any_image_size || info.image_height != info.image_width)
      throw UsageError({.what = "a visual prompt needs a backbone that reads square colour pictures of one size",
                        .where = "expert.method = \"visual_prompt\"",
                        .expected = "ViT, Swin, CLIP",
                        .got = info.architecture});
    ChannelNorm norm{};
    std::copy(options_.mean.begin(), options_.mean.end(), norm.mean.begin());
    std::copy(options_.std.begin(), options_.std.end(), norm.std.begin());
    const auto make = [&](PixelPrompt prompt) { return std::make_unique<VisualPrompt>(std::move(prompt), norm, site, 0); };
    if (!options_.start.empty()) return make(load_prompt(options_.start).prompt);
    PromptShape shape = PromptShape::usual(options_.form, options_.frame.value_or(info.image_height));
    if (options_.width) {
      shape.width = *options_.width;
      if (shape.form == PromptForm::border) shape.image = shape.frame - 2 * shape.width;
    }
    if (options_.image_size) shape.image = *options_.image_size;
    check(shape, "expert.");
    return make(PixelPrompt(shape, std::move(generator)));
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> visual_prompt_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
