// tests/parity/test_generation.py: continues prompts with a language model (LLaMA, OPT, T5).
//   mmtune_generate_tool MODEL REQUEST.json
// The request: {"prompts": [[ids]], "beams", "answers", "max_new_tokens", "min_new_tokens", "ends": [ids], "length_penalty",
// "early_stopping": "yes" | "no" | "never", "no_repeat_ngram", "repetition_penalty"}. Prints for every prompt its answers, best first:
// [[{"tokens", "score"}]].

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cstdio>
#include <exception>

#include "backbones/causal_lm.h"
#include "backbones/generation.h"
#include "backbones/t5.h"
#include "core/files.h"
#include "core/json.h"
#include "io/checkpoint.h"

namespace {

using namespace mmtune;
using Ids = std::vector<std::int64_t>;

struct Padded {
  at::Tensor ids, mask;
};

Padded padded(const std::vector<Ids>& texts, bool left) {
  std::size_t longest = 0;
  for (const Ids& one : texts) longest = std::max(longest, one.size());
  const auto count = static_cast<std::int64_t>(texts.size()), width = static_cast<std::int64_t>(longest);
  Padded made{at::zeros({count, width}, at::kLong), at::zeros({count, width}, at::kBool)};
  for (std::int64_t b = 0; b < count; ++b) {
    const Ids& one = texts[static_cast<std::size_t>(b)];
    const auto length = static_cast<std::int64_t>(one.size()), at = left ? width - length : 0;
    made.ids[b].narrow(0, at, length).copy_(at::tensor(one, at::kLong));
    made.mask[b].narrow(0, at, length).fill_(true);
  }
  return made;
}

struct Begun {
  std::unique_ptr<backbones::CachedDecoder> decoder;
  at::Tensor logits;
  std::vector<Ids> history;
};

Begun begin(backbones::Backbone& model, std::vector<Ids> prompts) {
  Begun begun;
  if (auto* const t5 = dynamic_cast<backbones::T5*>(&model)) {
    const Padded source = padded(prompts, false);
    const nn::Layout layout = nn::Layout::uniform(source.ids.size(0), source.ids.size(1), source.mask);
    begun.decoder = t5->decoder(t5->encode(t5->embed(source.ids.flatten()), layout, {}), layout, {});
    begun.logits = begun.decoder->read(at::full({source.ids.size(0), 1}, t5->shape().start, at::kLong));
    begun.history.assign(prompts.size(), {t5->shape().start});
    return begun;
  }
  auto& causal = dynamic_cast<backbones::CausalLm&>(model);
  begun.history = prompts;
  Ids last;
  for (Ids& one : prompts) {
    last.push_back(one.back());
    one.pop_back();
  }
  const Padded read = padded(prompts, true);
  const nn::Layout layout = nn::Layout::uniform(read.ids.size(0), read.ids.size(1), read.mask);
  begun.decoder = backbones::causal_decoder(causal, {causal.embed(read.ids.flatten()), layout, {}}, {});
  begun.logits = begun.decoder->read(at::tensor(last, at::kLong).unsqueeze(1));
  return begun;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 3) {
    std::fprintf(stderr, "usage: mmtune_generate_tool MODEL REQUEST.json\n");
    return 2;
  }
  at::set_num_threads(1);
  const at::NoGradGuard no_grad;
  const Json request = read_json_file(arguments[2]);
  const auto model = backbones::open_backbone(io::Checkpoint::open(arguments[1]));
  const std::string rule = request.at("early_stopping");
  const backbones::GenerationOptions options{.beams = request.at("beams"),
                                             .answers = request.at("answers"),
                                             .max_new_tokens = request.at("max_new_tokens"),
                                             .min_new_tokens = request.at("min_new_tokens"),
                                             .ends = request.at("ends").get<Ids>(),
                                             .length_penalty = request.at("length_penalty"),
                                             .early_stopping = rule == "yes"  ? backbones::EarlyStopping::yes
                                                               : rule == "no" ? backbones::EarlyStopping::no
                                                                              : backbones::EarlyStopping::never,
                                             .no_repeat_ngram = request.at("no_repeat_ngram"),
                                             .repetition_penalty = request.at("repetition_penalty")};
  Begun begun = begin(*model, request.at("prompts").get<std::vector<Ids>>());
  Json all = Json::array();
  for (const auto& answers : backbones::generate(*begun.decoder, begun.logits, options, begun.history)) {
    Json own = Json::array();
    for (const backbones::Continuation& one : answers) own.push_back({{"tokens", one.tokens}, {"score", one.score}});
    all.push_back(std::move(own));
  }
  std::printf("%s\n", all.dump().c_str());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
