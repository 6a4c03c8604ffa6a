// mmtune graph ACTION …: task embeddings of runs, how alike they are, and pictures of it.

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "methods/task_graph.h"
#include "print.h"
#include "report/table.h"
#include "report/task_graph_page.h"
#include "train/machine.h"

namespace mmtune::cli {

namespace {

namespace fs = std::filesystem;
using methods::EmbeddingInfo;
using methods::EmbeddingOptions;
using methods::TaskGraph;

struct Options {
  std::string action;
  std::vector<std::string> items, names, modalities, pair;
  std::string graph = "graph.json", out, by = "similarity";
  std::optional<std::string> data, html, svg, png;
  std::string granularity = "sample", labels = "empirical", mode = "eval", profile = "standard";
  std::optional<double> smoothing;
  std::int64_t samples = 0, batch = 32, seed = 0, k = 3;
  bool again = false, json = false;
};

EmbeddingOptions embedding_options(const Options& options) {
  EmbeddingOptions result{.granularity = options.granularity == "sample"  ? methods::Granularity::sample
                                         : options.granularity == "token" ? methods::Granularity::token
                                                                          : methods::Granularity::micro_batch,
                          .labels = options.labels == "sampled" ? methods::LabelSource::sampled : methods::LabelSource::empirical,
                          .training = options.mode == "train",
                          .smoothing = options.smoothing,
                          .samples = options.samples,
                          .batch = options.batch,
                          .seed = static_cast<std::uint64_t>(options.seed)};
  if (options.profile == "reference") {
    // What the released code does, with its random parts off.
    constexpr std::int64_t released_batch = 4;
    result.granularity = methods::Granularity::micro_batch;
    result.labels = methods::LabelSource::empirical;
    result.training = false;
    result.smoothing.reset();
    result.batch = released_batch;
  }
  return result;
}

void need_items(const Options& options, std::size_t least, const std::string& what) {
  if (options.items.size() >= least) return;
  throw UsageError({.what = "graph " + options.action + " needs " + what, .where = "arguments", .got = "none"});
}

/// The embedding of a run, made where it is not there yet, or was made of another expert or in another way.
fs::path embedding_for(const std::string& item, const EmbeddingOptions& how, const Options& options) {
  std::error_code ignored;
  if (fs::path(item).extension() == ".safetensors") return item;
  if (!fs::is_directory(item, ignored))
    throw Error({.what = "there is no such run folder", .where = item, .expected = "a folder that mmtune train left, or an embedding"});
  fs::path path = methods::embedding_of_run(item);
  if (!options.again && !options.data && fs::exists(path)) {
    const EmbeddingInfo kept = methods::TaskEmbedding::open(path).info();
    const bool enough = options.samples == 0 || kept.examples >= options.samples;
    if (kept.options == methods::describe(how) && kept.expert == methods::expert_fingerprint(item) && enough) return path;
  }
  log_info("embedding " + item);
  methods::embed_run(item, how, path, options.data);
  return path;
}

Json to_json(const EmbeddingInfo& info, const fs::path& path) {
  Json json = methods::to_json(info);
  json["embedding"] = path.string();
  return json;
}

int embed(const Options& options) {
  need_items(options, 1, "a run folder");
  if (options.items.size() > 1 && !options.out.empty())
    throw UsageError({.what = "one file cannot hold several embeddings", .where = "--out", .expected = "one RUN"});
  const EmbeddingOptions how = embedding_options(options);
  for (const std::string& run : options.items) {
    const fs::path path = options.out.empty() ? methods::embedding_of_run(run) : fs::path(options.out);
    const EmbeddingInfo info = methods::embed_run(run, how, path, options.data);
    if (options.json) {
      Json json = to_json(info, path);
      json["seconds"] = info.seconds;
      print_json_line(json);
    } else {
      print("wrote " + path.string() + ": " + info.kind + " on " + std::to_string(info.examples) + " examples, mean loss " +
            report::fixed(info.mean_loss) + " (" + info.options + ")\n");
    }
  }
  return 0;
}

void add_runs(TaskGraph& graph, const Options& options) {
  need_items(options, 1, "run folders");
  for (const auto& [flag, given] : {std::pair("--name", &options.names), std::pair("--modality", &options.modalities)})
    if (!given->empty() && given->size() != options.items.size())
      throw UsageError({.what = "one a run is needed",
                        .where = flag,
                        .expected = std::to_string(options.items.size()),
                        .got = std::to_string(given->size())});
  const EmbeddingOptions how = embedding_options(options);
  std::vector<methods::TaskEmbedding> embeddings;
  std::vector<std::string> names = options.names;
  for (const std::string& item : options.items) {
    embeddings.push_back(methods::TaskEmbedding::open(embedding_for(item, how, options)));
    if (options.names.empty()) names.push_back(embeddings.back().info().task);
  }
  const std::size_t before = graph.size();
  Progress progress("comparing", 100, "%");
  graph.add(embeddings, names, [&](double share) { progress.update(static_cast<std::int64_t>(100 * share)); });
  progress.finish();
  for (std::size_t i = 0; i < options.modalities.size(); ++i) graph.set_modality(before + i, options.modalities[i]);
}

int build(const Options& options) {
  TaskGraph graph;
  add_runs(graph, options);
  const std::string out = options.out.empty() ? options.graph : options.out;
  graph.save(out);
  std::int64_t skipped = 0;
  for (std::size_t i = 0; i < graph.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) skipped += graph.skipped(i, j);
  print("wrote " + out + ": " + std::to_string(graph.size()) + (graph.size() == 1 ? " task, " : " tasks, ") +
        std::to_string(graph.components()) + " tensors a task" +
        (skipped > 0 ? "; " + std::to_string(skipped) + " comparisons of tensors that are zero in one task were left out" : "") + "\n");
  return 0;
}

int add(const Options& options) {
  TaskGraph graph = TaskGraph::open(options.graph);
  const std::size_t before = graph.size();
  add_runs(graph, options);
  const std::string out = options.out.empty() ? options.graph : options.out;
  graph.save(out);
  print("wrote " + out + ": " + std::to_string(graph.size() - before) + " more, " + std::to_string(graph.size()) + " tasks\n");
  return 0;
}

report::TaskGraphPage page_of(const TaskGraph& graph, const Options& options) {
  report::TaskGraphPage page{.source = options.graph, .options = graph.size() > 0 ? graph.tasks().front().info.options : ""};
  page.components = static_cast<std::size_t>(graph.components());
  page.order = graph.clustered();
  page.layers = graph.layers();
  page.neighbours = static_cast<std::size_t>(options.k);
  for (std::size_t i = 0; i < graph.size(); ++i) {
    const EmbeddingInfo& info = graph.tasks()[i].info;
    page.tasks.push_back({info.task, info.modality, info.kind, info.run, static_cast<std::size_t>(info.examples), info.mean_loss});
    std::vector<double> similarity, cosine;
    std::vector<std::size_t> skipped;
    std::vector<std::vector<double>> layers;
    for (std::size_t j = 0; j < graph.size(); ++j) {
      similarity.push_back(graph.similarity(i, j));
      cosine.push_back(graph.cosine(i, j));
      skipped.push_back(static_cast<std::size_t>(graph.skipped(i, j)));
      layers.push_back(graph.by_layer(i, j));
    }
    page.similarity.push_back(std::move(similarity));
    page.cosine.push_back(std::move(cosine));
    page.skipped.push_back(std::move(skipped));
    page.by_layer.push_back(std::move(layers));
  }
  return page;
}

void show_pair(const TaskGraph& graph, const Options& options) {
  if (options.pair.size() != 2) throw UsageError({.what = "a pair is two tasks", .where = "--pair", .expected = "--pair A --pair B"});
  const std::size_t a = graph.index_of(options.pair[0]), b = graph.index_of(options.pair[1]);
  if (a == b) throw UsageError({.what = "a task is like itself", .where = "--pair", .expected = "two tasks"});
  report::Table table({{"layer"}, {"similarity", report::Align::right}});
  const std::vector<double>& values = graph.by_layer(a, b);
  for (std::size_t l = 0; l < values.size(); ++l) table.add({graph.layers()[l], {report::fixed(values[l]), Json(values[l])}});
  if (options.json) {
    print_json({{"tasks", options.pair},
                {"similarity", graph.similarity(a, b)},
                {"cosine", graph.cosine(a, b)},
                {"skipped", graph.skipped(a, b)},
                {"layers", table.json()}});
    return;
  }
  print(table.text() + "\nsimilarity " + report::fixed(graph.similarity(a, b)) + ", plain cosine " + report::fixed(graph.cosine(a, b)) +
        (graph.skipped(a, b) > 0 ? ", " + std::to_string(graph.skipped(a, b)) + " of " + std::to_string(graph.components()) +
                                       " tensors left out (zero in one of the two)"
                                 : "") +
        "\n");
}

int show(const Options& options) {
  const TaskGraph graph = TaskGraph::open(options.graph);
  if (!options.pair.empty()) {
    show_pair(graph, options);
    return 0;
  }
  const report::TaskGraphPage page = page_of(graph, options);
  if (options.html) write_file_atomically(*options.html, report::task_graph_page(page));
  if (options.svg) write_file_atomically(*options.svg, report::task_graph_picture(page).svg("task graph"));
  if (options.png) write_file_atomically(*options.png, report::task_graph_picture(page).png());
  if (options.json) {
    Json json = {{"graph", options.graph}, {"components", graph.components()}, {"order", page.order}, {"similarity", page.similarity},
                 {"cosine", page.cosine},  {"skipped", page.skipped}};
    for (const methods::GraphTask& task : graph.tasks()) json["tasks"].push_back(to_json(task.info, task.embedding));
    print_json(json);
    return 0;
  }
  std::vector<report::Column> columns = {{"task"}, {"reads"}};
  for (const std::size_t i : page.order) columns.push_back({page.tasks[i].name, report::Align::right});
  report::Table table(std::move(columns));
  for (const std::size_t i : page.order) {
    std::vector<report::Cell> row = {page.tasks[i].name, page.tasks[i].modality};
    for (const std::size_t j : page.order) row.emplace_back(report::fixed(page.similarity[i][j], 3));
    table.add(std::move(row));
  }
  print(table.text(24));
  for (const auto& file : {options.html, options.svg, options.png})
    if (file) print("wrote " + *file + "\n");
  return 0;
}

int neighbours(const Options& options) {
  if (options.items.size() != 1)
    throw UsageError({.what = "graph neighbours needs one task", .where = "arguments", .expected = "a task's name or run folder"});
  const TaskGraph graph = TaskGraph::open(options.graph);
  const std::size_t task = graph.index_of(options.items.front());
  report::Table table({{"neighbour"}, {"reads"}, {"similarity", report::Align::right}, {"cosine", report::Align::right}, {"run"}});
  for (const std::size_t i : graph.neighbours(task, static_cast<std::size_t>(options.k), options.by == "cosine")) {
    const EmbeddingInfo& info = graph.tasks()[i].info;
    table.add({info.task,
               info.modality,
               {report::fixed(graph.similarity(task, i)), graph.similarity(task, i)},
               {report::fixed(graph.cosine(task, i)), graph.cosine(task, i)},
               info.run});
  }
  if (options.json) {
    print_json(table.json());
  } else {
    print(table.text(120));
  }
  return 0;
}

int run(const Options& options, const Session& session) {
  train::set_threads(session.threads);
  if (options.action == "embed") return embed(options);
  if (options.action == "build") return build(options);
  if (options.action == "add") return add(options);
  if (options.action == "show") return show(options);
  return neighbours(options);
}

}  // namespace

Command graph_command() {
  return {.name = "graph",
          .summary = "which tasks are alike: task embeddings of runs, the graph of their similarities, neighbours, pictures",
          .example =
              "mmtune graph build runs/snips runs/banking77 runs/subjectivity --out graph.json\n"
              "mmtune graph add runs/mr_polarity --graph graph.json\n"
              "mmtune graph neighbours snips -k 2 --graph graph.json\n"
              "mmtune graph show --graph graph.json --html graph.html --png graph.png\n"
              "mmtune graph show --graph graph.json --pair snips --pair banking77\n"
              "mmtune graph embed runs/snips --samples 1000",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("ACTION", &options->action,
                                 {.help = "embed: a run's embedding; build: a graph of runs; add: runs to a graph; show; neighbours",
                                  .required = true,
                                  .choices = {"embed", "build", "add", "show", "neighbours"}});
            arguments.positional("RUN|TASK", &options->items,
                                 {.help = "run folders (or embeddings); for neighbours, a task of the graph", .required = false});
            arguments.option("--graph", &options->graph, {.help = "the graph that is read (and written, without --out)", .value = "FILE"});
            arguments.option("--out", &options->out, {.help = "what is written", .value = "FILE"});
            arguments.option("--name", &options->names, {.help = "a task's name, one a run; else the run folder's", .value = "NAME"});
            arguments.option("--modality", &options->modalities,
                             {.help = "what a task reads, one a run; else all that its backbone does", .value = "NAME"});
            arguments.option("-k", &options->k, {.help = "neighbours of a task", .value = "N", .min = 1});
            arguments.option("--by", &options->by,
                             {.help = "what neighbours are ranked by", .value = "WHAT", .choices = {"similarity", "cosine"}});
            arguments.option("--html", &options->html, {.help = "show: write a page", .value = "FILE"});
            arguments.option("--svg", &options->svg, {.help = "show: write a picture", .value = "FILE"});
            arguments.option("--png", &options->png, {.help = "show: write a picture", .value = "FILE"});
            arguments.option("--pair", &options->pair, {.help = "show: two tasks, layer by layer; give it twice", .value = "TASK"});
            arguments.option("--data", &options->data, {.help = "embed on this data instead of the run's own", .value = "MANIFEST"});
            arguments.option("--samples", &options->samples, {.help = "embed on the first n examples; 0: all", .value = "N", .min = 0});
            arguments.option("--granularity", &options->granularity,
                             {.help = "whose gradients are squared; token is approximate, micro-batch the released code's",
                              .value = "WHAT",
                              .choices = {"sample", "micro-batch", "token"}});
            arguments.option(
                "--labels", &options->labels,
                {.help = "true labels, or drawn from the model's answers", .value = "WHAT", .choices = {"empirical", "sampled"}});
            arguments.option("--mode", &options->mode, {.help = "without or with dropout", .value = "WHAT", .choices = {"eval", "train"}});
            arguments.option("--smoothing", &options->smoothing,
                             {.help = "label smoothing; else as the expert was trained", .value = "X", .min = 0, .max = 0.99});
            arguments.option(
                "--profile", &options->profile,
                {.help = "reference: micro-batches of 4, true labels, no dropout", .value = "NAME", .choices = {"standard", "reference"}});
            arguments.option("--batch", &options->batch, {.help = "examples of a pass, or of a micro-batch", .value = "N", .min = 1});
            arguments.option("--seed", &options->seed, {.help = "of dropout and drawn labels", .value = "N", .min = 0});
            arguments.flag("--again", options->again, "make embeddings anew, even where they are there");
            arguments.flag("--json", options->json, "print JSON");
            return [options](const Session& session) { return run(*options, session); };
          },
          .engine = true};
}

}  // namespace mmtune::cli
