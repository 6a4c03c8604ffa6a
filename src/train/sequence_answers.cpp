#include "train/sequence_answers.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>

#include "backbones/generation.h"
#include "core/error.h"
#include "core/log.h"
#include "data/prefetch.h"
#include "report/captions.h"
#include "train/device.h"

namespace mmtune::train {

namespace {

std::string text_of(const BoxCorners& box) {
  std::string text;
  for (const double corner : box) {
    char number[32];
    std::snprintf(number, sizeof number, "%.2f", corner);
    text += (text.empty() ? "" : ",") + std::string(number);
  }
  return text;
}

backbones::GenerationOptions options_of(const Wording& wording, std::int64_t top) {
  const SequenceSection& section = wording.section();
  backbones::GenerationOptions options{.beams = section.beams,
                                       .answers = std::clamp<std::int64_t>(top, 1, section.beams),
                                       .max_new_tokens = section.max_tokens + 1,
                                       .min_new_tokens = section.min_tokens,
                                       .ends = {wording.tokens().end},
                                       .never = {wording.tokens().padding},
                                       .end_last = true,
                                       .length_penalty = section.length_penalty,
                                       .early_stopping = backbones::EarlyStopping::yes,
                                       .no_repeat_ngram = section.no_repeat_ngram,
                                       .repetition_penalty = section.repetition_penalty};
  if (wording.kind() == AnswerKind::box) options.min_new_tokens = 4, options.max_new_tokens = 5;
  if (section.within_list) {
    options.candidates = wording.list();
    // The longest answer of the list must fit.
    for (std::int64_t c = 0; c < wording.list()->candidates(); ++c)
      options.max_new_tokens = std::max(options.max_new_tokens, wording.list()->length(c));
  }
  return options;
}

WrittenAnswer ranked(const Wording& wording, const at::Tensor& scores, std::int64_t top) {
  const at::Tensor shares = scores.to(at::kDouble).softmax(0);
  const auto [best, order] = shares.topk(std::clamp<std::int64_t>(top, 1, shares.size(0)));
  WrittenAnswer answer;
  for (std::int64_t i = 0; i < best.size(0); ++i)
    answer.top.push_back({wording.classes()[static_cast<std::size_t>(order[i].item<std::int64_t>())], best[i].item<double>()});
  answer.words = answer.top.front().label;
  answer.score = answer.top.front().score;
  return answer;
}

WrittenAnswer written(const Wording& wording, const std::vector<backbones::Continuation>& found, const data::Example& example) {
  WrittenAnswer answer{.words = {}, .tokens = found.front().tokens, .score = found.front().score, .top = {}, .box = {}};
  for (const backbones::Continuation& one : found) {
    std::string words = wording.words_of(one.tokens);
    if (wording.kind() == AnswerKind::box) {
      const std::optional<BoxCorners> box = wording.box_of(one.tokens, example);
      if (answer.top.empty()) answer.box = box;
      if (box) words = text_of(*box);
    } else if (const auto number = wording.class_of(words); number && wording.kind() == AnswerKind::label) {
      words = wording.classes()[static_cast<std::size_t>(*number)];
    }
    answer.top.push_back({std::move(words), one.score});
  }
  answer.words = answer.top.front().label;
  return answer;
}

}  // namespace

std::vector<WrittenAnswer> answers_to(const Model& model, const Sequences& task, const data::Dataset& dataset, const Batch& batch,
                                      std::int64_t top) {
  const at::NoGradGuard no_grad;
  const Wording& wording = task.wording();
  const Tower& main = *model.towers().front();
  const TowerBatch& part = batch.towers.front();
  for (const auto& expert : main.experts()) expert->before_pass({});
  nn::Context context;
  context.matmul_precision = main.precision();
  // Prompts of one length are read together; by default all are one token.
  std::vector<WrittenAnswer> answers(batch.examples.size());
  std::map<std::size_t, std::vector<std::size_t>> by_length;
  std::vector<std::vector<std::int64_t>> prompts;
  for (std::size_t i = 0; i < batch.examples.size(); ++i) {
    prompts.push_back(wording.prompt(dataset.examples[static_cast<std::size_t>(batch.examples[i])]));
    by_length[prompts.back().size()].push_back(i);
  }
  const backbones::ModelInputs inputs = moved_to(part.inputs, model.device());
  for (const auto& [length, members] : by_length) {
    std::vector<std::int64_t> rows, tokens;
    std::vector<std::vector<std::int64_t>> history;
    for (const std::size_t i : members) {
      rows.push_back(part.row[i]);
      tokens.insert(tokens.end(), prompts[i].begin(), prompts[i].end());
      history.push_back(prompts[i]);
    }
    const auto decoder = main.writer()->begin(inputs, rows, context);
    const at::Tensor logits = decoder->read(at::tensor(tokens, at::kLong).view({static_cast<std::int64_t>(members.size()), -1}));
    if (wording.ranks()) {
      const at::Tensor scores = backbones::rank_candidates(*decoder, *wording.list(), {.mean = wording.section().mean_score});
      for (std::size_t m = 0; m < members.size(); ++m) answers[members[m]] = ranked(wording, scores[static_cast<std::int64_t>(m)], top);
      continue;
    }
    const auto found = backbones::generate(*decoder, logits, options_of(wording, top), history);
    for (std::size_t m = 0; m < members.size(); ++m)
      answers[members[m]] = written(wording, found[m], dataset.examples[static_cast<std::size_t>(batch.examples[members[m]])]);
  }
  return answers;
}

namespace {

/// What is known of every example that was asked.
struct Judged {
  std::vector<double> losses, lengths, scores;
  std::vector<std::int64_t> predicted, truth;  ///< kind label; a predicted class of -1: words that are no class
  std::int64_t unmatched = 0;                  ///< answers that are no class, or no box
  std::vector<report::Captions> captions;      ///< kind words: one a picture
  std::map<std::string, std::size_t> caption_of;
};

/// What the model made of one example.
struct Asked {
  double loss = 0, length = 0;
  std::string words;
  std::optional<BoxCorners> box;
};

void judge(const Sequences& task, const data::Dataset& dataset, std::size_t number, const Asked& asked, Judged& judged) {
  const Wording& wording = task.wording();
  const data::Example& example = dataset.examples[number];
  judged.losses.push_back(asked.loss);
  judged.lengths.push_back(asked.length);
  switch (task.kind()) {
    case AnswerKind::label: {
      const auto found = std::find(wording.classes().begin(), wording.classes().end(), asked.words);
      const std::int64_t said = found == wording.classes().end() ? -1 : found - wording.classes().begin();
      judged.predicted.push_back(said);
      judged.truth.push_back(example.labels.front());
      judged.scores.push_back(said == example.labels.front() ? 1.0 : 0.0);
      judged.unmatched += said < 0 ? 1 : 0;
      break;
    }
    case AnswerKind::box:
      judged.scores.push_back(asked.box && boxes_agree(*asked.box, Wording::true_box(example)) ? 1.0 : 0.0);
      judged.unmatched += asked.box ? 0 : 1;
      break;
    case AnswerKind::annotators: {
      const std::string said = data::normal_answer(asked.words);
      const auto given = std::count_if(example.answers.begin(), example.answers.end(),
                                       [&](const std::string& other) { return data::normal_answer(other) == said; });
      judged.scores.push_back(data::soft_score(given, static_cast<std::int64_t>(example.answers.size())));
      break;
    }
    case AnswerKind::words: {
      // Rows with the same picture have its references between them.
      const std::string key = example.image ? example.image->display() : "row " + std::to_string(number);
      const auto [found, added] = judged.caption_of.try_emplace(key, judged.captions.size());
      if (added) judged.captions.push_back({.candidate = report::caption_tokens(asked.words), .references = {}});
      std::vector<std::string> references = example.answers;
      if (references.empty()) references.push_back(example.text.value());
      for (const std::string& one : references) judged.captions[found->second].references.push_back(report::caption_tokens(one));
      break;
    }
  }
}

/// All processes' examples in every process.
void share(Communicator& all, std::vector<std::optional<Asked>>& asked) {
  std::vector<std::string> texts(asked.size());
  for (std::size_t i = 0; i < asked.size(); ++i) {
    if (!asked[i]) continue;
    const Asked& one = *asked[i];
    // CBOR keeps numbers whole, and takes words that are no UTF-8.
    Json::to_cbor(Json::array({one.loss, one.length, one.words, one.box ? Json(*one.box) : Json()}), texts[i]);
  }
  all.share(texts);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    if (asked[i] || texts[i].empty()) continue;
    const Json one = Json::from_cbor(texts[i]);
    asked[i] = Asked{.loss = one[0].get<double>(), .length = one[1].get<double>(), .words = one[2].get<std::string>(), .box = {}};
    if (!one[3].is_null()) asked[i]->box = one[3].get<BoxCorners>();
  }
}

double macro_f1(const Judged& judged, std::size_t classes, report::Weights weights) {
  // Words that are no class are a class of their own, which nobody is.
  std::vector<std::int64_t> predicted = judged.predicted;
  for (std::int64_t& one : predicted)
    if (one < 0) one = static_cast<std::int64_t>(classes);
  const std::vector<std::uint64_t> counts = report::confusion_matrix(predicted, judged.truth, classes + 1, weights);
  const std::vector<double> each = report::f1_single(counts, classes + 1).per_class;
  double sum = 0;
  std::size_t there = 0;
  for (std::size_t c = 0; c < classes; ++c) {
    std::uint64_t seen = 0;
    for (std::size_t other = 0; other <= classes; ++other) seen += counts[c * (classes + 1) + other] + counts[other * (classes + 1) + c];
    if (seen == 0) continue;
    sum += each[c];
    ++there;
  }
  return there == 0 ? std::nan("") : sum / static_cast<double>(there);
}

std::vector<report::Metric> metrics_of(const Sequences& task, const Judged& judged,
                                       const std::optional<report::BootstrapOptions>& bootstrap) {
  std::vector<std::string> names;
  std::vector<report::Statistic> statistics;
  std::vector<bool> higher;
  const auto add = [&](const std::string& name, report::Statistic statistic, bool better) {
    names.push_back(name);
    statistics.push_back(std::move(statistic));
    higher.push_back(better);
  };
  const auto mean_score = [&](report::Weights weights) { return report::mean(judged.scores, weights); };
  if (task.kind() == AnswerKind::annotators) add("vqa_accuracy", mean_score, true);
  if (task.kind() == AnswerKind::label || task.kind() == AnswerKind::box) add("accuracy", mean_score, true);
  if (task.kind() == AnswerKind::label)
    add(
        "macro_f1", [&](report::Weights weights) { return macro_f1(judged, task.classes().size(), weights); }, true);
  std::vector<report::Metric> metrics;
  if (task.kind() == AnswerKind::words) {
    const std::vector<double> each = report::cider_d(judged.captions);
    std::vector<report::BleuCounts> counts;
    for (const report::Captions& one : judged.captions) counts.push_back(report::bleu_counts(one));
    // How rare words are is that of the whole set in every resample.
    const report::Statistic statistic[] = {[&](report::Weights weights) { return report::mean(each, weights); },
                                           [&](report::Weights weights) { return report::bleu(counts, weights)[3]; }};
    metrics.push_back({"cider", statistic[0]({}), std::nullopt, true});
    metrics.push_back({"bleu4", statistic[1]({}), std::nullopt, true});
    if (bootstrap) {
      const std::vector<report::Interval> intervals = report::bootstrap(each.size(), statistic, *bootstrap);
      for (std::size_t i = 0; i < metrics.size(); ++i) metrics[i].interval = intervals[i];
    }
  }
  // Of a token, as it is learned.
  add(
      "loss", [&](report::Weights weights) { return report::mean(judged.losses, weights) / report::mean(judged.lengths, weights); }, false);
  std::vector<report::Interval> intervals;
  if (bootstrap) intervals = report::bootstrap(judged.losses.size(), statistics, *bootstrap);
  for (std::size_t i = 0; i < names.size(); ++i)
    metrics.push_back({names[i], statistics[i]({}), bootstrap ? std::optional(intervals[i]) : std::nullopt, higher[i]});
  return metrics;
}

}  // namespace

std::optional<Evaluation> evaluate_sequences(const Model& model, const Sequences& task, const data::Dataset& dataset,
                                             const ForwardOptions& options, const std::optional<report::BootstrapOptions>& bootstrap) {
  Evaluation result;
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::optional<Asked>> asked(dataset.examples.size());
  const bool whole = each_batch(model, dataset, options, true, [&](const Batch& batch) {
    result.skipped.insert(result.skipped.end(), batch.skipped.begin(), batch.skipped.end());
    if (batch.examples.empty()) return;
    const std::vector<double> losses = task.plain_losses(model.forward(batch, {}), dataset, batch.examples);
    const at::Tensor lengths = batch.learned.sum(1).to(at::kDouble).contiguous();
    std::vector<WrittenAnswer> answers = answers_to(model, task, dataset, batch, 1);
    for (std::size_t i = 0; i < answers.size(); ++i)
      asked[static_cast<std::size_t>(batch.examples[i])] = Asked{.loss = losses[i],
                                                                 .length = lengths[static_cast<std::int64_t>(i)].item<double>(),
                                                                 .words = std::move(answers[i].words),
                                                                 .box = answers[i].box};
  });
  if (!whole) return std::nullopt;
  if (options.all != nullptr) share(*options.all, asked);
  Judged judged;
  for (std::size_t i = 0; i < asked.size(); ++i)
    if (asked[i]) judge(task, dataset, i, *asked[i], judged);
  result.examples = static_cast<std::int64_t>(judged.losses.size());
  if (result.examples == 0)
    throw Error({.what = "no example could be read", .where = dataset.source, .got = result.skipped.empty() ? "" : result.skipped.front()});
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result.metrics = metrics_of(task, judged, bootstrap);
  if (task.kind() == AnswerKind::label) result.details["answers_that_are_no_class"] = judged.unmatched;
  if (task.kind() == AnswerKind::box) result.details["answers_that_are_no_box"] = judged.unmatched;
  return result;
}

bool predict_all(const Model& model, const Task& task, const data::Dataset& dataset, const ForwardOptions& options, std::int64_t top,
                 const std::function<void(const std::vector<Prediction>&, const Batch&)>& use) {
  const auto* const sequences = dynamic_cast<const Sequences*>(&task);
  if (sequences == nullptr)
    return forward_all(model, dataset, options, [&](const at::Tensor& logits, const Batch& batch) {
      use(batch.examples.empty() ? std::vector<Prediction>() : task.predict(logits, top), batch);
    });
  return each_batch(model, dataset, options, false, [&](const Batch& batch) {
    std::vector<Prediction> predictions;
    if (!batch.examples.empty())
      for (WrittenAnswer& answer : answers_to(model, *sequences, dataset, batch, top))
        predictions.push_back({.labels = {answer.words}, .top = std::move(answer.top)});
    use(predictions, batch);
  });
}

}  // namespace mmtune::train
