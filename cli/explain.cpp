// mmtune explain RUN --data MANIFEST --out report.html: one self-contained page that shows what the experts of a run do.

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "model_options.h"
#include "print.h"
#include "report/page_numbers.h"
#include "train/explain.h"
#include "train/explain_apt.h"
#include "train/explain_pi.h"
#include "train/features.h"
#include "train/machine.h"
#include "train/session.h"

namespace mmtune::cli {

namespace {

struct Options {
  std::string run, data, out = "report.html";
  std::vector<std::string> assignments, ids;
  ModelOptions model;
  std::int64_t limit = 2000, batch = 32, gallery = 12;
  bool fast = false, json = false;
};

template <class Page>
int tell(const Options& options, const Page& page, const std::string& contents) {
  print(options.json ? report::numbers_of(page).dump(2) + "\n" : "wrote " + options.out + " (" + contents + ")\n");
  return 0;
}

/// A run of averaged experts has a page of its own.
int run_average(const Options& options, const Session& session) {
  constexpr std::int64_t usual_limit = 2000, landscape_limit = 256;  // the data is passed over at every point between the experts
  const train::TrainedRun kept = train::open_run(options.run, options.model.applied_to(options.assignments));
  const train::TrainedRun opened = train::open_interpolated(options.run, options.model.applied_to(options.assignments));
  train::set_threads(session.threads > 0 ? session.threads : opened.recipe.train.threads);
  data::ReadOptions read = train::question_options_of(opened.recipe.data, options.data, *opened.task);
  read.limit = options.limit == usual_limit && !options.fast ? landscape_limit : options.limit;
  const data::Dataset dataset = data::read_dataset(read);
  train::warn_of_skipped_rows(dataset);
  report::PiPage page = train::explain_pi(kept, opened, dataset, {.batch = options.batch, .landscape = !options.fast});
  page.run = std::filesystem::path(options.run).lexically_normal().string();
  write_file_atomically(options.out, report::pi_page(page));
  return tell(options, page,
              std::to_string(page.experts.size()) + " experts at " + std::to_string(page.sites.size()) + " sites, " +
                  std::to_string(page.examples) + " examples");
}

int run(const Options& options, const Session& session) {
  const std::filesystem::path record = std::filesystem::path(options.run) / "run.json";
  if (std::filesystem::exists(record)) {
    const Json kept = read_json_file(record);
    if (kept.is_object() && kept.contains("interpolation")) return run_average(options, session);
  }
  const train::TrainedRun opened = train::open_run(options.run, options.model.applied_to(options.assignments));
  train::set_threads(session.threads > 0 ? session.threads : opened.recipe.train.threads);
  data::ReadOptions read = train::question_options_of(opened.recipe.data, options.data, *opened.task);
  read.limit = options.limit;
  const data::Dataset dataset = data::read_dataset(read);
  train::warn_of_skipped_rows(dataset);
  const train::ExplainOptions how{
      .batch = options.batch, .gallery = static_cast<std::size_t>(options.gallery), .ids = options.ids, .ablate = !options.fast};
  const std::string name = std::filesystem::path(options.run).lexically_normal().string();
  if (train::has_apt(opened)) {
    report::AptPage page = train::explain_apt(opened, dataset, how);
    page.run = name;
    write_file_atomically(options.out, report::apt_page(page));
    return tell(options, page,
                std::to_string(page.examples) + " examples, " + std::to_string(page.towers.size()) +
                    (page.towers.size() == 1 ? " tower" : " towers") + " with prompts");
  }
  // Every expert that is switched off means one more pass over the data, for which frozen towers are not asked again.
  const data::Dataset* const datasets[] = {&dataset};
  train::store_frozen_features(*opened.model, datasets, train::store_options_of(opened.recipe.data));
  report::MopePage page = train::explain(opened, dataset, how);
  page.run = name;
  write_file_atomically(options.out, report::mope_page(page));
  return tell(options, page, std::to_string(page.examples) + " examples, " + std::to_string(page.blocks.size()) + " routed blocks");
}

}  // namespace

Command explain_command() {
  return {.name = "explain",
          .summary = "a page that shows which expert or prompt of a run fires for what, or what an average of experts is made of",
          .example =
              "mmtune explain runs/easy-vqa-mope --data data/easy_vqa/test.jsonl --out report.html\n"
              "mmtune explain runs/easy-vqa-mope --data data/easy_vqa/test.jsonl --out report.html --id 17 --limit 500",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("RUN", &options->run, {.help = "the folder that mmtune train left", .required = true});
            arguments.positional("KEY=VALUE", &options->assignments,
                                 {.help = "changes of the run's recipe: data.where.split=test", .required = false});
            arguments.option("--data", &options->data,
                             {.help = "labelled data, read as the recipe's [data] says", .required = true, .value = "MANIFEST"});
            arguments.option("--out", &options->out, {.help = "the page; replaced where it exists", .value = "FILE"});
            arguments.option("--limit", &options->limit,
                             {.help = "first n examples; 0: all (for pi 256, unless --fast)", .value = "N", .min = 0});
            arguments.option("--gallery", &options->gallery, {.help = "inputs shown of every expert", .value = "N", .min = 0});
            arguments.option("--id", &options->ids, {.help = "an example whose way through the experts is shown", .value = "ID"});
            arguments.option("--batch", &options->batch, {.help = "examples of a forward pass", .value = "N", .min = 1});
            options->model.declare(arguments);
            arguments.flag("--json", options->json, "print the page's numbers as JSON, too");
            arguments.flag("--fast", options->fast,
                           "leave out what happens without an expert, or between experts: a pass over the data for each");
            return [options](const Session& session) { return run(*options, session); };
          },
          .engine = true};
}

}  // namespace mmtune::cli
