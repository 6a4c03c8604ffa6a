// bench/generate.py: beam search on an OFA with random weights, over a decoder with cached keys and values and over one that does all of it
// again for every token.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "backbones/generation.h"
#include "backbones/ofa.h"

namespace {

using namespace mmtune;
using backbones::Ofa;
using backbones::OfaEncoded;

/// Keeps the words alone.
class Again final : public backbones::CachedDecoder {
 public:
  Again(Ofa& model, const OfaEncoded& encoded) : model_(model), encoded_(encoded) {}
  std::int64_t batch() const override { return encoded_.layout.batch(); }
  std::int64_t vocabulary() const override { return model_.shape().vocabulary; }
  at::Tensor read(const at::Tensor& tokens) override {
    words_ = words_.defined() ? at::cat({words_, tokens}, 1) : tokens;
    return model_.decode_last(words_, encoded_, {});
  }
  void select(const at::Tensor& rows) override {
    const std::int64_t batch = encoded_.layout.batch(), length = encoded_.layout.length(0), width = model_.shape().width;
    words_ = words_.index_select(0, rows);
    encoded_.rows = encoded_.rows.view({batch, length, width}).index_select(0, rows).view({-1, width});
    encoded_.layout = nn::Layout::uniform(rows.size(0), length, encoded_.layout.key_mask().index_select(0, rows));
  }
  at::Tensor tree_log_probabilities(const at::Tensor&, const at::Tensor&) override { return {}; }

 private:
  Ofa& model_;
  OfaEncoded encoded_;
  at::Tensor words_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 9) {
    std::fprintf(stderr, "usage: generate_bench SHAPE ROUNDS THREADS BEAMS TOKENS IMAGE WORDS BATCH\n");
    return 2;
  }
  const bool base = std::string(arguments[1]) == "base";
  const auto number = [&](int i) { return std::atoll(arguments[i]); };
  const std::int64_t rounds = number(2), beams = number(4), tokens = number(5), side = number(6), words = number(7), batch = number(8);
  at::set_num_threads(static_cast<int>(number(3)));
  const at::NoGradGuard no_grad;
  const std::int64_t width = base ? 768 : 64, layers = base ? 6 : 2;
  const Json config = {{"model_type", "ofa"},
                       {"d_model", width},
                       {"encoder_layers", layers},
                       {"decoder_layers", layers},
                       {"encoder_attention_heads", width / 64},
                       {"decoder_attention_heads", width / 64},
                       {"encoder_ffn_dim", 4 * width},
                       {"decoder_ffn_dim", 4 * width},
                       {"vocab_size", base ? 59457 : 500},
                       {"resnet_type", base ? "resnet101" : "resnet50"}};
  const auto backbone = backbones::fresh_backbone(config, 1);
  auto& model = dynamic_cast<Ofa&>(*backbone);
  const at::Generator generator = at::detail::createCPUGenerator(2);
  const backbones::OfaSource source{.words = at::randint(4, 400, {batch, words}, generator, at::kLong),
                                    .pictures = at::randn({batch, 3, side, side}, generator, at::kFloat),
                                    .picture_there = {}};
  const OfaEncoded encoded = model.encode(source, {});
  const backbones::GenerationOptions options{.beams = beams, .max_new_tokens = tokens, .min_new_tokens = tokens, .ends = {2}};
  const at::Tensor start = at::zeros({batch, 1}, at::kLong);
  std::vector<double> cached, again;
  bool same = true;
  for (std::int64_t round = 0; round < rounds; ++round) {
    const auto time = [&](std::vector<double>& seconds, const auto& make) {
      const auto begin = std::chrono::steady_clock::now();
      const auto decoder = make();
      auto answers = backbones::generate(*decoder, decoder->read(start), options);
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      return answers;
    };
    const auto one = time(cached, [&]() -> std::unique_ptr<backbones::CachedDecoder> { return model.decoder(encoded, {}); });
    const auto other = time(again, [&]() -> std::unique_ptr<backbones::CachedDecoder> { return std::make_unique<Again>(model, encoded); });
    for (std::size_t row = 0; row < one.size(); ++row) same = same && one[row].front().tokens == other[row].front().tokens;
  }
  std::printf(
      "{\"work\": \"beam %lld, %lld tokens, %lld pictures, OFA-%s\", \"cached_seconds\": %.4f, \"uncached_seconds\": %.4f, "
      "\"uncached_over_cached\": %.3f, \"same_tokens\": %s}\n",
      static_cast<long long>(beams), static_cast<long long>(tokens), static_cast<long long>(batch), base ? "Base" : "tiny", median(cached),
      median(again), median(again) / median(cached), same ? "true" : "false");
  return 0;
}
