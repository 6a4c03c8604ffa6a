// mmtune import DIR: a folder of HuggingFace PEFT as a run, or as an expert's folder where it has no head. mmtune import FILE: a published
// checkpoint of ViLT, METER or OFA, pickled by torch.save, as a model folder.

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "experts/visual_prompt.h"
#include "io/checkpoint.h"
#include "io/published_models.h"
#include "print.h"
#include "report/table.h"
#include "train/exchange.h"

namespace mmtune::cli {

namespace {

struct Options {
  train::ImportOptions from;
  std::string folder, out, tokenizer;
  io::PublishedOptions published;
  bool json = false;
};

int import_prompt(const Options& options, const experts::StoredPrompt& prompt) {
  const experts::PromptShape& shape = prompt.prompt.shape();
  experts::save_prompt(prompt.prompt, options.out, {{"imported_from", std::filesystem::path(options.folder).filename().string()}});
  if (options.json) {
    print_json({{"folder", options.out},
                {"what", "visual prompt"},
                {"form", experts::name_of(shape.form)},
                {"frame", shape.frame},
                {"width", shape.width},
                {"image_size", shape.image}});
    return 0;
  }
  print(options.out + ": a visual prompt, " + std::string(experts::name_of(shape.form)) + " of width " + std::to_string(shape.width) +
        " in a frame of " + std::to_string(shape.frame) + "\nnext: mmtune prompt show " + options.out + "\n");
  return 0;
}

int run_published(const Options& options) {
  if (!options.from.backbone.empty() || !options.from.classes.empty() || options.from.multi_label)
    throw UsageError({.what = "--backbone, --classes and --multi-label",
                      .where = options.folder,
                      .expected = "a folder of PEFT",
                      .got = "a file, whose tensors make a model of their own"});
  if (const auto prompt = experts::load_pickled_prompt(options.folder)) return import_prompt(options, *prompt);
  const std::filesystem::path tokenizer = options.tokenizer.empty() ? std::filesystem::path() : io::resolve_model(options.tokenizer);
  const io::ImportedCheckpoint imported = io::import_published(options.folder, options.out, tokenizer, options.published);
  if (options.json) {
    print_json({{"folder", options.out},
                {"what", "model"},
                {"architecture", imported.model.architecture},
                {"tensors", imported.tensors},
                {"parameters", imported.parameters}});
    return 0;
  }
  const std::string encoder = imported.model.image_encoder.empty() ? "" : " with " + imported.model.image_encoder;
  print(options.out + ": " + imported.model.architecture + encoder + ", " + std::to_string(imported.tensors) + " tensors, " +
        report::human_count(static_cast<double>(imported.parameters)) + " parameters\n");
  if (tokenizer.empty())
    print("The folder has no tokenizer; copy one into it, or import again with --tokenizer " +
          std::string(imported.model.architecture == "vilt"  ? "bert-base-uncased"
                      : imported.model.architecture == "ofa" ? "facebook/bart-base"
                                                             : "roberta-base") +
          "\n");
  return 0;
}

int run(Options& options) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(options.folder, ignored)) return run_published(options);
  if (options.from.backbone.empty())
    throw UsageError({.what = "--backbone is missing", .where = "import", .expected = "the model that the folder's expert was trained on"});
  if (!options.tokenizer.empty() || options.published.image_size || options.published.heads || options.published.image_encoder)
    throw UsageError({.what = "--tokenizer, --image-size, --heads and --image-encoder",
                      .where = options.folder,
                      .expected = "a published checkpoint's file",
                      .got = "no file"});
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
          .summary = "a folder of HuggingFace PEFT as a run, a published checkpoint as a model folder, or a pickled visual prompt",
          .example =
              "mmtune import my-peft-folder --backbone bert-base-uncased --out runs/imported\n"
              "mmtune import my-peft-folder --backbone bert-base-uncased --out runs/imported --classes no,yes\n"
              "mmtune import checkpoint_best.pth --out prompts/tvp\n"
              "mmtune import vilt_200k_mlm_itm.ckpt --tokenizer bert-base-uncased --out models/vilt\n"
              "mmtune import meter_clip16_288_roberta_pretrain.ckpt --tokenizer roberta-base --image-size 384 --out models/meter-384\n"
              "mmtune import ofa_base.pt --tokenizer facebook/bart-base --out models/ofa-base",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("DIR", &options->folder,
                                 {.help = "the folder with adapter_config.json and adapter_model.safetensors, or a checkpoint's file, of "
                                          "which the tensors are read and nothing is executed",
                                  .required = true});
            arguments.option(
                "--backbone", &options->from.backbone,
                {.help = "the model that PEFT's expert was trained on: a folder, or a bundled or cached model's name", .value = "MODEL"});
            arguments.option("-o,--out", &options->out, {.help = "the folder to make", .required = true, .value = "RUN"});
            arguments.option("--classes", &options->from.classes,
                             {.help = "names of the head's outputs in order (those that the folder carries, or id2label of the backbone)",
                              .value = "NAMES",
                              .comma = true});
            arguments.option("--tokenizer", &options->tokenizer,
                             {.help = "of a checkpoint's file: the model whose tokenizer it needs", .value = "MODEL"});
            arguments.option("--image-size", &options->published.image_size,
                             {.help = "of a checkpoint's file: side of the pictures (what it was trained with)", .value = "N", .min = 1});
            arguments.option(
                "--heads", &options->published.heads,
                {.help = "of a checkpoint's file: attention heads (told by the file, or one for 64 of the width)", .value = "N", .min = 1});
            arguments.option("--image-encoder", &options->published.image_encoder,
                             {.help = "of METER's file: refuse another image encoder than clip or swin", .value = "NAME"});
            arguments.flag("--multi-label", options->from.multi_label, "an example has any number of the labels");
            arguments.flag("--json", options->json, "print JSON");
            return [options](const Session&) { return run(*options); };
          },
          .engine = true};
}

}  // namespace mmtune::cli
