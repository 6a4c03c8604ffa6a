#include "train/sequences.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "backbones/multimodal_text.h"
#include "core/error.h"
#include "nn/layout.h"
#include "train/model.h"
#include "train/token_loss.h"

namespace mmtune::train {

namespace {

[[noreturn]] void refuse_scores() {
  throw UsageError({.what = "the answers of this task are written, and have no scores in one tensor",
                    .where = "task",
                    .expected = "a task with a head",
                    .hint = "mmtune eval and mmtune predict answer in words"});
}

constexpr std::string_view kind_names[] = {"words", "box", "label", "annotators"};

AnswerKind kind_named(const std::string& name) {
  for (std::size_t i = 0; i < std::size(kind_names); ++i)
    if (kind_names[i] == name) return static_cast<AnswerKind>(i);
  throw Error({.what = "the record of the task is damaged", .got = printable(name)});
}

AnswerKind kind_of(const std::string& task, const data::Dataset& train) {
  if (task == "caption") return AnswerKind::words;
  if (task == "ground") return AnswerKind::box;
  const auto any = [&](const auto& test) { return std::any_of(train.examples.begin(), train.examples.end(), test); };
  if (any([](const data::Example& example) { return !example.answers.empty(); })) return AnswerKind::annotators;
  if (any([](const data::Example& example) { return !example.labels.empty(); })) return AnswerKind::label;
  throw Error({.what = "the training examples have neither labels nor answers",
               .where = train.source,
               .expected = "the field label or answers",
               .hint = "map the file's fields with data.columns"});
}

}  // namespace

/// What a batch's logits are to be compared with, row by row.
struct Sequences::Lessons {
  at::Tensor targets;     ///< [N]
  at::Tensor confidence;  ///< [N, 1]; undefined: all 1
  at::Tensor allowed;     ///< [N, V]; undefined: everything
  std::vector<std::int64_t> lengths;
};

Sequences::Sequences(Shape shape, double label_smoothing) : shape_(std::move(shape)), label_smoothing_(label_smoothing) {
  if (shape_.kind == AnswerKind::annotators && !shape_.classes.empty())
    space_ = std::make_shared<data::AnswerSpace>(shape_.classes, shape_.normalise);
}

std::unique_ptr<Sequences> Sequences::for_training(const Recipe& recipe, const data::Dataset& train) {
  Shape shape{.task = recipe.task, .kind = kind_of(recipe.task, train), .classes = {}, .normalise = recipe.vqa.normalise};
  if (train.multi_label)
    throw UsageError(
        {.what = "an example has one answer", .where = "data.multi_label", .expected = "false for task = \"" + recipe.task + "\""});
  const bool listed = !recipe.data.classes.empty() || !recipe.data.classes_file.empty();
  if (shape.kind == AnswerKind::label) {
    shape.classes = train.classes;
  } else if (shape.kind == AnswerKind::annotators) {
    const SequenceSection& section = recipe.generate;
    if (listed) {
      shape.classes = train.classes;
    } else if (section.readout == Readout::rank || section.within_list || section.mask_loss) {
      shape.classes = data::AnswerSpace::of(train, recipe.vqa.min_count, recipe.vqa.normalise).answers();
    }
  } else if (listed) {
    throw UsageError(
        {.what = "the answers of this task are free", .where = "data.classes", .expected = "none for task = \"" + recipe.task + "\""});
  }
  auto task = std::make_unique<Sequences>(std::move(shape), recipe.loss.label_smoothing);
  if (std::none_of(train.examples.begin(), train.examples.end(), [&](const data::Example& one) { return task->learns_from(one); }))
    throw Error({.what = task->space_ ? "no training example has an answer of the list" : "no training example has anything to learn",
                 .where = train.source,
                 .expected = task->space_ ? "answers such as \"" + printable(task->classes().front()) + "\"" : "",
                 .got = train.examples.empty() || train.examples.front().answers.empty()
                            ? "no answers"
                            : "\"" + printable(train.examples.front().answers.front()) + "\""});
  return task;
}

std::unique_ptr<Sequences> Sequences::described(const Recipe& recipe, const Json& description) {
  return std::make_unique<Sequences>(Shape{.task = description.at("task"),
                                           .kind = kind_named(description.at("answers").get<std::string>()),
                                           .classes = description.at("classes").get<std::vector<std::string>>(),
                                           .normalise = description.at("normalise").get<bool>()},
                                     recipe.loss.label_smoothing);
}

void Sequences::attach(const Recipe& recipe, Model& model) {
  Tower& main = *model.towers().front();
  backbones::SequenceModel* const writer = main.writer();
  if (writer == nullptr || model.towers().size() > 1)
    throw UsageError({.what = writer == nullptr ? "the backbone writes no answers" : "one backbone writes the answer",
                      .where = writer == nullptr ? "backbone.main" : "backbone.condition",
                      .expected = "for task = \"" + shape_.task + "\" OFA, T5, LLaMA, OPT or a multimodal language model alone",
                      .got = main.backbone().info().architecture});
  const std::filesystem::path& folder = main.checkpoint().folder();
  Wording::Setup setup{.task = shape_.task,
                       .section = recipe.generate,
                       .kind = shape_.kind,
                       .classes = shape_.classes,
                       .space = space_,
                       .tokenizer = text::Tokenizer::open(folder)};
  // OFA reads and says everything behind a space. OPT's answers go on in the question's line; the others' tokenizers have ways of their
  // own.
  const std::string& architecture = main.backbone().info().architecture;
  if (architecture != "ofa") setup.lead.clear();
  if (architecture != "ofa" && architecture != "opt") setup.answer_lead.clear();
  if (auto* const speaker = dynamic_cast<backbones::MultimodalLm*>(&main.backbone())) {
    const auto text = std::make_shared<const backbones::MultimodalText>(backbones::MultimodalText::open(folder, *speaker));
    setup.source_words = [text](const std::string& question, InputReader::Item& item) {
      const backbones::Instruction asked = text->instruction(question);
      item.ids = asked.words;
      item.type_ids.assign(asked.words.size(), 0);
      item.ids.insert(item.ids.end(), asked.qformer.begin(), asked.qformer.end());
      item.type_ids.resize(item.ids.size(), 1);
    };
  }
  writer->set_noise({.dropout = recipe.generate.dropout, .drop_path = recipe.generate.drop_path});
  setup.tokens = writer->tokens();
  setup.vocabulary = writer->vocabulary();
  setup.longest = writer->longest_answer();
  wording_ = std::make_shared<const Wording>(std::move(setup));
  model.set_wording(wording_);
}

data::Dataset Sequences::spread(data::Dataset train) const {
  if (shape_.kind != AnswerKind::words) return train;
  std::vector<data::Example> each;
  for (data::Example& example : train.examples) {
    const std::vector<std::string> captions = std::move(example.answers);
    if (captions.empty()) {
      each.push_back(std::move(example));
      continue;
    }
    for (const std::string& caption : captions) {
      each.push_back(example);
      each.back().answers = {caption};
    }
  }
  train.examples = std::move(each);
  return train;
}

bool Sequences::learns_from(const data::Example& example) const {
  switch (shape_.kind) {
    case AnswerKind::words:
      return !example.answers.empty() || example.text.has_value();
    case AnswerKind::label:
      return example.labels.size() == 1;
    case AnswerKind::annotators:
      return space_ ? !space_->scores(example).empty() : !example.answers.empty();
    case AnswerKind::box:
      break;
  }
  return !example.answers.empty();
}

double Sequences::weight(const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  double tokens = 0;
  for (const std::int64_t index : examples)
    for (const std::int64_t wanted : wording_->taught(dataset.examples[static_cast<std::size_t>(index)]).wanted)
      tokens += wanted >= 0 ? 1 : 0;
  return tokens * (1.0 - wording_->section().drop_worst);
}

Sequences::Lessons Sequences::lessons(const at::Tensor& logits, const data::Dataset& dataset,
                                      std::span<const std::int64_t> examples) const {
  const std::int64_t count = logits.size(0), vocabulary = logits.size(1);
  const SequenceSection& section = wording_->section();
  Lessons lessons;
  lessons.targets = at::empty({count}, at::kLong);
  if (section.confidence) lessons.confidence = at::ones({count, 1});
  if (section.mask_loss) lessons.allowed = at::zeros({count, vocabulary}, at::kBool);
  std::int64_t row = 0;
  for (const std::int64_t index : examples) {
    const Taught taught = wording_->taught(dataset.examples[static_cast<std::size_t>(index)]);
    std::vector<std::int64_t> answer;
    for (const std::int64_t wanted : taught.wanted) {
      if (wanted < 0) continue;
      MMTUNE_ASSERT(row < count);
      lessons.targets.data_ptr<std::int64_t>()[row] = wanted;
      if (section.confidence) lessons.confidence.data_ptr<float>()[row] = static_cast<float>(taught.confidence);
      if (section.mask_loss)
        for (const std::int64_t token : wording_->allowed(answer)) lessons.allowed.data_ptr<bool>()[row * vocabulary + token] = true;
      answer.push_back(wanted);
      ++row;
    }
    lessons.lengths.push_back(static_cast<std::int64_t>(answer.size()));
  }
  MMTUNE_ASSERT(row == count);
  for (at::Tensor* const one : {&lessons.targets, &lessons.confidence, &lessons.allowed})
    if (one->defined()) *one = nn::beside(*one, logits);
  return lessons;
}

at::Tensor Sequences::loss(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  const Lessons own = lessons(logits, dataset, examples);
  return token_loss(logits, own.targets,
                    {.smoothing = label_smoothing_,
                     .padding = -1,
                     .allowed = own.allowed,
                     .confidence = own.confidence,
                     .drop_worst = wording_->section().drop_worst})
      .loss;
}

at::Tensor Sequences::sampled_loss(const at::Tensor& logits, const at::Generator& generator) const {
  const at::Tensor drawn = at::multinomial(logits.detach().softmax(1), 1, false, generator).squeeze(1);
  return token_loss(logits, drawn, {.smoothing = label_smoothing_, .padding = -1}).loss;
}

std::vector<double> Sequences::plain_losses(const at::Tensor& logits, const data::Dataset& dataset,
                                            std::span<const std::int64_t> examples) const {
  const Lessons own = lessons(logits, dataset, examples);
  at::Tensor scores = logits;
  if (own.allowed.defined()) scores = scores.masked_fill(own.allowed.logical_not(), -std::numeric_limits<double>::infinity());
  const at::Tensor losses = -scores.log_softmax(1).gather(1, own.targets.unsqueeze(1)).squeeze(1).to(at::kCPU, at::kDouble);
  std::vector<double> sums;
  std::int64_t row = 0;
  for (const std::int64_t length : own.lengths) {
    sums.push_back(losses.narrow(0, row, length).sum().item<double>());
    row += length;
  }
  return sums;
}

std::unique_ptr<Scorer> Sequences::scorer() const {
  refuse_scores();
}

std::vector<Prediction> Sequences::predict(const at::Tensor&, std::int64_t) const {
  refuse_scores();
}

std::vector<std::string> Sequences::metric_names() const {
  switch (shape_.kind) {
    case AnswerKind::words:
      return {"cider", "bleu4", "loss"};
    case AnswerKind::box:
      return {"accuracy", "loss"};
    case AnswerKind::label:
      return {"accuracy", "macro_f1", "loss"};
    case AnswerKind::annotators:
      break;
  }
  return {"vqa_accuracy", "loss"};
}

Json Sequences::describe() const {
  return {{"task", shape_.task},
          {"answers", kind_names[static_cast<std::size_t>(shape_.kind)]},
          {"classes", shape_.classes},
          {"normalise", shape_.normalise}};
}

}  // namespace mmtune::train
