#include "zero_shot.h"

#include <filesystem>

#include "core/error.h"
#include "train/zero_shot.h"

namespace mmtune::cli {

void declare_question(Arguments& arguments, Question& question, const std::string& more) {
  arguments.positional("RUN", &question.subject,
                       {.help = "the folder that mmtune train left, or a CLIP model for zero-shot answers", .required = true});
  arguments.positional("KEY=VALUE", &question.assignments, {.help = more, .required = false});
  arguments.option("--classes", &question.classes, {.help = "zero-shot: names of the classes", .value = "NAMES", .comma = true});
  arguments.option("--classes-file", &question.classes_file, {.help = "zero-shot: a file with a class a line", .value = "FILE"});
  arguments.option("--template", &question.templates,
                   {.help = "zero-shot: a prompt with {} for the class (\"a photo of a {}.\"); several are averaged", .value = "TEXT"});
}

train::TrainedRun open_question(const Question& question, const std::vector<std::string>& assignments) {
  namespace fs = std::filesystem;
  std::error_code missing;
  const fs::path folder(question.subject);
  const bool is_run = fs::exists(folder / "recipe.toml", missing) || fs::exists(folder / "run.json", missing);
  const bool prompts = !question.classes.empty() || !question.classes_file.empty() || !question.templates.empty();
  if (is_run && prompts)
    throw UsageError({.what = "a run has its own classes",
                      .where = question.subject,
                      .hint = "--classes, --classes-file and --template are for models that were not trained"});
  if (is_run || (!prompts && !fs::is_regular_file(folder / "config.json", missing))) return train::open_run(question.subject, assignments);
  if (!question.classes.empty() && !question.classes_file.empty())
    throw UsageError({.what = "--classes-file", .expected = "either --classes or --classes-file"});
  return train::open_zero_shot({.model = question.subject,
                                .classes = question.classes_file.empty() ? question.classes : data::read_class_names(question.classes_file),
                                .templates = question.templates,
                                .data = question.data,
                                .assignments = assignments});
}

}  // namespace mmtune::cli
