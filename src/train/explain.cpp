#include "train/explain.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "audio/sound.h"
#include "core/error.h"
#include "core/log.h"
#include "experts/mope.h"
#include "report/html.h"
#include "report/waveform.h"
#include "train/evaluate.h"
#include "vision/encode_jpeg.h"
#include "vision/video.h"

namespace mmtune::train {

namespace {

using experts::Mope;

constexpr std::size_t most_labels = 4;  // shown of an expert

/// One pass over the data.
struct Answers {
  std::vector<std::int64_t> examples;  ///< those that could be read, in order
  std::vector<Prediction> predictions;
  std::vector<report::RoutingScores> routing;
  std::vector<report::Metric> metrics;

  double metric(std::string_view name) const {
    for (const report::Metric& one : metrics)
      if (one.name == name) return one.value;
    return std::nan("");
  }
};

Answers ask(const TrainedRun& run, const Mope& mope, const data::Dataset& dataset, const ExplainOptions& options,
            const std::string& label) {
  Answers answers;
  const std::unique_ptr<Scorer> scorer = run.task->scorer();
  const ForwardOptions forward{
      .batch = options.batch, .workers = static_cast<int>(run.recipe.data.workers), .on_error = run.recipe.data.on_error, .label = label};
  forward_all(*run.model, dataset, forward, [&](const at::Tensor& logits, const Batch& batch) {
    if (batch.examples.empty()) return;
    scorer->add(logits, dataset, batch.examples);
    for (Prediction& one : run.task->predict(logits, 1)) answers.predictions.push_back(std::move(one));
    answers.examples.insert(answers.examples.end(), batch.examples.begin(), batch.examples.end());
    // The main tower has a row an example, but for examples without its modality.
    const std::vector<std::int64_t>& row = batch.towers.front().row;
    const std::vector<experts::MopeRouting>& routing = mope.routing();
    answers.routing.resize(routing.size());
    for (std::size_t b = 0; b < routing.size(); ++b) {
      const at::Tensor scores = routing[b].scores.to(at::kCPU, at::kFloat).contiguous();
      report::RoutingScores& kept = answers.routing[b];
      kept.block = routing[b].site;
      kept.experts = static_cast<std::size_t>(scores.size(1));
      for (const std::int64_t example : row) {
        if (example < 0) throw Error({.what = "an example lacks the main tower's modality", .where = dataset.source});
        const float* begin = scores.const_data_ptr<float>() + example * scores.size(1);
        kept.scores.insert(kept.scores.end(), begin, begin + scores.size(1));
      }
    }
  });
  if (answers.examples.empty()) throw Error({.what = "no example could be read", .where = dataset.source});
  answers.metrics = scorer->metrics(std::nullopt);
  return answers;
}

/// A picture for a video that is a folder of frames.
std::optional<data::MediaRef> middle_frame(const data::MediaRef& video) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(video.file, ignored)) return std::nullopt;
  const std::vector<std::filesystem::path> frames = vision::frame_files(video.file);
  return data::MediaRef{.file = frames[frames.size() / 2]};
}

/// The outline of the example's sound; empty where it has none, or it cannot be read.
std::string sound_of(const data::Example& example) try {
  if (!example.audio) return {};
  const std::string bytes = data::read_media(*example.audio);
  const audio::Sound sound = audio::decode_sound(std::as_bytes(std::span(bytes)), example.audio->display());
  return report::waveform_svg(sound.samples, sound.rate, "sound of " + example.id);
} catch (const Error&) {
  return {};
}

/// The example's picture as a data URI: its own bytes where they are few, else a small JPEG; empty where it cannot be read.
std::string picture_of(const data::Example& example) try {
  constexpr std::size_t few = 24 << 10;
  constexpr std::int64_t side = 160;
  constexpr int quality = 82;
  std::optional<data::MediaRef> media = example.image ? example.image : example.image_pair;
  if (!media && example.video) media = middle_frame(*example.video);
  if (!media) return {};
  const std::string text = data::read_media(*media);
  const auto bytes = std::as_bytes(std::span(text));
  const std::string_view type = report::picture_type(bytes);
  if (bytes.size() <= few && !type.empty()) return report::data_uri(type, bytes);
  return report::data_uri("image/jpeg",
                          vision::encode_jpeg(vision::thumbnail(vision::decode_image(bytes, media->display()), side), quality));
} catch (const Error&) {
  return {};
}

std::string text_of(const data::Example& example) {
  std::string text = example.text.value_or("");
  if (example.text_pair) text += (text.empty() ? "" : " / ") + *example.text_pair;
  return text;
}

class Explainer {
 public:
  Explainer(const TrainedRun& run, Mope& mope, const data::Dataset& dataset, const ExplainOptions& options)
      : run_(run), mope_(mope), dataset_(dataset), options_(options) {}

  report::MopePage explain() {
    answers_ = ask(run_, mope_, dataset_, options_, "explaining");
    report::MopePage page;
    page.data = dataset_.source;
    page.metric_name = run_.task->metric_names().front();
    page.examples = answers_.examples.size();
    page.experts = static_cast<std::size_t>(mope_.options().experts);
    page.prompt_length = static_cast<std::size_t>(mope_.options().prompt_length);
    page.metric = answers_.metric(page.metric_name);
    page.loss = answers_.metric("loss");
    for (const report::RoutingScores& block : answers_.routing) {
      page.blocks.push_back(block.block);
      page.statistics.push_back(report::routing_statistics(block, labels()));
    }
    page.shown_block = most_telling(page.statistics);
    page.shown = shown_experts(page);
    page.paths = paths();
    if (options_.ablate && page.experts > 1) page.ablations = ablations(page);
    return page;
  }

 private:
  const data::Example& example(std::size_t i) const { return dataset_.examples[static_cast<std::size_t>(answers_.examples[i])]; }

  std::vector<std::vector<std::int64_t>> labels() const {
    std::vector<std::vector<std::int64_t>> all;
    for (std::size_t i = 0; i < answers_.examples.size(); ++i) all.push_back(run_.task->truth(example(i)));
    return all;
  }

  std::string label_text(const data::Example& one) const {
    std::string text;
    for (const std::int64_t label : run_.task->truth(one))
      text += (text.empty() ? "" : ", ") + run_.task->classes()[static_cast<std::size_t>(label)];
    return text;
  }

  static std::size_t most_telling(const std::vector<report::RoutingStatistics>& statistics) {
    const auto best =
        std::max_element(statistics.begin(), statistics.end(), [](const auto& a, const auto& b) { return a.normalised < b.normalised; });
    return static_cast<std::size_t>(best - statistics.begin());
  }

  report::ShownExample shown(std::size_t i) const {
    const data::Example& one = example(i);
    const Prediction& prediction = answers_.predictions[i];
    report::ShownExample result{
        .id = one.id, .text = text_of(one), .picture = picture_of(one), .sound = sound_of(one), .label = label_text(one)};
    for (const std::string& label : prediction.labels) result.predicted += (result.predicted.empty() ? "" : ", ") + label;
    if (!prediction.top.empty()) result.score = prediction.top.front().score;
    return result;
  }

  std::vector<report::ShownExpert> shown_experts(const report::MopePage& page) const {
    const report::RoutingScores& scores = answers_.routing[page.shown_block];
    std::vector<std::string> texts;
    std::vector<std::size_t> group;
    for (std::size_t i = 0; i < scores.examples(); ++i) {
      texts.push_back(text_of(example(i)));
      group.push_back(scores.strongest(i));
    }
    const auto words = report::distinguishing_words(texts, group, scores.experts, options_.words);
    std::vector<report::ShownExpert> all;
    for (std::size_t k = 0; k < scores.experts; ++k) {
      report::ShownExpert expert{
          .usage = page.statistics[page.shown_block].usage[k], .chosen = page.statistics[page.shown_block].chosen[k], .words = words[k]};
      std::vector<std::size_t> members;
      std::map<std::int64_t, double> counts;
      for (std::size_t i = 0; i < group.size(); ++i) {
        if (group[i] != k) continue;
        members.push_back(i);
        for (const std::int64_t label : run_.task->truth(example(i))) ++counts[label];
      }
      std::stable_sort(members.begin(), members.end(), [&](std::size_t a, std::size_t b) { return scores.at(a, k) > scores.at(b, k); });
      for (std::size_t i = 0; i < std::min(members.size(), options_.gallery); ++i)
        expert.gallery.emplace_back(shown(members[i]), scores.at(members[i], k));
      for (const auto& [label, count] : counts)
        expert.labels.emplace_back(run_.task->classes()[static_cast<std::size_t>(label)], count / static_cast<double>(members.size()));
      std::stable_sort(expert.labels.begin(), expert.labels.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
      if (expert.labels.size() > most_labels) expert.labels.resize(most_labels);
      all.push_back(std::move(expert));
    }
    return all;
  }

  std::vector<report::ExamplePath> paths() const {
    std::vector<std::size_t> chosen;
    for (const std::string& id : options_.ids) {
      std::size_t i = 0;
      while (i < answers_.examples.size() && example(i).id != id) ++i;
      if (i == answers_.examples.size())
        throw UsageError({.what = "no example has this id", .where = "--id " + printable(id), .expected = "an id of " + dataset_.source});
      chosen.push_back(i);
    }
    if (chosen.empty()) {
      const std::size_t count = std::min(options_.paths, answers_.examples.size());
      for (std::size_t i = 0; i < count; ++i) chosen.push_back(i * answers_.examples.size() / count);
    }
    std::vector<report::ExamplePath> all;
    for (const std::size_t i : chosen) {
      report::ExamplePath path{.example = shown(i), .scores = {}};
      for (const report::RoutingScores& block : answers_.routing) {
        std::vector<double> scores;
        for (std::size_t k = 0; k < block.experts; ++k) scores.push_back(block.at(i, k));
        path.scores.push_back(std::move(scores));
      }
      all.push_back(std::move(path));
    }
    return all;
  }

  /// Share of right answers by true label; for single labels.
  std::map<std::int64_t, double> right_by_label(const Answers& answers) const {
    std::map<std::int64_t, std::pair<double, double>> counts;
    for (std::size_t i = 0; i < answers.examples.size(); ++i) {
      const data::Example& one = dataset_.examples[static_cast<std::size_t>(answers.examples[i])];
      const std::vector<std::int64_t> truth = run_.task->truth(one);
      if (truth.size() != 1 || answers.predictions[i].labels.size() != 1) continue;
      auto& [right, all] = counts[truth.front()];
      all += 1;
      if (answers.predictions[i].labels.front() == run_.task->classes()[static_cast<std::size_t>(truth.front())]) right += 1;
    }
    std::map<std::int64_t, double> shares;
    for (const auto& [label, count] : counts) shares[label] = count.first / count.second;
    return shares;
  }

  std::vector<report::Ablation> ablations(const report::MopePage& page) {
    const std::map<std::int64_t, double> before = right_by_label(answers_);
    std::vector<report::Ablation> all;
    for (std::size_t k = 0; k < page.experts; ++k) {
      mope_.set_probe({.noise = {}, .scores = [k](std::size_t, const at::Tensor& scores) {
                         at::Tensor rest = scores.clone();
                         rest.select(1, static_cast<std::int64_t>(k)).zero_();
                         const at::Tensor sum = rest.sum(1, true);
                         // Where nothing else had any weight, the others share it evenly.
                         const auto others = static_cast<double>(scores.size(1) - 1);
                         at::Tensor even = at::full_like(scores, 1.0 / others);
                         even.select(1, static_cast<std::int64_t>(k)).zero_();
                         return at::where(sum > 1e-12, rest / sum.clamp_min(1e-12), even);
                       }});
      const Answers without = ask(run_, mope_, dataset_, options_, "without expert " + std::to_string(k + 1));
      mope_.set_probe({});
      report::Ablation one{.metric = without.metric(page.metric_name), .loss = without.metric("loss"), .changed = 0, .labels = {}};
      for (std::size_t i = 0; i < without.predictions.size(); ++i)
        if (without.predictions[i].labels != answers_.predictions[i].labels) one.changed += 1;
      one.changed /= static_cast<double>(without.predictions.size());
      const std::map<std::int64_t, double> after = right_by_label(without);
      for (const auto& [label, share] : before)
        if (share != after.at(label))
          one.labels.emplace_back(run_.task->classes()[static_cast<std::size_t>(label)], after.at(label) - share);
      std::stable_sort(one.labels.begin(), one.labels.end(),
                       [](const auto& a, const auto& b) { return std::abs(a.second) > std::abs(b.second); });
      if (one.labels.size() > most_labels) one.labels.resize(most_labels);
      all.push_back(std::move(one));
    }
    return all;
  }

  const TrainedRun& run_;
  Mope& mope_;
  const data::Dataset& dataset_;
  const ExplainOptions& options_;
  Answers answers_;
};

}  // namespace

report::MopePage explain(const TrainedRun& run, const data::Dataset& dataset, const ExplainOptions& options) {
  for (const auto& expert : run.model->towers().front()->experts()) {
    auto* mope = dynamic_cast<Mope*>(expert.get());
    if (mope == nullptr) continue;
    if (!mope->options().dynamic_prompt)
      throw UsageError({.what = "the run's mope has no experts to choose from", .where = "explain", .got = "dynamic_prompt = false"});
    return Explainer(run, *mope, dataset, options).explain();
  }
  throw UsageError(
      {.what = "nothing in this run routes its inputs", .where = "explain", .expected = "a run with method = \"mope\" or \"apt\""});
}

}  // namespace mmtune::train
