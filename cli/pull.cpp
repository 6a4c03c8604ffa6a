// mmtune pull REPO[@REVISION]: fetches a checkpoint from a HuggingFace-compatible hub into the cache.

#include "hub/pull.h"

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "core/log.h"
#include "core/signals.h"
#include "hub/http.h"
#include "print.h"
#include "report/table.h"

namespace mmtune::cli {

namespace {

struct Options {
  std::string repository;
  hub::SelectionOptions selection;
  std::int64_t retries = 5;
  bool verify = false;
  bool json = false;
};

Json to_json(const hub::PullResult& result, const io::RepositoryName& name) {
  Json json = {{"repository", name.repository}, {"revision", name.revision}, {"commit", result.commit}, {"folder", result.folder.string()}};
  json["files"] = Json::array();
  for (const hub::PulledFile& one : result.files) {
    Json file = {{"path", one.file.path}, {"fetched", one.fetched}};
    if (one.file.size) file["size"] = *one.file.size;
    if (!one.file.hash.empty()) file["hash"] = one.file.hash;
    json["files"].push_back(file);
  }
  json["pickles_left_out"] = result.pickles;
  return json;
}

std::string to_text(const hub::PullResult& result) {
  report::Table table({{"file"}, {"size", report::Align::right}, {"came from"}});
  for (const hub::PulledFile& one : result.files)
    table.add({printable(one.file.path), one.file.size ? report::human_bytes(static_cast<double>(*one.file.size)) : "—",
               one.fetched ? "the hub" : "the cache"});
  return table.text() + "\n" + result.folder.string() + "\n";
}

int run(const Options& options) {
  const auto name = io::parse_repository_name(options.repository);
  if (!name)
    throw UsageError({.what = "not the name of a repository",
                      .where = printable(options.repository),
                      .expected = "OWNER/NAME or NAME, with @REVISION where it is not main"});
  const hub::Settings settings = hub::read_settings();
  const StopSignals signals;
  try {
    const hub::PullResult result = hub::pull(
        settings, {.name = *name, .selection = options.selection, .retries = static_cast<int>(options.retries), .verify = options.verify},
        [] { return StopSignals::received() == 0; });
    if (!result.pickles.empty())
      log_warning(std::to_string(result.pickles.size()) +
                  " pickled files are left out (--allow-pickle fetches them); the first: " + printable(result.pickles.front()));
    if (options.json) {
      print_json(to_json(result, *name));
    } else {
      print(to_text(result));
    }
    return 0;
  } catch (const hub::Interrupted&) {
    log_info("interrupted; the same command goes on where this one stopped");
    return 128 + StopSignals::received();
  }
}

}  // namespace

Command pull_command() {
  return {.name = "pull",
          .summary = "fetch a checkpoint from a HuggingFace-compatible hub",
          .example =
              "mmtune pull google/vit-base-patch16-224\n"
              "mmtune pull openai/clip-vit-base-patch32@main --json\n"
              "HF_ENDPOINT=https://hub.example.org mmtune pull owner/model --include \"*.json\" --include \"onnx/\"",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("REPO", &options->repository,
                                 {.help = "OWNER/NAME, with @REVISION for a branch, a tag or a commit", .required = true});
            arguments.option("--include", &options->selection.include,
                             {.help = "fetch what matches instead of what mmtune reads; may stand several times", .value = "GLOB"});
            arguments.option("--exclude", &options->selection.exclude, {.help = "but not what matches this", .value = "GLOB"});
            arguments.flag("--allow-pickle", options->selection.allow_pickle,
                           "fetch pickled files (.bin, .pt, .pth, .ckpt, .pkl) too; mmtune does not read them");
            arguments.flag("--verify", options->verify, "check the hashes of files that the cache has already");
            arguments.option("--retries", &options->retries,
                             {.help = "tries after one that brought nothing", .value = "N", .min = 0, .max = 100});
            arguments.flag("--json", options->json, "print JSON");
            return [options](const Session&) { return run(*options); };
          },
          .epilogue =
              [] {
                return std::string(
                    "Environment: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN (or the file that `hf auth login` writes), HF_HUB_OFFLINE,\n"
                    "HF_HUB_DOWNLOAD_TIMEOUT, SSL_CERT_FILE, http_proxy, https_proxy, no_proxy.\n");
              }};
}

}  // namespace mmtune::cli
