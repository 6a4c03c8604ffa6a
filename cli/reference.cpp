// mmtune reference: the page of all recipe keys, from their declarations. docs/reference.md is its output.

#include "arguments.h"
#include "commands.h"
#include "core/option_docs.h"
#include "methods/tvp_recipe.h"
#include "print.h"
#include "train/pretrain/answers_recipe.h"
#include "train/pretrain/pairs_recipe.h"
#include "train/pretrain/recipe.h"
#include "train/recipe.h"

namespace mmtune::cli {

Command reference_command() {
  return {
      .name = "reference",
      .summary = "the reference page of all recipe keys, as Markdown",
      .example = "mmtune reference > docs/reference.md",
      .declare = [](Arguments&) -> Action {
        return [](const Session&) {
          print("# Recipe reference\n\nEvery key of a training recipe. This page is the output of `mmtune reference`.\n\n");
          print(options_as_markdown(document_options<train::Recipe>()));
          print("\n# Recipe of a visual prompt\n\nEvery key of a recipe with `expert.method = \"tvp\"`.\n\n");
          print(options_as_markdown(document_options<methods::TvpRecipe>()));
          print("\n# Pretraining recipe\n\nEvery key of a recipe of `mmtune pretrain`.\n\n");
          print(options_as_markdown(document_options<train::PretrainRecipe>()));
          print("\n# Recipe of a pretraining on pairs\n\nEvery key of a recipe of `mmtune pretrain` with `task = \"pretrain_pairs\"`.\n\n");
          print(options_as_markdown(document_options<train::PairsRecipe>()));
          print(
              "\n# Pretraining recipe of a model that speaks of pictures\n\nEvery key of a recipe of `mmtune pretrain` with task `answer` "
              "or "
              "`contrast`.\n\n");
          print(options_as_markdown(document_options<train::AnswersRecipe>()));
          return 0;
        };
      },
      .hidden = true};
}

}  // namespace mmtune::cli
