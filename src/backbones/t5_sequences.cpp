// T5 as a model that answers.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <utility>

#include "backbones/chosen_rows.h"
#include "backbones/t5.h"
#include "core/error.h"

namespace mmtune::backbones {

void T5::set_noise(const SequenceNoise& noise) {
  if (noise.dropout > 0 || noise.drop_path > 0)
    throw UsageError({.what = "this backbone has no noise of its own",
                      .where = "generate.dropout, generate.drop_path",
                      .expected = "0 for T5",
                      .hint = "experts have a dropout"});
}

T5::Encoded T5::encode_chosen(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const nn::Context& context) const {
  const Encoded encoded = encode_inputs(inputs, context);
  Sequences chosen = chosen_sequences(encoded.rows, encoded.layout, rows);
  return {.rows = std::move(chosen.rows), .layout = std::move(chosen.layout)};
}

at::Tensor T5::taught(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said, const at::Tensor& wanted,
                      const nn::Context& context) {
  const Encoded encoded = encode_chosen(inputs, rows, context);
  // What stands behind an answer is not seen by what stands before it, so that no mask is needed.
  const at::Tensor states = decode(said, {}, encoded.rows, encoded.layout, context);
  const at::Tensor places = nn::beside(wanted.flatten().nonzero().squeeze(1), states);
  // Squares of gradients want as many rows of every example, the head's too.
  if (context.examples > 0) return logits(states, context).index_select(0, places);
  return logits(states.index_select(0, places), context);
}

std::unique_ptr<CachedDecoder> T5::begin(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const nn::Context& context) {
  const at::NoGradGuard no_grad;
  const Encoded encoded = encode_chosen(inputs, rows, context);
  return decoder(encoded.rows, encoded.layout, context);
}

}  // namespace mmtune::backbones
