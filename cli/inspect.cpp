// mmtune inspect PATH: what a checkpoint, expert, run, safetensors file or data set is; mmtune inspect NAME: a component's recipe keys.

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "inspect_files.h"
#include "inspect_options.h"
#include "io/checkpoint.h"
#include "print.h"

namespace mmtune::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  std::string path;
  bool json = false;
  bool tensors = false;
  bool options = false;
};

bool has(const fs::path& folder, const char* name) {
  std::error_code error;
  return fs::exists(folder / name, error);
}

#ifdef MMTUNE_WITH_TORCH
constexpr bool has_recipes = true;
#else
constexpr bool has_recipes = false;  // recipes are the trainer's
#endif

Description describe(const std::string& given, bool tensors) {
  std::error_code error;
  const fs::path path(given);
  if (fs::is_directory(path, error)) {
    if (has(path, "adapter_config.json")) return describe_expert(path, tensors);
    if (has(path, "recipe.toml") || has(path, "run.json")) return describe_run(path);
    if (has(path, "config.json") || has(path, "model.safetensors") || has(path, "model.safetensors.index.json")) {
      return describe_checkpoint(path, tensors);
    }
    return describe_data(path);
  }
  if (fs::exists(path, error)) {
    const std::string extension = path.extension().string();
    // Pickles are opened by the same reader, which refuses them with the line that tells how to convert.
    if (extension == ".safetensors" || extension == ".bin" || extension == ".pth" || extension == ".pt") {
      return describe_safetensors(path, tensors);
    }
    return describe_data(path);
  }
  if constexpr (has_recipes) {
    if (auto options = describe_options(given)) return *std::move(options);
  }
  return describe_checkpoint(io::resolve_model(given), tensors);
}

Description answer(const Options& options) {
  if (options.options) {
    if constexpr (has_recipes) {
      if (options.path.empty()) return list_components();
      if (auto described = describe_options(options.path)) return *std::move(described);
      refuse_component(options.path);
    }
    throw UsageError({.what = "this build has readers only, and no recipes", .where = "--options"});
  }
  if (options.path.empty()) throw UsageError({.what = "PATH is required", .hint = "see mmtune inspect --help"});
  return describe(options.path, options.tensors);
}

}  // namespace

Command inspect_command() {
  return {.name = "inspect",
          .summary = "what a checkpoint, expert, run, safetensors file or data set is; the recipe keys of a component",
          .example =
              "mmtune inspect models/tower\nmmtune inspect runs/demo/expert --tensors\nmmtune inspect data/train.jsonl --json\nmmtune "
              "inspect lora",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("PATH", &options->path,
                                 {.help = "a model folder (or the name of a bundled or cached model), an expert or run folder, a "
                                          ".safetensors file, data (.jsonl, .json, .csv, .tsv, or a folder of images), or a component of "
                                          "recipes: a kind of expert (lora) or a section (train)",
                                  .required = false});
            arguments.flag("--options", options->options, "the recipe keys of the component PATH; without it, all components");
            arguments.flag("--tensors", options->tensors, "one line a tensor, instead of one for all layers alike");
            arguments.flag("--json", options->json, "print JSON instead of tables");
            return [options](const Session&) {
              const Description description = answer(*options);
              if (options->json) {
                print_json(description.json);
              } else {
                print(description.text);
              }
              return 0;
            };
          }};
}

}  // namespace mmtune::cli
