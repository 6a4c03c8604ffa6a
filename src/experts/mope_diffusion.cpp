#include "experts/mope_diffusion.h"

#include <ATen/ATen.h>

#include <utility>

#include "core/error.h"
#include "experts/kinds.h"

namespace mmtune::experts {

std::map<std::int64_t, nn::SublayerSite*> attention_of_layers(backbones::Backbone& backbone) {
  std::map<std::int64_t, nn::SublayerSite*> attentions;
  std::map<std::int64_t, int> found;
  for (nn::SublayerSite* site : backbone.sites().sublayers) {
    if (site->role == nn::SublayerSite::Role::feed_forward) continue;
    attentions[site->layer] = site;
    ++found[site->layer];
  }
  for (const nn::SequenceSite* site : backbone.sites().sequences)
    if (found[site->layer] != 1)
      throw UsageError({.what = "prompts as a step beside the attention need layers with one attention each",
                        .where = "expert.prompt_form = \"apt\"",
                        .expected = "an encoder such as BERT, RoBERTa, ViT, CLIP's picture tower or Wav2Vec2",
                        .got = backbone.info().architecture + " (" + site->name + ")",
                        .hint = "use prompt_form = \"tokens\""});
  return attentions;
}

MopeDiffusion::MopeDiffusion(nn::SublayerSite& site, std::int64_t rank, at::Generator& generator) : site_(&site) {
  constexpr double init_std = 0.02;  // as APT's published models start
  first_ = normal_leaf({rank, site.width}, init_std, generator);
  second_ = normal_leaf({site.width, rank}, init_std, generator);
  scale_ = leaf(at::zeros({1}));
}

at::Tensor MopeDiffusion::apply(const at::Tensor& output, const at::Tensor& input, const nn::Layout& layout, const nn::Context&) {
  MMTUNE_ASSERT(prompts_.defined());
  const at::Tensor prompts = std::exchange(prompts_, {}), flat = prompts.flatten(0, 1);
  const at::Tensor keys = at::addmm(flat, flat.mm(first_.t()), second_.t()).view(prompts.sizes());
  return nn::diffuse(output, input, {.keys = keys, .values = prompts, .scale = scale_, .layout = &layout}, true);
}

std::vector<nn::NamedTensor> MopeDiffusion::tensors() const {
  return {{site_->name + ".APT.mm.0.weight", first_}, {site_->name + ".APT.mm.1.weight", second_}, {site_->name + ".APT.scale", scale_}};
}

std::int64_t MopeDiffusion::macs(std::int64_t rows, std::int64_t prompts) const {
  return 2 * prompts * site_->width * (rows + first_.size(0));
}

}  // namespace mmtune::experts
