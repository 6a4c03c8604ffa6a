// mmtune merge RUN: the experts folded into the weights, as a checkpoint that transformers loads.

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "print.h"
#include "train/merge_run.h"

namespace mmtune::cli {

namespace {

struct Options {
  train::MergeOptions merge;
  std::string run, out, dtype = "source";
  bool no_head = false;
  bool json = false;
};

int run(Options& options) {
  options.merge.run = options.run;
  options.merge.out = options.out;
  options.merge.head = !options.no_head;
  options.merge.as_float = options.dtype == "f32";
  const train::Merged merged = train::merge_run(options.merge);
  if (options.json) {
    print_json({{"folder", options.out},
                {"model_class", merged.model_class.empty() ? Json() : Json(merged.model_class)},
                {"changed", merged.changed},
                {"left_out", merged.left_out},
                {"files", merged.files},
                {"classes", merged.classes},
                {"largest_rounding", merged.largest_change}});
    return 0;
  }
  std::string text = options.out + ": " + std::to_string(merged.changed.size()) + " tensors are not the backbone's own";
  text += merged.model_class.empty() ? ", without a head" : ", a " + merged.model_class;
  if (!merged.left_out.empty()) text += "; " + std::to_string(merged.left_out.size()) + " tensors that it does not have were left out";
  if (merged.largest_change > 1e-6)
    text += "\nrounded to the source's dtype, by at most " + Json(merged.largest_change).dump() + " (--dtype f32 keeps all digits)";
  print(text + "\n");
  return 0;
}

}  // namespace

Command merge_command() {
  return {.name = "merge",
          .summary = "fold a run's experts into the weights: a checkpoint that transformers loads",
          .example =
              "mmtune merge runs/banking77 --out banking77-merged\n"
              "mmtune merge runs/flowers --out flowers-merged --no-head --dtype f32",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("RUN", &options->run, {.help = "the folder that mmtune train left", .required = true});
            arguments.option("-o,--out", &options->out, {.help = "the folder to make", .required = true, .value = "DIR"});
            arguments.option("--tower", &options->merge.tower,
                             {.help = "which checkpoint, of a run that stands on two", .value = "NAME", .choices = {"main", "condition"}});
            arguments.option(
                "--dtype", &options->dtype,
                {.help = "of the weights: as the source has them, or float32 (source)", .value = "NAME", .choices = {"source", "f32"}});
            arguments.flag("--no-head", options->no_head, "the backbone alone, without a classifier");
            arguments.flag("--json", options->json, "print JSON");
            return [options](const Session&) { return run(*options); };
          },
          .engine = true};
}

}  // namespace mmtune::cli
