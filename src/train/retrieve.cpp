#include "train/retrieve.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "nn/layout.h"

namespace mmtune::train {

namespace {

const data::Example& example_at(const data::Dataset& dataset, std::int64_t index) {
  return dataset.examples[static_cast<std::size_t>(index)];
}

std::string picture_key(const data::MediaRef& ref) {
  return ref.file.string() + '\0' + ref.member + '\0' + std::to_string(ref.offset) + '\0' + std::to_string(ref.size);
}

/// Judges what a batch scores for its own pairs alone; the ranking of all is evaluate_retrieval's.
class NoScorer final : public Scorer {
 public:
  void add(const at::Tensor&, const data::Dataset&, std::span<const std::int64_t>) override {}
  std::vector<report::Metric> metrics(const std::optional<report::BootstrapOptions>&) const override { return {}; }
  Json details() const override { return Json::object(); }
};

}  // namespace

std::unique_ptr<Retrieve> Retrieve::for_training(const Recipe& recipe, const data::Dataset& train) {
  const Gallery gallery = gallery_of(train);
  if (gallery.pictures.size() < 2)
    throw Error({.what = "there is nothing to rank a picture's text against",
                 .where = train.source,
                 .expected = "texts of at least two pictures",
                 .got = "those of one"});
  const bool together = recipe.backbone.condition.empty();
  if (!together && recipe.retrieve.matching > 0)
    throw UsageError({.what = "two towers are compared, and have no output that tells true pairs from false ones",
                      .where = "retrieve.matching",
                      .expected = "one backbone that reads both, or 0"});
  return std::make_unique<Retrieve>(recipe.retrieve.negatives, together, recipe.retrieve.matching);
}

double Retrieve::weight(const data::Dataset&, std::span<const std::int64_t> examples) const {
  return static_cast<double>(examples.size());
}

std::optional<data::Dataset> Retrieve::arranged(const data::Dataset& dataset, std::span<const std::int64_t> examples,
                                                std::uint64_t seed) const {
  if (!together_) return std::nullopt;
  data::Dataset all;
  all.source = dataset.source;
  const auto count = static_cast<std::uint64_t>(dataset.examples.size());
  for (const std::int64_t index : examples) {
    const data::Example& own = example_at(dataset, index);
    all.examples.push_back(own);
    const std::string picture = picture_key(*own.image);
    std::uint64_t draw = mix_seed(seed, static_cast<std::uint64_t>(index));
    for (std::int64_t n = 0; n < negatives_; ++n) {
      draw = mix_seed(draw, 1);
      std::size_t other = draw % count;
      // There is another picture (for_training saw to it). Going on one by one ends even where nearly all texts are this picture's.
      while (picture_key(*dataset.examples[other].image) == picture) other = (other + 1) % count;
      data::Example pair = own;
      pair.text = dataset.examples[other].text;
      all.examples.push_back(std::move(pair));
    }
  }
  return all;
}

at::Tensor Retrieve::loss(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  const auto count = static_cast<std::int64_t>(examples.size());
  if (together_) {
    const at::Tensor truth = at::zeros({count}, at::TensorOptions(at::kLong).device(logits.device()));
    const at::Tensor scores = logits.select(1, 0).view({count, -1});
    at::Tensor ranking = at::cross_entropy_loss(scores, truth, {}, at::Reduction::Sum);
    if (matching_ == 0) return ranking;
    const at::Tensor matched = logits.select(1, 1).view({count, -1});
    return ranking + (at::softplus(-matched.select(1, 0)) + at::softplus(matched.select(1, 1))).sum() * (matching_ / 2);
  }
  MMTUNE_ASSERT(logits.size(0) == count && logits.size(1) == count);
  at::Tensor same = at::zeros({count, count}, at::kBool);
  for (std::int64_t i = 0; i < count; ++i) {
    const data::Example& one = example_at(dataset, examples[static_cast<std::size_t>(i)]);
    for (std::int64_t j = 0; j < count; ++j) {
      const data::Example& other = example_at(dataset, examples[static_cast<std::size_t>(j)]);
      if (i != j && (*one.text == *other.text || picture_key(*one.image) == picture_key(*other.image))) same[i][j] = true;
    }
  }
  const at::Tensor scores = logits.masked_fill(nn::beside(same, logits), -INFINITY);
  const at::Tensor truth = nn::beside(at::arange(count, at::kLong), logits);
  return (at::cross_entropy_loss(scores, truth, {}, at::Reduction::Sum) +
          at::cross_entropy_loss(scores.t(), truth, {}, at::Reduction::Sum)) /
         2;
}

std::unique_ptr<Scorer> Retrieve::scorer() const {
  return std::make_unique<NoScorer>();
}

std::vector<Prediction> Retrieve::predict(const at::Tensor& logits, std::int64_t) const {
  const at::Tensor own = (together_ ? logits.select(1, 0) : logits.diagonal()).to(at::kCPU).to(at::kDouble);
  std::vector<Prediction> predictions;
  for (std::int64_t i = 0; i < own.size(0); ++i) predictions.push_back({{"match"}, {{"match", own[i].item<double>()}}});
  return predictions;
}

Json Retrieve::describe() const {
  return {{"task", "retrieve"}, {"negatives", negatives_}, {"together", together_}, {"matching", matching_}};
}

Gallery gallery_of(const data::Dataset& dataset) {
  Gallery gallery;
  std::map<std::string, std::int64_t> pictures;
  std::set<std::pair<std::int64_t, std::string>> seen;
  for (std::size_t i = 0; i < dataset.examples.size(); ++i) {
    const data::Example& example = dataset.examples[i];
    if (!example.image || !example.text) continue;
    const auto [place, fresh] = pictures.try_emplace(picture_key(*example.image), static_cast<std::int64_t>(gallery.pictures.size()));
    if (fresh) gallery.pictures.push_back(static_cast<std::int64_t>(i));
    if (!seen.emplace(place->second, *example.text).second) continue;
    gallery.texts.push_back(static_cast<std::int64_t>(i));
    gallery.picture_of.push_back(place->second);
  }
  if (gallery.texts.empty())
    throw Error({.what = "no example has a picture and a text",
                 .where = dataset.source,
                 .expected = "rows such as {\"image\": …, \"text\": …}",
                 .hint = "data.columns can name other fields"});
  return gallery;
}

namespace {

/// Embeddings [examples, D] of one tower's inputs, in their order.
at::Tensor embed_all(const Model& model, std::size_t tower, const data::Dataset& dataset, const std::vector<std::int64_t>& examples,
                     const ForwardOptions& options) {
  const InputReader& reader = model.towers()[tower]->reader();
  std::vector<at::Tensor> parts;
  const auto step = static_cast<std::size_t>(options.batch);
  for (std::size_t begin = 0; begin < examples.size(); begin += step) {
    if (options.stop && options.stop()) return {};
    std::vector<InputReader::Item> items;
    for (std::size_t i = begin; i < std::min(begin + step, examples.size()); ++i)
      items.push_back(reader.read(example_at(dataset, examples[i])));
    parts.push_back(model.head().embed(tower, model.features(tower, reader.collate(items), {})));
  }
  return at::cat(parts);
}

/// Every pair through the one backbone, a picture's texts behind each other.
at::Tensor score_pairs(const Model& model, const data::Dataset& dataset, const Gallery& gallery, const ForwardOptions& options) {
  const InputReader& reader = model.towers().front()->reader();
  const std::size_t texts = gallery.texts.size();
  std::vector<InputReader::Item> words;
  for (const std::int64_t index : gallery.texts) {
    words.push_back(reader.read(example_at(dataset, index)));
    words.back().pixels = {};
  }
  at::Tensor scores = at::empty({static_cast<std::int64_t>(gallery.pictures.size()), static_cast<std::int64_t>(texts)});
  std::optional<Progress> progress;
  if (!options.label.empty()) progress.emplace(options.label, static_cast<std::int64_t>(gallery.pictures.size()), "pictures");
  for (std::size_t picture = 0; picture < gallery.pictures.size(); ++picture) {
    const vision::PixelValues pixels = reader.read(example_at(dataset, gallery.pictures[picture])).pixels;
    for (std::size_t begin = 0; begin < texts; begin += static_cast<std::size_t>(options.batch)) {
      if (options.stop && options.stop()) return {};
      const std::size_t end = std::min(texts, begin + static_cast<std::size_t>(options.batch));
      std::vector<InputReader::Item> items;
      Batch batch;
      for (std::size_t t = begin; t < end; ++t) {
        items.push_back({.ids = words[t].ids, .type_ids = words[t].type_ids, .pixels = pixels});
        batch.examples.push_back(gallery.texts[t]);
      }
      batch.towers.push_back(reader.collate(items));
      for (std::size_t i = 0; i < items.size(); ++i) batch.towers.front().row.push_back(static_cast<std::int64_t>(i));
      const at::Tensor rows = model.forward(batch, {}).select(1, 0).to(at::kCPU);
      scores[static_cast<std::int64_t>(picture)].narrow(0, static_cast<std::int64_t>(begin), rows.size(0)).copy_(rows);
    }
    if (progress) progress->update(static_cast<std::int64_t>(picture) + 1);
  }
  if (progress) progress->finish();
  return scores;
}

}  // namespace

at::Tensor score_all(const Model& model, const data::Dataset& dataset, const Gallery& gallery, const ForwardOptions& options) {
  const at::NoGradGuard no_grad;
  if (model.head().kind() != HeadKind::similarity) return score_pairs(model, dataset, gallery, options);
  const bool picture_first = model.towers().front()->modality() == backbones::Modality::image;
  at::Tensor pictures = embed_all(model, picture_first ? 0 : 1, dataset, gallery.pictures, options);
  if (!pictures.defined()) return {};
  const at::Tensor texts = embed_all(model, picture_first ? 1 : 0, dataset, gallery.texts, options);
  if (!texts.defined()) return {};
  return (pictures.mm(texts.t()) * model.head().scale()).to(at::kCPU);
}

std::optional<Evaluation> evaluate_retrieval(const Model& model, const data::Dataset& dataset, const ForwardOptions& options,
                                             const std::optional<report::BootstrapOptions>& bootstrap) {
  const auto begin = std::chrono::steady_clock::now();
  const Gallery gallery = gallery_of(dataset);
  const at::Tensor scores = score_all(model, dataset, gallery, options);
  if (!scores.defined()) return std::nullopt;
  const at::Tensor rows = scores.contiguous();
  Evaluation result;
  result.examples = static_cast<std::int64_t>(gallery.texts.size());
  const report::Ranks ranks =
      report::ranks({rows.const_data_ptr<float>(), static_cast<std::size_t>(rows.numel())}, gallery.pictures.size(), gallery.picture_of);
  result.metrics = report::recalls(ranks, bootstrap);
  result.details = {{"pictures", gallery.pictures.size()}, {"texts", gallery.texts.size()}};
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace mmtune::train
