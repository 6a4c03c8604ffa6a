// Cases of pi-Tuning over a whole OFA with pictures: what every part makes, losses, gradients, and what the model says.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "backbones/generation.h"
#include "pi_support.h"
#include "train/token_loss.h"

namespace mmtune::golden {

namespace {

using at::Tensor;
using backbones::Continuation;
using backbones::GenerationOptions;

constexpr std::int64_t start = 0, padding = 1, end = 2;

/// The adapters of a case: one, or several and their average.
struct Adapters {
  std::unique_ptr<experts::Interpolated> average;
  std::unique_ptr<experts::Expert> single;
};

Adapters adapters_of(Case& golden, backbones::Ofa& ofa) {
  Adapters adapters;
  if (golden.config("k") > 1) {
    adapters.average = official_average(golden, ofa, golden.config("k"));
    adapters.average->before_pass({});
    return adapters;
  }
  const auto recipe = experts::expert_recipe("adapter");
  recipe->read_config({{"bottleneck", golden.config("adapter_dim")}, {"activation", "relu"}}, "golden");
  adapters.single = recipe->build(ofa, at::detail::createCPUGenerator(1));
  const at::NoGradGuard no_grad;
  for (const nn::NamedTensor& one : adapters.single->tensors()) {
    Tensor target = one.tensor;
    target.copy_(golden.take("w." + official_adapter(one.name)));
  }
  return adapters;
}

Tensor trimmed_row(const Tensor& row) {
  return row.masked_select(row.ne(padding));
}

std::vector<std::int64_t> list_of(const Tensor& row) {
  const Tensor own = row.contiguous();
  return {own.const_data_ptr<std::int64_t>(), own.const_data_ptr<std::int64_t>() + own.numel()};
}

/// What the model says, against the case's tensors below "out." + name.
void compare_said(Case& golden, const std::string& name, const std::vector<std::vector<Continuation>>& answers) {
  std::size_t longest = 0;
  for (const auto& row : answers) longest = std::max(longest, row.front().tokens.size());
  const auto count = static_cast<std::int64_t>(answers.size()), width = static_cast<std::int64_t>(longest);
  Tensor tokens = at::full({count, width}, padding, at::kLong), logs = at::zeros({count, width}), scores = at::empty({count});
  for (std::int64_t row = 0; row < count; ++row) {
    const Continuation& best = answers[static_cast<std::size_t>(row)].front();
    scores[row] = best.score;
    for (std::size_t i = 0; i < best.tokens.size(); ++i) {
      tokens[row][static_cast<std::int64_t>(i)] = best.tokens[i];
      logs[row][static_cast<std::int64_t>(i)] = best.log_probabilities[i];
    }
  }
  golden.compare("out." + name + ".tokens", tokens);
  golden.compare("out." + name + ".score", scores);
  golden.compare("out." + name + ".positional_scores", logs);
}

void compare_generation(Case& golden, backbones::Ofa& ofa, const backbones::OfaEncoded& encoded, std::int64_t batch) {
  const Tensor begin = at::full({batch, 1}, start, at::kLong);
  const auto begun = [&] { return ofa.decoder(encoded, {}); };
  std::vector<std::vector<std::int64_t>> candidates;
  const Tensor given = golden.take("in.candidates");
  for (std::int64_t c = 0; c < given.size(0); ++c) candidates.push_back(list_of(trimmed_row(given[c])));
  const backbones::CandidateTrie trie(candidates, end);

  auto decoder = begun();
  decoder->read(begin);
  const Tensor scores = backbones::rank_candidates(*decoder, trie);
  golden.compare("out.candidate_scores", scores);
  golden.compare("out.candidate_prediction", scores.argmax(1));

  const std::vector<std::vector<std::int64_t>> history(static_cast<std::size_t>(batch), {start});
  const Json beam = golden.json().at("config").at("beam"), constrained = golden.json().at("config").at("trie_beam");
  decoder = begun();
  GenerationOptions options{.beams = beam.at("beam"),
                            .max_new_tokens = beam.at("max_len_b").get<std::int64_t>() + 1,
                            .min_new_tokens = beam.at("min_len"),
                            .ends = {end},
                            .never = {padding},
                            .end_last = true,
                            .early_stopping = backbones::EarlyStopping::yes,
                            .no_repeat_ngram = beam.at("no_repeat_ngram")};
  compare_said(golden, "beam", backbones::generate(*decoder, decoder->read(begin), options, history));
  options.beams = constrained.at("beam");
  options.max_new_tokens = constrained.at("max_len_b").get<std::int64_t>() + 1;
  options.length_penalty = constrained.at("normalize_scores").get<bool>() ? 1.0 : 0.0;
  options.min_new_tokens = 1;
  options.no_repeat_ngram = 0;
  options.candidates = &trie;
  decoder = begun();
  compare_said(golden, "trie_beam", backbones::generate(*decoder, decoder->read(begin), options, history));
}

void run_whole(Case& golden) {
  const auto ofa = official_ofa(golden);
  const Adapters adapters = adapters_of(golden, *ofa);
  const Tensor words = golden.take("in.src_tokens"), pictures = golden.take("in.patch_images"),
               before = golden.take("in.prev_output_tokens");
  const Tensor target = golden.take("in.target"), there = golden.take("in.patch_masks").to(at::kBool);
  const std::int64_t batch = words.size(0), count = before.size(1);
  backbones::OfaSource source{.words = words, .pictures = pictures, .picture_there = there};

  const Tensor features = ofa->stem()(pictures);
  golden.compare("mid.image_features", features);
  const std::int64_t rows = features.size(2), columns = features.size(3);
  const auto of_all = [&](const Tensor& bias) { return bias.unsqueeze(0).expand({batch, -1, -1, -1}).flatten(0, 1); };
  golden.compare("mid.enc.self_attn_bias.0", of_all(ofa->encoder_bias(0, words.size(1), rows, columns)));
  golden.compare("mid.dec.self_attn_bias.0", of_all(ofa->decoder_bias(0, count)));

  ofa->set_watch([&](const std::string& name, const Tensor& seen) {
    const std::string side = name.starts_with("encoder") ? "enc" : "dec", part = name.substr(name.find('.') + 1);
    const std::string official = part == "input" ? "input" : "layer." + part.substr(part.find('.') + 1);
    golden.compare("mid." + side + "." + official, sequence_first(seen, batch));
  });
  const backbones::OfaEncoded encoded = ofa->encode(source, {});
  const Tensor logits = ofa->decode(before, encoded, {});
  ofa->set_watch({});
  golden.compare("mid.encoder_out", sequence_first(encoded.rows, batch));
  golden.compare("mid.encoder_padding_mask", encoded.layout.key_mask().logical_not());
  golden.compare("mid.position_embeddings", encoded.positions.unsqueeze(0).expand({batch, -1, -1}));
  golden.compare("mid.dec.cross_attn_bias", of_all(ofa->cross_bias(count, encoded)));
  golden.compare("out.logits", logits);

  const train::TokenLoss loss =
      train::token_loss(logits.reshape({-1, logits.size(2)}), target.reshape({-1}), {.smoothing = golden.config_number("label_smoothing")});
  loss.loss.backward();
  golden.compare("loss", loss.loss.reshape({1}));
  golden.compare("out.nll", loss.nll.reshape({1}));
  golden.compare("out.ntokens", at::tensor({static_cast<double>(loss.tokens)}));
  if (adapters.average) {
    adapters.average->after_backward();
    compare_average_gradients(golden, *adapters.average);
  } else {
    for (const nn::NamedTensor& one : adapters.single->tensors()) golden.compare("grad." + official_adapter(one.name), one.tensor.grad());
  }

  const at::NoGradGuard no_grad;
  compare_generation(golden, *ofa, encoded, batch);
  // Last, for it moves the running statistics.
  source.statistics = true;
  golden.compare("out.logits_train_mode", ofa->decode(before, ofa->encode(source, {}), {}));
  golden.compare("out.bn1_running_mean_after_train_forward", ofa->stem().first_running_mean());
}

}  // namespace

std::vector<Kind> pi_ofa_kinds() {
  return {{"whole OFA", [](const Case& c) { return c.has("in.patch_images") && c.has("out.beam.tokens"); }, run_whole}};
}

}  // namespace mmtune::golden
