#pragma once
// What eval and predict share: a run, or a model that is asked with class prompts instead.

#include <string>
#include <vector>

#include "arguments.h"
#include "train/session.h"

namespace mmtune::cli {

struct Question {
  std::string subject;  ///< RUN or MODEL
  std::vector<std::string> assignments;
  std::vector<std::string> classes, templates;
  std::string classes_file;
  std::string data;
};

/// Declares RUN, KEY=VALUE (`more` says what it is), --classes, --classes-file and --template.
void declare_question(Arguments& arguments, Question& question, const std::string& more = "changes of the recipe: data.where.split=test");

/// Opens the run; where there is none, but a model folder or class prompts are given, the model for zero-shot answers.
/// `assignments` change the recipe: those of the question, and what other options say.
train::TrainedRun open_question(const Question& question, const std::vector<std::string>& assignments);

}  // namespace mmtune::cli
