#include "train/pretrain/pairs.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <c10/util/ParallelGuard.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/option_writer.h"
#include "data/prefetch.h"
#include "io/checkpoint.h"
#include "text/tokenizer.h"
#include "train/pretrain/scenes.h"
#include "train/pretrain/word_pieces.h"
#include "train/pretrain/young_vilt.h"

namespace mmtune::train {

namespace {

/// Streams of random numbers; 0 belongs to the model's tensors. Scenes to measure on are numbered apart from those to learn from.
constexpr std::uint64_t scene_stream = 1, measure_stream = 2;
/// Deviation of the values that words begin with: that of a fresh table.
constexpr double word_deviation = 0.02;

struct PairsBatch {
  at::Tensor pixels;          ///< [B, 3, S, S] float32, normalised
  at::Tensor ids, padding;    ///< [B, T] int64, bool
  at::Tensor masked, hidden;  ///< [M] int64: places in ids.flatten() that are masked, and what stood there
  at::Tensor matched;         ///< [N] int64: rows whose text is to be matched
  at::Tensor belongs;         ///< [N] float32: 1 where it does
  std::vector<std::int64_t> pictures;
};

class PairsJob final : public PretrainJob {
 public:
  explicit PairsJob(PairsRecipe& recipe);
  std::string identity() const override {
    return Fingerprint().add_field(list_.fingerprint).add_field(words_).add_field(start_).add_field(half_ ? "bfloat16" : "float32").hex();
  }
  void list(nn::Parameters& parameters) const override {
    for (const nn::NamedTensor& item : model_->tensors()) parameters.add(item.name, item.tensor);
  }
  Json record() const override {
    return {{"precision", half_ ? "bfloat16" : "float32"},
            {"pictures", list_.pictures.size()},
            {"pictures_fingerprint", list_.fingerprint},
            {"words", words_},
            {"start", start_},
            {"vocabulary", pieces_.tokens.size()}};
  }
  bool prepare(const std::filesystem::path& run, const std::function<bool()>& stop) override;
  void begin(std::int64_t first, std::int64_t end) override;
  LossTerms losses() override;
  double weight_of(const std::string& term) const override {
    return term == "word" ? recipe_.tasks.word_weight : recipe_.tasks.match_weight;
  }
  std::vector<std::string> examples() const override;
  Json measure() override;
  void write(const std::filesystem::path& folder) const override;

 private:
  PairsBatch make_batch(std::uint64_t stream, std::int64_t number) const;
  void mask_words(std::vector<std::int64_t>& ids, std::int64_t begin, data::Random& random, std::vector<std::int64_t>& masked,
                  std::vector<std::int64_t>& hidden) const;

  PairsRecipe& recipe_;
  bool half_ = false;
  PictureList list_;
  std::string words_, start_;  ///< fingerprints
  WordPieces pieces_;
  std::unique_ptr<YoungVilt> model_;
  std::unique_ptr<SceneMaker> scenes_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::vector<std::int64_t> last_pictures_;
  std::unique_ptr<data::Prefetcher<PairsBatch>> batches_;
};

PairsJob::PairsJob(PairsRecipe& recipe) : recipe_(recipe), half_(in_bfloat16(recipe.train)), list_(read_pictures(recipe.data.pictures)) {
  const std::filesystem::path words = io::resolve_model(recipe_.model.words);
  words_ = io::backbone_fingerprint(io::Checkpoint::open(words));
  if (!recipe_.model.start.empty()) {
    recipe_.model.start = io::resolve_model(recipe_.model.start).string();
    start_ = io::backbone_fingerprint(io::Checkpoint::open(recipe_.model.start));
  }
  std::vector<std::string> texts = SceneMaker::phrases();
  for (const Picture& picture : list_.pictures) texts.insert(texts.end(), picture.texts.begin(), picture.texts.end());
  pieces_ = choose_word_pieces(words, texts, recipe_.model.vocabulary);
  model_ = std::make_unique<YoungVilt>(recipe_.model, embeddings_of(pieces_, words, recipe_.model.width, word_deviation),
                                       mix_seed(static_cast<std::uint64_t>(recipe_.train.seed), 0));
}

bool PairsJob::prepare(const std::filesystem::path& run, const std::function<bool()>&) {
  pieces_.write(run / "tokenizer", recipe_.model.positions);
  tokenizer_ = text::Tokenizer::open(run / "tokenizer");
  scenes_ = std::make_unique<SceneMaker>(list_.pictures, recipe_.scenes, recipe_.model.image_size);
  return true;
}

void PairsJob::begin(std::int64_t first, std::int64_t end) {
  batches_ = std::make_unique<data::Prefetcher<PairsBatch>>(
      first, end, [this](std::int64_t step) { return make_batch(scene_stream, step); }, static_cast<int>(recipe_.data.workers), 4);
}

/// Of the tokens of one text, without its first and its separator: each with the recipe's chance, at least one. As BERT does it, a tenth
/// of them stay and a tenth become any piece.
void PairsJob::mask_words(std::vector<std::int64_t>& ids, std::int64_t begin, data::Random& random, std::vector<std::int64_t>& masked,
                          std::vector<std::int64_t>& hidden) const {
  const std::int64_t words = static_cast<std::int64_t>(ids.size()) - 2;
  if (words < 1) return;
  const std::int64_t always = 1 + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(words)));
  for (std::int64_t i = 1; i <= words; ++i) {
    const bool taken = random.share() < recipe_.tasks.mask;
    if (!taken && i != always) continue;
    masked.push_back(begin + i);
    hidden.push_back(ids[static_cast<std::size_t>(i)]);
    const std::uint64_t fate = random.below(10);
    if (fate < 8) ids[static_cast<std::size_t>(i)] = WordPieces::mask;
    if (fate == 8)
      ids[static_cast<std::size_t>(i)] =
          WordPieces::specials + static_cast<std::int64_t>(random.below(pieces_.tokens.size() - WordPieces::specials));
  }
}

/// Runs on a worker: everything here is a function of the stream and the number.
PairsBatch PairsJob::make_batch(std::uint64_t stream, std::int64_t number) const {
  const c10::ParallelGuard one_thread(true);
  const c10::NoGradGuard no_gradients;
  data::Random random(mix_seed(mix_seed(static_cast<std::uint64_t>(recipe_.train.seed), stream), static_cast<std::uint64_t>(number)));
  const std::int64_t count = recipe_.train.batch, side = recipe_.model.image_size;
  const auto with_masks = static_cast<std::int64_t>(std::llround(recipe_.tasks.masked_words * static_cast<double>(count)));
  PairsBatch batch;
  at::Tensor bytes = at::empty({count, side, side, 3}, at::kByte);
  std::vector<std::vector<std::int64_t>> texts;
  std::vector<std::int64_t> masked, hidden, matched;
  std::vector<float> belongs;
  for (std::int64_t b = 0; b < count; ++b) {
    const Scene scene = scenes_->draw(random);
    std::memcpy(bytes.data_ptr<std::uint8_t>() + b * side * side * 3, scene.image.pixels.data(), scene.image.pixels.size());
    batch.pictures.insert(batch.pictures.end(), scene.pictures.begin(), scene.pictures.end());
    const bool right = b < with_masks || random.share() >= recipe_.tasks.wrong;
    texts.push_back(
        tokenizer_->encode(right ? scene.right : scene.wrong, {.max_length = recipe_.model.positions, .with_offsets = false}).ids);
    // Every text has the same room until the longest is known.
    if (b < with_masks) {
      mask_words(texts.back(), b * recipe_.model.positions, random, masked, hidden);
    } else {
      matched.push_back(b);
      belongs.push_back(right ? 1.0F : 0.0F);
    }
  }
  const auto longest = static_cast<std::int64_t>(
      std::max_element(texts.begin(), texts.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); })->size());
  batch.ids = at::full({count, longest}, WordPieces::padding, at::kLong);
  for (std::int64_t b = 0; b < count; ++b)
    std::copy(texts[static_cast<std::size_t>(b)].begin(), texts[static_cast<std::size_t>(b)].end(), batch.ids[b].data_ptr<std::int64_t>());
  batch.padding = batch.ids.eq(WordPieces::padding);
  for (std::int64_t& place : masked) place = place / recipe_.model.positions * longest + place % recipe_.model.positions;
  batch.masked = at::tensor(masked, at::kLong);
  batch.hidden = at::tensor(hidden, at::kLong);
  batch.matched = at::tensor(matched, at::kLong);
  batch.belongs = at::tensor(belongs, at::kFloat);
  batch.pixels = bytes.permute({0, 3, 1, 2}).to(at::kFloat).div_(127.5).sub_(1.0).contiguous();
  return batch;
}

LossTerms PairsJob::losses() {
  const PairsBatch batch = *batches_->next();
  last_pictures_ = batch.pictures;
  const at::Tensor states = (*model_)(batch.ids, batch.padding, batch.pixels, half_);
  LossTerms terms;
  if (batch.masked.numel() > 0) {
    const at::Tensor rows = states.slice(1, 0, batch.ids.size(1)).flatten(0, 1).index_select(0, batch.masked);
    terms["word"] = at::cross_entropy_loss(model_->word_logits(rows, half_), batch.hidden);
  }
  if (batch.matched.numel() > 0)
    terms["match"] = at::binary_cross_entropy_with_logits(model_->match_logits(states.index_select(0, batch.matched)), batch.belongs);
  return terms;
}

std::vector<std::string> PairsJob::examples() const {
  std::vector<std::string> ids;
  for (const std::int64_t picture : last_pictures_) ids.push_back(list_.pictures[static_cast<std::size_t>(picture)].id);
  return ids;
}

Json PairsJob::measure() {
  const c10::NoGradGuard no_gradients;
  double words = 0, right_words = 0, texts = 0, right_texts = 0;
  const std::int64_t batches = (recipe_.tasks.measured + recipe_.train.batch - 1) / recipe_.train.batch;
  for (std::int64_t i = 0; i < batches; ++i) {
    const PairsBatch batch = make_batch(measure_stream, i);
    const at::Tensor states = (*model_)(batch.ids, batch.padding, batch.pixels, half_);
    const at::Tensor rows = states.slice(1, 0, batch.ids.size(1)).flatten(0, 1).index_select(0, batch.masked);
    words += static_cast<double>(batch.masked.numel());
    texts += static_cast<double>(batch.matched.numel());
    if (batch.masked.numel() > 0) right_words += model_->word_logits(rows, half_).argmax(1).eq(batch.hidden).sum().item<double>();
    if (batch.matched.numel() > 0)
      right_texts += model_->match_logits(states.index_select(0, batch.matched)).gt(0).eq(batch.belongs.gt(0.5)).sum().item<double>();
  }
  if (batches == 0) return {};
  Json measured = Json::object();
  if (words > 0) measured["masked_words_accuracy"] = right_words / words;
  if (texts > 0) measured["matching_accuracy"] = right_texts / texts;
  return measured;
}

void PairsJob::write(const std::filesystem::path& folder) const {
  pieces_.write(folder, recipe_.model.positions);
  Json config = model_->config();
  config["dtype"] = "float16";
  const std::int64_t side = recipe_.model.image_size;
  const Json processor = {{"image_processor_type", "ViltImageProcessor"},
                          {"processor_class", "ViltProcessor"},
                          {"do_resize", true},
                          {"size", {{"shortest_edge", side}}},
                          {"size_divisor", recipe_.model.patch_size},
                          {"resample", 3},
                          {"do_rescale", true},
                          {"rescale_factor", 1.0 / 255.0},
                          {"do_normalize", true},
                          {"image_mean", {0.5, 0.5, 0.5}},
                          {"image_std", {0.5, 0.5, 0.5}},
                          {"do_pad", true}};
  std::vector<nn::NamedTensor> tensors = model_->tensors();
  // transformers knows the words' bias by two names, and since its fifth version by this one alone.
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i].name == "mlm_score.bias") tensors.push_back({"mlm_score.decoder.bias", tensors[i].tensor});
  write_half(folder / "model.safetensors", tensors, {{"format", "pt"}});
  write_file_atomically(folder / "preprocessor_config.json", processor.dump(2) + "\n");
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace

PretrainOutcome pretrain_pairs(PairsRecipe& recipe, const PretrainOptions& options) {
  const std::string text = write_options(recipe);
  return run_pretraining(recipe.train, text, options, [&recipe] { return std::make_unique<PairsJob>(recipe); });
}

}  // namespace mmtune::train
