#include "train/pretrain/text_targets.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "backbones/backbone.h"
#include "core/error.h"
#include "core/log.h"
#include "io/checkpoint.h"
#include "text/tokenizer.h"

namespace mmtune::train {

namespace {

constexpr std::size_t batch_texts = 64;
constexpr double largest_scale = 100.0;

at::Tensor normalised(const at::Tensor& rows) {
  return rows / rows.norm(2, {-1}, true).clamp_min(1e-12);
}

/// One pass over texts of about the same length, packed.
at::Tensor embed(backbones::Backbone& encoder, const std::vector<const text::Encoding*>& encodings) {
  std::vector<std::int64_t> lengths, ids, types;
  for (const text::Encoding* encoding : encodings) {
    lengths.push_back(static_cast<std::int64_t>(encoding->ids.size()));
    ids.insert(ids.end(), encoding->ids.begin(), encoding->ids.end());
    types.insert(types.end(), encoding->type_ids.begin(), encoding->type_ids.end());
  }
  backbones::ModelInputs inputs;
  inputs.text_layout = nn::Layout::packed(lengths);
  inputs.input_ids = at::tensor(ids, at::kLong);
  inputs.token_type_ids = at::tensor(types, at::kLong);
  return backbones::pool(encoder.forward(inputs, {}), backbones::Pooling::mean);
}

}  // namespace

TextTargets embed_texts(const std::string& model, const std::vector<Picture>& pictures) {
  TextTargets targets;
  std::unordered_map<std::string, std::int64_t> row_of;
  targets.positives.resize(pictures.size());
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    if (!(pictures[i].weight > 0)) continue;
    for (const std::string& text : pictures[i].texts) {
      const auto [found, added] = row_of.try_emplace(text, static_cast<std::int64_t>(targets.texts.size()));
      if (added) targets.texts.push_back(text);
      targets.positives[i].push_back(found->second);
    }
  }
  if (targets.texts.empty())
    throw Error({.what = "no picture has a text", .where = "data.pictures", .hint = "leave the [text] table out to train without"});

  const io::Checkpoint checkpoint = io::Checkpoint::open(io::resolve_model(model));
  const std::unique_ptr<backbones::Backbone> encoder = backbones::open_backbone(checkpoint, backbones::Modality::text);
  if (encoder->info().modality != backbones::Modality::text)
    throw UsageError({.what = "not a text encoder", .where = "text.model", .got = encoder->info().architecture});
  const std::unique_ptr<text::Tokenizer> tokenizer = text::Tokenizer::open(checkpoint.folder());
  const c10::NoGradGuard no_gradients;
  std::vector<text::Encoding> encodings;
  for (const std::string& text : targets.texts)
    encodings.push_back(tokenizer->encode(text, {.max_length = encoder->info().max_length, .with_offsets = false}));
  std::vector<std::size_t> order(encodings.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return encodings[a].ids.size() < encodings[b].ids.size(); });
  targets.embeddings = at::empty({static_cast<std::int64_t>(encodings.size()), encoder->info().width}, at::kFloat);
  Progress progress("texts", static_cast<std::int64_t>(order.size()), "texts");
  for (std::size_t begin = 0; begin < order.size(); begin += batch_texts) {
    const std::size_t end = std::min(begin + batch_texts, order.size());
    std::vector<const text::Encoding*> batch;
    for (std::size_t i = begin; i < end; ++i) batch.push_back(&encodings[order[i]]);
    const at::Tensor rows = normalised(embed(*encoder, batch));
    for (std::size_t i = begin; i < end; ++i)
      targets.embeddings.select(0, static_cast<std::int64_t>(order[i])).copy_(rows.select(0, static_cast<std::int64_t>(i - begin)));
    progress.update(static_cast<std::int64_t>(end));
  }
  progress.finish();
  targets.encoder = io::backbone_fingerprint(checkpoint);
  return targets;
}

at::Tensor TextTargets::targets(const std::vector<std::int64_t>& pictures) const {
  const auto width = static_cast<std::int64_t>(texts.size());
  at::Tensor result = at::zeros({static_cast<std::int64_t>(pictures.size()), width}, at::kFloat);
  auto* row = result.data_ptr<float>();
  for (const std::int64_t picture : pictures) {
    const auto& own = positives[static_cast<std::size_t>(picture)];
    for (const std::int64_t text : own) row[text] += 1.0F / static_cast<float>(own.size());
    row += width;
  }
  return result;
}

at::Tensor text_loss(const at::Tensor& projected, const at::Tensor& embeddings, const at::Tensor& targets, const at::Tensor& log_scale) {
  const at::Tensor scale = log_scale.clamp_max(std::log(largest_scale)).exp();
  const at::Tensor logits = at::linear(normalised(projected), embeddings) * scale;
  // Every row of targets sums to 1 or, without texts, to 0.
  return -(targets * logits.log_softmax(-1)).sum() / targets.sum().clamp_min(1.0);
}

}  // namespace mmtune::train
