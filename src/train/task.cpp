// The one list of tasks.

#include "train/task.h"

#include "core/error.h"
#include "train/classify.h"
#include "train/retrieve.h"
#include "train/sequences.h"
#include "train/vqa.h"

namespace mmtune::train {

bool has_labels(std::string_view task) {
  return task == "classify" || task == "pair";
}

bool answers_in_sequences(std::string_view task) {
  return task == "caption" || task == "ground" || task == "generate";
}

at::Tensor Task::sampled_loss(const at::Tensor&, const at::Generator&) const {
  throw UsageError({.what = "this task has no labels that could be drawn", .where = std::string(name())});
}

std::unique_ptr<Task> make_task(const Recipe& recipe, const data::Dataset& train) {
  if (recipe.task == "vqa") return Vqa::for_training(recipe, train);
  if (recipe.task == "retrieve") return Retrieve::for_training(recipe, train);
  if (answers_in_sequences(recipe.task)) return Sequences::for_training(recipe, train);
  return Classify::for_training(recipe, train);
}

std::unique_ptr<Task> read_task(const Recipe& recipe, const Json& description, const std::string& where) try {
  const auto task = description.at("task").get<std::string>();
  if (task == "vqa")
    return std::make_unique<Vqa>(
        data::AnswerSpace(description.at("classes").get<std::vector<std::string>>(), description.at("normalise").get<bool>()),
        description.at("loss") == "binary" ? VqaLoss::binary : VqaLoss::softmax);
  if (task == "retrieve")
    return std::make_unique<Retrieve>(description.at("negatives").get<std::int64_t>(), description.at("together").get<bool>(),
                                      description.value("matching", 0.0));
  if (answers_in_sequences(task)) return Sequences::described(recipe, description);
  if (has_labels(task)) return Classify::described(recipe, description, where);
  throw Error({.what = "the task of the record is unknown", .where = where, .got = printable(task)});
} catch (const Json::exception&) {
  throw Error({.what = "the record of the task is damaged", .where = where});
}

}  // namespace mmtune::train
