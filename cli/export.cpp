// mmtune export RUN: the expert of a run as a folder of HuggingFace PEFT.

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "print.h"
#include "train/exchange.h"

namespace mmtune::cli {

namespace {

struct Options {
  train::ExportOptions to;
  std::string run, out, format = "peft", transformers = "5";
  bool no_head = false;
  bool json = false;
};

/// A Python literal.
std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string python_lines(const train::Exported& exported, const std::string& out) {
  const std::string labels = exported.head ? ", num_labels=" + std::to_string(exported.classes.size()) : "";
  return "from peft import PeftModel\nfrom transformers import " + exported.auto_class + "\nmodel = " + exported.auto_class +
         ".from_pretrained(" + quoted(exported.base_model) + labels + ")\nmodel = PeftModel.from_pretrained(model, " + quoted(out) + ")\n";
}

int run(Options& options) {
  options.to.run = options.run;
  options.to.out = options.out;
  options.to.head = !options.no_head;
  options.to.naming = options.transformers == "5" ? experts::Naming::modules : experts::Naming::checkpoint;
  const train::Exported exported = train::export_run(options.to);
  if (options.json) {
    print_json({{"folder", options.out},
                {"peft_type", exported.peft_type},
                {"base_model", exported.base_model},
                {"model_class", exported.model_class},
                {"auto_class", exported.auto_class},
                {"head", exported.head},
                {"classes", exported.classes}});
  } else {
    print(options.out + ": " + exported.peft_type + " for " + exported.model_class + " of transformers " + options.transformers +
          (exported.head ? ", with the head" : ", without a head") + "\n\n" + python_lines(exported, options.out));
  }
  return 0;
}

}  // namespace

Command export_command() {
  return {.name = "export",
          .summary = "the expert of a run as a folder of HuggingFace PEFT",
          .example =
              "mmtune export runs/banking77 --out banking77-peft\n"
              "mmtune export runs/flowers --out flowers-peft --no-head --transformers 4",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("RUN", &options->run, {.help = "the folder that mmtune train left", .required = true});
            arguments.option("-o,--out", &options->out, {.help = "the folder to make", .required = true, .value = "DIR"});
            arguments.option("--format", &options->format, {.help = "whose format (peft)", .value = "NAME", .choices = {"peft"}});
            arguments.option(
                "--transformers", &options->transformers,
                {.help = "whose names of modules, which differ for ViT and Swin (5)", .value = "MAJOR", .choices = {"4", "5"}});
            arguments.option("--expert", &options->to.expert, {.help = "which expert, where the run has several", .value = "NAME"});
            arguments.flag("--no-head", options->no_head, "the expert alone, for the bare backbone (AutoModel)");
            arguments.flag("--json", options->json, "print JSON");
            return [options](const Session&) { return run(*options); };
          },
          .engine = true};
}

}  // namespace mmtune::cli
