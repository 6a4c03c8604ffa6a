// mmtune predict RUN: answers with scores, for one example or for a manifest.

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "core/log.h"
#include "methods/tvp_run.h"
#include "model_options.h"
#include "print.h"
#include "prompted_run.h"
#include "report/table.h"
#include "train/evaluate.h"
#include "train/features.h"
#include "train/machine.h"
#include "train/sequence_answers.h"
#include "train/session.h"
#include "zero_shot.h"

namespace mmtune::cli {

namespace {

struct Options {
  Question question;
  ModelOptions model;
  std::string other;  ///< a model that a visual prompt is tried on
  std::optional<std::string> text, text_pair, image, image_pair, audio, video;
  std::int64_t top = 5;
  std::int64_t batch = 32;
  bool json = false;
};

Json to_json(const train::Prediction& prediction, const std::string& id, bool multi_label) {
  Json json = Json::object();
  if (!id.empty()) json["id"] = id;
  if (multi_label) {
    json["labels"] = prediction.labels;
  } else {
    json["label"] = prediction.labels.front();
  }
  for (const train::Prediction::Item& item : prediction.top) json["top"].push_back({{"label", item.label}, {"score", item.score}});
  return json;
}

std::string to_text(const train::Prediction& prediction, bool multi_label) {
  std::string text;
  if (multi_label) {
    std::string labels;
    for (const std::string& label : prediction.labels) labels += (labels.empty() ? "" : ", ") + printable(label);
    text = "labels: " + (labels.empty() ? "none" : labels) + "\n";
  }
  report::Table table({{"label"}, {"score", report::Align::right}});
  for (const train::Prediction::Item& item : prediction.top) table.add({item.label, report::fixed(item.score)});
  return text + table.text();
}

/// The one example that the options describe.
data::Example example_of(const Options& options) {
  data::Example example;
  example.id = "the one given";
  example.text = options.text;
  example.text_pair = options.text_pair;
  const auto media = [](const std::optional<std::string>& path) {
    return path ? std::optional(data::MediaRef{.file = *path}) : std::nullopt;
  };
  example.image = media(options.image);
  example.image_pair = media(options.image_pair);
  example.audio = media(options.audio);
  example.video = media(options.video);
  return example;
}

bool is_multi_label(const train::TrainedRun& opened) {
  return opened.record.at("task").value("multi_label", false);
}

int predict_one(const Options& options, const train::TrainedRun& opened) {
  data::Dataset dataset;
  dataset.source = "the command line";
  dataset.examples.push_back(example_of(options));
  const train::ForwardOptions forward{.batch = 1, .workers = 0};
  train::predict_all(*opened.model, *opened.task, dataset, forward, options.top, [&](const auto& predictions, const train::Batch&) {
    const train::Prediction& prediction = predictions.front();
    if (options.json) {
      print_json_line(to_json(prediction, "", is_multi_label(opened)));
    } else {
      print(to_text(prediction, is_multi_label(opened)));
    }
  });
  return 0;
}

int predict_many(const Options& options, const train::TrainedRun& opened) {
  data::ReadOptions read =
      train::question_options_of(opened.recipe.data, options.question.data, *opened.task, options.question.assignments);
  read.require_labels = false;
  read.classes.clear();  // labels, where there are any, are none of our business
  const data::Dataset dataset = data::read_dataset(read);
  train::warn_of_skipped_rows(dataset);
  const data::Dataset* const datasets[] = {&dataset};
  train::store_frozen_features(*opened.model, datasets, train::store_options_of(opened.recipe.data));
  const train::ForwardOptions forward{.batch = options.batch,
                                      .workers = static_cast<int>(opened.recipe.data.workers),
                                      .on_error = opened.recipe.data.on_error,
                                      .label = "predicting"};
  std::size_t skipped = 0;
  std::string first;
  train::predict_all(*opened.model, *opened.task, dataset, forward, options.top, [&](const auto& predictions, const train::Batch& batch) {
    skipped += batch.skipped.size();
    if (first.empty() && !batch.skipped.empty()) first = batch.skipped.front();
    for (std::size_t i = 0; i < predictions.size(); ++i) {
      const std::string& id = dataset.examples[static_cast<std::size_t>(batch.examples[i])].id;
      print_json_line(to_json(predictions[i], id, is_multi_label(opened)));
    }
  });
  if (skipped > 0) log_warning(std::to_string(skipped) + " examples could not be read; the first: " + first);
  return 0;
}

int run(const Options& options, const Session& session) {
  const bool one = options.text || options.text_pair || options.image || options.image_pair || options.audio || options.video;
  if (one == !options.question.data.empty())
    throw UsageError({.what = one ? "a single example and a manifest at once" : "nothing to predict",
                      .where = "predict",
                      .expected = "--text, --text-pair, --image, --image-pair, --audio or --video, or --data MANIFEST"});
  if (methods::is_tvp_run(options.question.subject))
    return predict_prompted({.run = options.question.subject,
                             .assignments = options.question.assignments,
                             .data = options.question.data,
                             .image = options.image,
                             .text = options.text,
                             .model = options.other,
                             .batch = options.batch,
                             .top = options.top,
                             .json = options.json},
                            session);
  if (!options.other.empty()) throw UsageError({.what = "--model is for runs of visual prompts", .where = options.question.subject});
  const train::TrainedRun opened = open_question(options.question, options.model.applied_to(options.question.assignments));
  train::set_threads(session.threads > 0 ? session.threads : opened.recipe.train.threads);
  return one ? predict_one(options, opened) : predict_many(options, opened);
}

}  // namespace

Command predict_command() {
  return {.name = "predict",
          .summary = "predictions with scores; JSON lines for a manifest",
          .example =
              "mmtune predict runs/banking77 --text \"Where is my card?\" --top 3\n"
              "mmtune predict runs/vqa --image photo.jpg --text \"what colour is the shape?\"\n"
              "mmtune predict runs/banking77 --data new.jsonl > answers.jsonl\n"
              "mmtune predict openai/clip-vit-base-patch32 --image pet.jpg --classes cat,dog --template \"a photo of a {}.\"",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            declare_question(arguments, options->question);
            arguments.option("--text", &options->text, {.help = "a text", .value = "TEXT"});
            arguments.option("--text-pair", &options->text_pair, {.help = "its second half", .value = "TEXT"});
            arguments.option("--image", &options->image, {.help = "a picture: JPEG, PNG or WebP", .value = "FILE"});
            arguments.option("--image-pair", &options->image_pair, {.help = "a second picture", .value = "FILE"});
            arguments.option("--video", &options->video, {.help = "a video: a file, or a folder with a picture a frame", .value = "PATH"});
            arguments.option("--audio", &options->audio, {.help = "a sound: WAV, FLAC or Ogg", .value = "FILE"});
            arguments.option("--data", &options->question.data,
                             {.help = "many examples, read as the recipe's [data] says", .value = "MANIFEST"});
            arguments.option("--top", &options->top, {.help = "labels to list", .value = "K", .min = 1});
            arguments.option("--batch", &options->batch, {.help = "examples of a forward pass", .value = "N", .min = 1});
            arguments.option("--model", &options->other,
                             {.help = "a visual prompt: the model to ask, instead of the one it was trained through", .value = "MODEL"});
            options->model.declare(arguments);
            arguments.flag("--json", options->json, "print a JSON line for a single example too");
            return [options](const Session& session) { return run(*options, session); };
          },
          .engine = true};
}

}  // namespace mmtune::cli
