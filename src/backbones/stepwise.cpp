#include "backbones/stepwise.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace mmtune::backbones {

void keep(nn::Tokens& tokens, StepRows wanted) {
  if (wanted == StepRows::all) return;
  if (wanted == StepRows::without_prompts) return tokens.remove_prompts();
  const std::int64_t batch = tokens.layout.batch(), count = tokens.prompt_count;
  tokens = {tokens.prompts().flatten(0, 1), nn::Layout::uniform(batch, count)};
}

const Stepwise& stepwise(const Backbone& backbone, const std::string& where) {
  if (const auto* const blocks = dynamic_cast<const Stepwise*>(&backbone)) return *blocks;
  throw UsageError({.what = "the backbone cannot be run block by block",
                    .where = where,
                    .expected = "BERT, RoBERTa, ViT or Wav2Vec2",
                    .got = backbone.info().architecture});
}

}  // namespace mmtune::backbones
