#include "train/explain_apt.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "experts/apt.h"
#include "report/html.h"
#include "text/tokenizer.h"
#include "train/evaluate.h"
#include "vision/encode_jpeg.h"

namespace mmtune::train {

namespace {

using experts::Apt;

constexpr std::size_t shown_prompts = 8, shown_strongest = 12;
constexpr int quality = 88;

Apt* apt_of(const Tower& tower) {
  for (const auto& expert : tower.experts())
    if (auto* const apt = dynamic_cast<Apt*>(expert.get())) return apt;
  return nullptr;
}

/// What the rows of one sequence stand for: words in front, one row for the whole picture, then its patches line by line.
struct RowMeaning {
  std::int64_t words = 0, patches_at = 0, rows = 0, columns = 0;
  bool is_word(std::int64_t row) const { return row < words; }
  bool is_patch(std::int64_t row) const { return row >= patches_at && row - patches_at < rows * columns; }
};

/// A tower's part of a batch, and how its rows are read.
class Reading {
 public:
  Reading(const Tower& tower, const TowerBatch& part, const text::Tokenizer* tokenizer)
      : info_(tower.backbone().info()), part_(part), tokenizer_(tokenizer), offsets_(part.inputs.text_layout.offsets()) {}

  /// `length` rows at the attention `site`.
  RowMeaning meaning(std::int64_t sequence, std::int64_t length, const std::string& site) const {
    // Of two streams one holds the words and the other the picture; in one stream the words stand in front.
    const bool pictures_only = site.find("cross_modal_image") != std::string::npos;
    const bool reads_text = tokenizer_ != nullptr && part_.inputs.input_ids.defined() && !pictures_only;
    const std::int64_t words = reads_text ? part_.inputs.text_layout.length(sequence) : 0;
    if (reads_text && words == length) return {.words = length, .patches_at = length};
    if (!part_.inputs.pixel_values.defined() || length <= words) return {};
    RowMeaning meaning{.words = words, .patches_at = words + (info_.has_class_token ? 1 : 0)};
    if (!laid_out(sequence, length - meaning.patches_at, meaning)) {
      // Swin has no row for the whole picture.
      meaning.patches_at = words;
      laid_out(sequence, length - words, meaning);
    }
    return meaning;
  }

  std::string word(std::int64_t sequence, std::int64_t row) const {
    const auto id = part_.inputs.input_ids[offsets_[static_cast<std::size_t>(sequence)] + row].item<std::int64_t>();
    return tokenizer_->token_of(id).value_or("[" + std::to_string(id) + "]");
  }

  /// The picture as the model sees it, or a patch of it: each number between the picture's least and largest.
  std::string picture(std::int64_t sequence) const {
    const auto [height, width] = size(sequence);
    return encoded(sequence, 0, 0, height, width);
  }
  std::string patch(std::int64_t sequence, const RowMeaning& meaning, std::int64_t row) const {
    const auto [height, width] = size(sequence);
    const std::int64_t high = height / meaning.rows, wide = width / meaning.columns, at = row - meaning.patches_at;
    return encoded(sequence, at / meaning.columns * high, at % meaning.columns * wide, high, wide);
  }

 private:
  /// Whether so many patches fill lines and columns of the picture's shape.
  bool laid_out(std::int64_t sequence, std::int64_t patches, RowMeaning& meaning) const {
    meaning.rows = meaning.columns = 0;
    if (patches <= 0) return false;
    const auto [height, width] = size(sequence);
    const double lines = std::sqrt(static_cast<double>(patches) * static_cast<double>(height) / static_cast<double>(width));
    const std::int64_t rows = std::max<std::int64_t>(1, std::llround(lines));
    if (patches % rows != 0 || height % rows != 0 || width % (patches / rows) != 0) return false;
    meaning.rows = rows;
    meaning.columns = patches / rows;
    return true;
  }
  /// Of the picture itself, which may lie in a corner of what the batch holds for it.
  std::pair<std::int64_t, std::int64_t> size(std::int64_t sequence) const {
    const auto& sizes = part_.inputs.picture_sizes;
    if (!sizes.empty()) return sizes[static_cast<std::size_t>(sequence)];
    return {part_.inputs.pixel_values.size(2), part_.inputs.pixel_values.size(3)};
  }
  std::string encoded(std::int64_t sequence, std::int64_t y, std::int64_t x, std::int64_t height, std::int64_t width) const {
    const auto [whole_height, whole_width] = size(sequence);
    const at::Tensor pixels =
        part_.inputs.pixel_values[sequence].slice(1, 0, whole_height).slice(2, 0, whole_width).to(at::kCPU).to(at::kFloat);
    const at::Tensor least = pixels.amin({1, 2}, true), most = pixels.amax({1, 2}, true);
    const at::Tensor bytes = ((pixels - least) / (most - least).clamp_min(1e-6) * 255)
                                 .slice(1, y, y + height)
                                 .slice(2, x, x + width)
                                 .permute({1, 2, 0})
                                 .round()
                                 .to(at::kByte)
                                 .contiguous();
    vision::Image image{.width = width, .height = height};
    image.pixels.assign(bytes.const_data_ptr<std::uint8_t>(), bytes.const_data_ptr<std::uint8_t>() + bytes.numel());
    return report::data_uri("image/jpeg", vision::encode_jpeg(image, quality));
  }

  const backbones::BackboneInfo& info_;
  const TowerBatch& part_;
  const text::Tokenizer* tokenizer_;
  std::vector<std::int64_t> offsets_;
};

/// What is summed of one place over all rows.
struct PlaceSums {
  std::string name;
  double rows = 0, fired = 0, firing = 0, weight = 0;
  at::Tensor strongest;  ///< [p] rows
};

class TowerExplainer {
 public:
  TowerExplainer(const Tower& tower, std::size_t index, Apt& apt, const ExplainOptions& options)
      : tower_(tower), index_(index), apt_(apt), options_(options) {
    const std::filesystem::path& folder = tower.checkpoint().folder();
    if (tower.modality() != backbones::Modality::image && tower.modality() != backbones::Modality::audio)
      tokenizer_ = text::Tokenizer::open(folder);
  }

  /// First pass: sums.
  void add(const Batch&) {
    const std::vector<Apt::Watched>& watched = apt_.watched();
    // The two pictures of a pair pass the same places.
    const std::size_t places = apt_.prompts().size();
    sums_.resize(std::min(places, std::max(sums_.size(), watched.size())));
    for (std::size_t i = 0; i < watched.size(); ++i) {
      PlaceSums& sums = sums_[i % places];
      const at::Tensor& fired = watched[i].parts.fired;
      sums.name = watched[i].site;
      sums.rows += static_cast<double>(fired.size(0));
      const auto [largest, which] = fired.max(1);
      const at::Tensor any = largest.gt(0);
      sums.fired += any.sum().item<double>();
      sums.firing += fired.gt(0).sum().item<double>();
      sums.weight += watched[i].parts.weights.sum().item<double>();
      const at::Tensor counts = which.masked_select(any).bincount({}, fired.size(1)).to(at::kDouble);
      sums.strongest = sums.strongest.defined() ? sums.strongest + counts : counts;
    }
  }

  /// Between the passes: the place whose prompts divide the rows most among them, and its most used prompts. The last place is left out
  /// where only one row of it is computed.
  void choose() {
    double best = -1;
    double most_rows = 0;
    for (const PlaceSums& sums : sums_) most_rows = std::max(most_rows, sums.rows);
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      if (sums_[i].rows < most_rows / 2) continue;
      const at::Tensor share = sums_[i].strongest / std::max(sums_[i].rows, 1.0);
      const double spread = -(share * share.clamp_min(1e-12).log()).sum().item<double>();
      if (spread > best) {
        best = spread;
        shown_ = i;
      }
    }
    if (sums_.empty()) return;
    const auto count = std::min<std::int64_t>(shown_prompts, sums_[shown_].strongest.size(0));
    const auto [shares, numbers] = sums_[shown_].strongest.topk(count);
    for (std::int64_t k = 0; k < count; ++k) {
      if (shares[k].item<double>() <= 0) break;
      prompts_.push_back({.number = static_cast<std::size_t>(numbers[k].item<std::int64_t>()),
                          .share = shares[k].item<double>() / sums_[shown_].rows,
                          .inputs = {}});
    }
  }

  /// Second pass: what the chosen prompts answer to, and the examples that are shown.
  void look(const Batch& batch, const data::Dataset& dataset, const std::map<std::int64_t, report::AptExample>& wanted) {
    if (apt_.watched().size() <= shown_) return;
    const TowerBatch& part = batch.towers[index_];
    const Apt::Watched& watched = apt_.watched()[shown_];
    const Reading reading(tower_, part, tokenizer_.get());
    const std::vector<std::int64_t> offsets = watched.layout.offsets();
    std::vector<std::int64_t> example_of(static_cast<std::size_t>(watched.layout.batch()), -1);
    for (std::size_t e = batch.examples.size(); e-- > 0;)
      if (part.row[e] >= 0) example_of[static_cast<std::size_t>(part.row[e])] = batch.examples[e];
    const at::Tensor fired = watched.parts.fired.to(at::kCPU);
    for (report::AptPrompt& prompt : prompts_) {
      const at::Tensor column = fired.select(1, static_cast<std::int64_t>(prompt.number));
      const auto [scores, rows] = column.topk(std::min<std::int64_t>(static_cast<std::int64_t>(options_.gallery), column.size(0)));
      for (std::int64_t k = 0; k < scores.size(0); ++k)
        keep(prompt, scores[k].item<double>(), rows[k].item<std::int64_t>(), reading, watched, offsets, example_of, dataset);
    }
    for (std::size_t e = 0; e < batch.examples.size(); ++e) {
      const auto found = wanted.find(batch.examples[e]);
      if (found == wanted.end() || part.row[e] < 0) continue;
      examples_.push_back(found->second);
      describe(examples_.back(), part.row[e], reading, watched, offsets);
    }
  }

  report::AptTower finish() {
    report::AptTower tower{.name = tower_.name(), .shown = shown_, .prompts = prompts_, .examples = examples_};
    // In one stream words may be answered many times as strongly as patches, which would not be seen beside them.
    double most_of_words = 1e-12, most_of_patches = 1e-12;
    for (const report::AptExample& example : tower.examples) {
      for (const auto& [word, one] : example.words) most_of_words = std::max(most_of_words, one.strength);
      for (const report::AptStrength& one : example.patches) most_of_patches = std::max(most_of_patches, one.strength);
    }
    for (report::AptExample& example : tower.examples) {
      for (auto& [word, one] : example.words) one.strength /= most_of_words;
      for (report::AptStrength& one : example.patches) one.strength /= most_of_patches;
    }
    for (const PlaceSums& sums : sums_) {
      report::AptPlace place{.name = sums.name,
                             .fired = sums.fired / sums.rows,
                             .per_row = sums.firing / sums.rows,
                             .weight = sums.weight / sums.rows,
                             .used = static_cast<std::size_t>(sums.strongest.gt(0).sum().item<std::int64_t>()),
                             .prompts = static_cast<std::size_t>(sums.strongest.size(0)),
                             .strongest = {}};
      const auto [counts, numbers] = sums.strongest.topk(std::min<std::int64_t>(shown_strongest, sums.strongest.size(0)));
      for (std::int64_t k = 0; k < counts.size(0) && counts[k].item<double>() > 0; ++k)
        place.strongest.emplace_back(static_cast<std::size_t>(numbers[k].item<std::int64_t>()), counts[k].item<double>() / sums.rows);
      tower.places.push_back(std::move(place));
    }
    return tower;
  }

  Apt& apt() { return apt_; }

 private:
  void keep(report::AptPrompt& prompt, double score, std::int64_t row, const Reading& reading, const Apt::Watched& watched,
            const std::vector<std::int64_t>& offsets, const std::vector<std::int64_t>& example_of, const data::Dataset& dataset) const {
    std::vector<report::AptInput>& inputs = prompt.inputs;
    if (score <= 0 || (inputs.size() >= options_.gallery && score <= inputs.back().score)) return;
    const auto sequence = std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin() - 1;
    const std::int64_t within = row - offsets[static_cast<std::size_t>(sequence)];
    const RowMeaning meaning = reading.meaning(sequence, watched.layout.length(sequence), watched.site);
    const std::int64_t example = example_of[static_cast<std::size_t>(sequence)];
    if (example < 0) return;
    report::AptInput input{.word = {}, .picture = {}, .example = dataset.examples[static_cast<std::size_t>(example)].id, .score = score};
    if (meaning.is_word(within)) {
      input.word = reading.word(sequence, within);
    } else if (meaning.is_patch(within)) {
      input.picture = reading.patch(sequence, meaning, within);
    } else {
      input.word = "[whole picture]";
    }
    const auto place = std::find_if(inputs.begin(), inputs.end(), [&](const report::AptInput& other) { return other.score < score; });
    inputs.insert(place, std::move(input));
    if (inputs.size() > options_.gallery) inputs.pop_back();
  }

  static void describe(report::AptExample& example, std::int64_t sequence, const Reading& reading, const Apt::Watched& watched,
                       const std::vector<std::int64_t>& offsets) {
    const std::int64_t length = watched.layout.length(sequence);
    const RowMeaning meaning = reading.meaning(sequence, length, watched.site);
    const at::Tensor fired = watched.parts.fired.narrow(0, offsets[static_cast<std::size_t>(sequence)], length);
    const at::Tensor added = (watched.parts.added * watched.parts.weights).narrow(0, offsets[static_cast<std::size_t>(sequence)], length);
    const at::Tensor strength = added.norm(2, {1}), prompt = fired.argmax(1);
    for (std::int64_t row = 0; row < length; ++row) {
      const report::AptStrength one{strength[row].item<double>(), static_cast<std::size_t>(prompt[row].item<std::int64_t>())};
      if (meaning.is_word(row)) {
        example.words.emplace_back(reading.word(sequence, row), one);
      } else if (meaning.is_patch(row)) {
        example.patches.push_back(one);
      }
    }
    if (example.patches.empty()) return;
    example.picture = reading.picture(sequence);
    example.rows = static_cast<std::size_t>(meaning.rows);
    example.columns = static_cast<std::size_t>(meaning.columns);
  }

  const Tower& tower_;
  std::size_t index_;
  Apt& apt_;
  const ExplainOptions& options_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::vector<PlaceSums> sums_;
  std::size_t shown_ = 0;
  std::vector<report::AptPrompt> prompts_;
  std::vector<report::AptExample> examples_;
};

/// What an example should be answered with.
std::string truth_of(const data::Example& example, const Task& task) {
  std::vector<std::string> all = example.answers;
  if (task.labelled()) {
    all.clear();
    for (const std::int64_t label : task.truth(example)) all.push_back(task.classes()[static_cast<std::size_t>(label)]);
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  std::string text;
  for (const std::string& one : all) text += (text.empty() ? "" : ", ") + one;
  return text;
}

std::map<std::int64_t, report::AptExample> wanted_examples(const TrainedRun& run, const data::Dataset& dataset,
                                                           const ExplainOptions& options) {
  std::map<std::int64_t, report::AptExample> wanted;
  const auto want = [&](std::size_t i) {
    const data::Example& example = dataset.examples[i];
    report::AptExample shown;
    shown.id = example.id;
    shown.label = truth_of(example, *run.task);
    wanted.emplace(static_cast<std::int64_t>(i), std::move(shown));
  };
  for (const std::string& id : options.ids) {
    const auto found =
        std::find_if(dataset.examples.begin(), dataset.examples.end(), [&](const data::Example& one) { return one.id == id; });
    if (found == dataset.examples.end())
      throw UsageError({.what = "no example has this id", .where = "--id " + printable(id), .expected = "an id of " + dataset.source});
    want(static_cast<std::size_t>(found - dataset.examples.begin()));
  }
  const std::size_t count = std::min(options.paths, dataset.examples.size());
  if (wanted.empty())
    for (std::size_t i = 0; i < count; ++i) want(i * dataset.examples.size() / count);
  return wanted;
}

}  // namespace

bool has_apt(const TrainedRun& run) {
  return std::any_of(run.model->towers().begin(), run.model->towers().end(), [](const auto& tower) { return apt_of(*tower) != nullptr; });
}

report::AptPage explain_apt(const TrainedRun& run, const data::Dataset& dataset, const ExplainOptions& options) {
  if (run.task->name() == "retrieve")
    throw UsageError({.what = "the ranking of pictures and texts is not explained", .where = "explain", .expected = "another task's run"});
  std::map<std::int64_t, report::AptExample> wanted = wanted_examples(run, dataset, options);
  std::vector<std::unique_ptr<TowerExplainer>> explainers;
  for (std::size_t t = 0; t < run.model->towers().size(); ++t)
    if (Apt* const apt = apt_of(*run.model->towers()[t]))
      explainers.push_back(std::make_unique<TowerExplainer>(*run.model->towers()[t], t, *apt, options));

  report::AptPage page{.data = dataset.source, .metric_name = run.task->metric_names().front()};
  const std::unique_ptr<Scorer> scorer = run.task->scorer();
  const auto pass = [&](const std::string& label, const auto& use) {
    const auto forget = [&](bool on) {
      for (const auto& one : explainers) one->apt().watch(on);
    };
    forget(true);
    const ForwardOptions forward{
        .batch = options.batch, .workers = static_cast<int>(run.recipe.data.workers), .on_error = run.recipe.data.on_error, .label = label};
    forward_all(*run.model, dataset, forward, [&](const at::Tensor& logits, const Batch& batch) {
      if (!batch.examples.empty()) use(logits, batch);
      forget(true);
    });
    forget(false);
  };
  pass("explaining", [&](const at::Tensor& logits, const Batch& batch) {
    scorer->add(logits, dataset, batch.examples);
    page.examples += batch.examples.size();
    const std::vector<Prediction> predictions = run.task->predict(logits, 1);
    for (std::size_t e = 0; e < batch.examples.size(); ++e) {
      const auto found = wanted.find(batch.examples[e]);
      if (found == wanted.end()) continue;
      for (const std::string& label : predictions[e].labels)
        found->second.predicted += (found->second.predicted.empty() ? "" : ", ") + label;
    }
    for (const auto& one : explainers) one->add(batch);
  });
  if (page.examples == 0) throw Error({.what = "no example could be read", .where = dataset.source});
  for (const report::Metric& metric : scorer->metrics(std::nullopt))
    if (metric.name == page.metric_name) page.metric = metric.value;
  for (const auto& one : explainers) one->choose();
  pass("looking closer", [&](const at::Tensor&, const Batch& batch) {
    for (const auto& one : explainers) one->look(batch, dataset, wanted);
  });
  for (const auto& one : explainers) page.towers.push_back(one->finish());
  return page;
}

}  // namespace mmtune::train
