// What CachedDecoder asks of a causal language model.

#include <ATen/ATen.h>

#include "backbones/causal_lm.h"
#include "backbones/reading_decoder.h"

namespace mmtune::backbones {

namespace {

class CausalDecoder final : public ReadingDecoder {
 public:
  CausalDecoder(CausalLm& model, const LanguageRows& prompt, const nn::Context& context)
      : ReadingDecoder(prompt.layout.batch(), model.block_count()), model_(model), context_(context) {
    const at::NoGradGuard no_grad;
    const std::vector<std::int64_t> one(static_cast<std::size_t>(batch_), 1);
    last_ = model_.states(prompt, &cache_, one, context_);
  }

  std::int64_t vocabulary() const override { return model_.vocabulary(); }

 private:
  at::Tensor states(const at::Tensor& tokens, const std::vector<std::int64_t>& depths) override {
    const std::int64_t length = tokens.size(1);
    const at::Tensor starts = at::tensor(cache_.lengths, at::kLong).unsqueeze(1);
    const LanguageRows rows{.embeds = model_.embed(tokens.reshape({-1})),
                            .layout = nn::Layout::uniform(batch_, length),
                            .positions = (starts + at::tensor(depths, at::kLong)).flatten()};
    return model_.states(rows, &cache_, {}, context_);
  }
  at::Tensor logits(const at::Tensor& states) override { return model_.logits(states, context_); }

  CausalLm& model_;
  nn::Context context_;
};

}  // namespace

std::unique_ptr<CachedDecoder> causal_decoder(CausalLm& model, const LanguageRows& prompt, const nn::Context& context) {
  return std::make_unique<CausalDecoder>(model, prompt, context);
}

}  // namespace mmtune::backbones
