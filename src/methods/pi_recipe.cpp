// The recipe of method = "pi": which experts are averaged (named, or a task's neighbours in a graph), and how.

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "core/error.h"
#include "data/random.h"
#include "experts/interpolated.h"
#include "experts/kinds.h"
#include "methods/task_graph.h"

namespace mmtune::methods {

namespace {

using experts::CoefficientSharing;
using experts::Interpolated;
using experts::InterpolationPart;

enum class Pick { nearest, random, least_similar };
enum class Start { uniform, similarity };

struct Options {
  std::string target, graph, task;
  std::vector<std::string> experts;
  std::int64_t neighbours = 2;
  Pick pick = Pick::nearest;
  std::int64_t pick_seed = 0;
  CoefficientSharing sharing = CoefficientSharing::site;
  bool train_experts = true, train_coefficients = true, once = false;
  Start start = Start::uniform;
  double temperature = 0.1;
  double coefficient_lr = 0.05;
  std::optional<double> target_share;
  std::vector<double> weights;
};

/// What is averaged: run folders, and how alike each is to the target (1 where nobody knows).
struct Choice {
  std::vector<std::string> runs;
  std::vector<double> similarity;
  std::optional<std::size_t> target;
};

class Recipe final : public experts::ExpertRecipe {
 public:
  std::string_view kind() const override { return "pi"; }
  std::string_view summary() const override {
    return "an average of trained experts, its coefficients learned (pi-Tuning, Wu et al. 2023)";
  }

  void declare(OptionVisitor& v) override {
    v.field("target", options_.target, {.help = "run folder of the task's own expert", .unset = "none takes part"});
    v.field("experts", options_.experts, {.help = "run folders of the other experts", .unset = "the neighbours in the graph"});
    v.field("graph", options_.graph, {.help = "a task graph (mmtune graph build) that the neighbours are taken from"});
    v.field("task", options_.task, {.help = "the task of the graph whose neighbours are wanted", .unset = "the one of target"});
    v.field("neighbours", options_.neighbours, {.help = "how many tasks of the graph take part beside the target", .min = 0, .max = 4096});
    v.choice("pick", options_.pick,
             {{"nearest", Pick::nearest, "the most similar"},
              {"random", Pick::random, "drawn by pick_seed"},
              {"least_similar", Pick::least_similar, "the least similar"}},
             {.help = "which tasks of the graph (the other two are for comparison)"});
    v.field("pick_seed", options_.pick_seed, {.help = "of pick = \"random\"", .min = 0});
    v.choice("share", options_.sharing,
             {{"site", CoefficientSharing::site, "an adapter, an attention module, a layer's prefix"},
              {"layer", CoefficientSharing::layer, "a block"},
              {"global", CoefficientSharing::global, "one set for all"}},
             {.help = "which tensors share their coefficients"});
    v.field("train_experts", options_.train_experts, {.help = "train the experts too, not only their coefficients"});
    v.field("train_coefficients", options_.train_coefficients, {.help = "learn the coefficients; else they stay as they start"});
    v.field("coefficient_lr", options_.coefficient_lr,
            {.help = "learning rate of the coefficients' logits, without weight decay (the released code uses train.lr)", .above = 0});
    v.choice("start", options_.start,
             {{"uniform", Start::uniform, "all the same"},
              {"similarity", Start::similarity, "softmax of the graph's similarities over temperature"}},
             {.help = "coefficients at the start"});
    v.field("temperature", options_.temperature, {.help = "of start = \"similarity\"", .above = 0});
    v.field("target_share", options_.target_share,
            {.help = "the target's coefficient at the start; the others share the rest", .above = 0, .below = 1, .unset = "as start says"});
    v.field("weights", options_.weights,
            {.help = "fixed weights instead of coefficients, one an expert, the target's first (task arithmetic)",
             .min = -100,
             .max = 100,
             .unset = "coefficients"});
    v.field("once", options_.once, {.help = "average once, then train the one expert that comes of it"});
    v.require("experts", options_.experts.empty() || options_.graph.empty(), "either experts or graph");
    v.require("target", !options_.target.empty() || !options_.experts.empty() || !options_.graph.empty(), "a target, experts or a graph");
    v.require("graph", options_.graph.empty() || !options_.target.empty() || !options_.task.empty(), "with target or task");
    v.require("start", options_.start == Start::uniform || !options_.graph.empty(), "a graph for \"similarity\"");
    v.require("target_share", !options_.target_share || !options_.target.empty(), "a target");
  }

  std::vector<std::string*> paths() override {
    std::vector<std::string*> all = {&options_.target, &options_.graph};
    for (std::string& one : options_.experts) all.push_back(&one);
    return all;
  }

  void read_config(const Json&, const std::string& where) override {
    throw Error({.what = "an average of experts is kept as the one expert that it has become", .where = where});
  }

  bool needs_fingerprint() const override { return true; }
  std::unique_ptr<experts::Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    return build_on(backbone, "", std::move(generator));
  }

  std::unique_ptr<experts::Expert> build_on(backbones::Backbone& backbone, const std::string& fingerprint, at::Generator) const override {
    const Choice choice = choose();
    std::vector<InterpolationPart> parts;
    for (const std::string& run : choice.runs) parts.push_back(experts::read_part(run, backbone, fingerprint));
    experts::InterpolationOptions options{.sharing = options_.sharing,
                                          .train_experts = options_.train_experts,
                                          .train_coefficients = options_.train_coefficients,
                                          .start = start_of(choice),
                                          .weights = options_.weights,
                                          .once = options_.once,
                                          .coefficient_lr = options_.coefficient_lr};
    if (!options.weights.empty() && options.weights.size() != parts.size())
      throw UsageError({.what = "one weight an expert is needed",
                        .where = "expert.weights",
                        .expected = std::to_string(parts.size()) + " numbers",
                        .got = std::to_string(options.weights.size())});
    return std::make_unique<Interpolated>(backbone, std::move(parts), choice.target, options);
  }

 private:
  Choice choose() const {
    Choice choice;
    if (!options_.target.empty()) {
      choice.target = 0;
      choice.runs.push_back(options_.target);
      choice.similarity.push_back(1);
    }
    for (const std::string& run : options_.experts) {
      choice.runs.push_back(run);
      choice.similarity.push_back(1);
    }
    if (!options_.graph.empty()) add_neighbours(choice);
    if (choice.runs.empty())
      throw UsageError({.what = "no experts are named that could be averaged",
                        .where = "expert.method = \"pi\"",
                        .expected = "expert.target, expert.experts, or expert.graph with neighbours"});
    return choice;
  }

  void add_neighbours(Choice& choice) const {
    const TaskGraph graph = TaskGraph::open(options_.graph);
    const std::size_t task = graph.index_of(options_.task.empty() ? options_.target : options_.task);
    const auto k = static_cast<std::size_t>(options_.neighbours);
    std::vector<std::size_t> chosen;
    if (options_.pick == Pick::nearest) chosen = graph.neighbours(task, k);
    if (options_.pick == Pick::least_similar) chosen = graph.strangers(task, k);
    if (options_.pick == Pick::random) {
      chosen = graph.neighbours(task, graph.size() - 1);
      std::sort(chosen.begin(), chosen.end());
      if (k > chosen.size()) chosen = graph.neighbours(task, k);  // throws: there are not so many
      data::Random random(static_cast<std::uint64_t>(options_.pick_seed));
      data::shuffle(chosen, random);
      chosen.resize(k);
    }
    for (const std::size_t i : chosen) {
      choice.runs.push_back(graph.tasks()[i].info.run);
      choice.similarity.push_back(graph.similarity(task, i));
    }
  }

  /// Coefficients at the start; empty: all the same.
  std::vector<double> start_of(const Choice& choice) const {
    std::vector<double> shares(choice.runs.size(), 1.0);
    if (options_.start == Start::similarity)
      for (std::size_t i = 0; i < shares.size(); ++i) shares[i] = std::exp((choice.similarity[i] - 1.0) / options_.temperature);
    if (options_.target_share && shares.size() > 1) {
      const double others = std::accumulate(shares.begin() + 1, shares.end(), 0.0);
      for (std::size_t i = 1; i < shares.size(); ++i) shares[i] *= (1 - *options_.target_share) / others;
      shares[0] = *options_.target_share;
    } else if (options_.start == Start::uniform) {
      return {};
    }
    return shares;
  }

  Options options_;
};

}  // namespace

}  // namespace mmtune::methods

namespace mmtune::experts {

std::unique_ptr<ExpertRecipe> pi_recipe() {
  return std::make_unique<methods::Recipe>();
}

}  // namespace mmtune::experts
