// mmtune inspect PATH: what a checkpoint, expert, run, safetensors file or data set is.

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "inspect_files.h"
#include "io/checkpoint.h"
#include "print.h"

namespace mmtune::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  std::string path;
  bool json = false;
  bool tensors = false;
};

bool has(const fs::path& folder, const char* name) {
  std::error_code error;
  return fs::exists(folder / name, error);
}

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
  return describe_checkpoint(io::resolve_model(given), tensors);
}

}  // namespace

Command inspect_command() {
  return {.name = "inspect",
          .summary = "what a checkpoint, expert, run, safetensors file or data set is",
          .example = "mmtune inspect models/tower\nmmtune inspect runs/demo/expert --tensors\nmmtune inspect data/train.jsonl --json",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("PATH", &options->path,
                                 {.help = "a model folder (or the name of a bundled or cached model), an expert or run folder, a "
                                          ".safetensors file, or data: .jsonl, .json, .csv, .tsv, or a folder of images",
                                  .required = true});
            arguments.flag("--tensors", options->tensors, "one line a tensor, instead of one for all layers alike");
            arguments.flag("--json", options->json, "print JSON instead of tables");
            return [options](const Session&) {
              const Description description = describe(options->path, options->tensors);
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
