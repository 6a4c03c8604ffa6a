// mmtune import DIR: a folder of HuggingFace PEFT as a run, or as an expert's folder where it has no head.

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "print.h"
#include "report/table.h"
#include "train/exchange.h"

namespace mmtune::cli {

namespace {

struct Options {
  train::ImportOptions from;
  std::string folder, out;
  bool json = false;
};

int run(Options& options) {
  options.from.folder = options.folder;
  options.from.out = options.out;
  const train::Imported imported = train::import_peft(options.from);
  if (options.json) {
    print_json({{"folder", options.out},
                {"what", imported.head ? "run" : "expert"},
                {"kind", imported.kind},
                {"parameters", imported.parameters},
                {"classes", imported.classes}});
  } else {
    const std::string what = imported.kind + " with " + report::human_count(static_cast<double>(imported.parameters)) + " parameters";
    if (imported.head) {
      print(options.out + ": a run of " + what + " and a head of " + std::to_string(imported.classes.size()) +
            " classes\nnext: mmtune predict " + options.out + " …, mmtune eval " + options.out + " --data MANIFEST\n");
    } else {
      print(options.out + ": an expert, " + what + "; the folder has no head\nnext: mmtune forward " + options.from.backbone +
            " --inputs X --out Y --expert " + options.out + "\n");
    }
  }
  return 0;
}

}  // namespace

Command import_command() {
  return {.name = "import",
          .summary = "a folder of HuggingFace PEFT as a run",
          .example =
              "mmtune import my-peft-folder --backbone bert-base-uncased --out runs/imported\n"
              "mmtune import my-peft-folder --backbone bert-base-uncased --out runs/imported --classes no,yes",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("DIR", &options->folder,
                                 {.help = "the folder with adapter_config.json and adapter_model.safetensors", .required = true});
            arguments.option("--backbone", &options->from.backbone,
                             {.help = "the model that it was trained on: a folder, or a bundled or cached model's name",
                              .required = true,
                              .value = "MODEL"});
            arguments.option("-o,--out", &options->out, {.help = "the folder to make", .required = true, .value = "RUN"});
            arguments.option("--classes", &options->from.classes,
                             {.help = "names of the head's outputs in order (those that the folder carries, or id2label of the backbone)",
                              .value = "NAMES",
                              .comma = true});
            arguments.flag("--multi-label", options->from.multi_label, "an example has any number of the labels");
            arguments.flag("--json", options->json, "print JSON");
            return [options](const Session&) { return run(*options); };
          },
          .engine = true};
}

}  // namespace mmtune::cli
