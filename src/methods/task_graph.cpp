#include "methods/task_graph.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>
#include <span>

#include "core/error.h"
#include "core/files.h"
#include "core/listed.h"
#include "core/nearest.h"
#include "core/version.h"
#include "methods/similarity_kernel.h"

namespace mmtune::methods {

namespace {

namespace fs = std::filesystem;

constexpr const char* format_name = "mmtune-task-graph";
constexpr int format_version = 1;

std::string quoted(const std::string& name) {
  return "\"" + printable(name) + "\"";
}

/// A number that must lie in [low, high], or NaN for null.
double number_of(const Json& json, const std::string& where, double low = 0, double high = 1) {
  if (json.is_null()) return std::nan("");
  const auto value = json.get<double>();
  if (!(value >= low - 1e-6 && value <= high + 1e-6))
    throw Error({.what = "a similarity is out of range", .where = where, .expected = "0 to 1", .got = std::to_string(value)});
  return value;
}

}  // namespace

PairSimilarity compare(const std::vector<ComponentView>& a, const std::vector<ComponentView>& b) {
  MMTUNE_ASSERT(a.size() == b.size());
  PairSimilarity result;
  double ab = 0, aa = 0, bb = 0, sum = 0;
  std::vector<SimilaritySums> of_component(a.size());
  at::parallel_for(0, static_cast<std::int64_t>(a.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      MMTUNE_ASSERT(a[i].name == b[i].name && a[i].count == b[i].count);
      of_component[i] = similarity_sums(a[i].numbers, b[i].numbers, a[i].count, similarity_epsilon);
    }
  });
  for (std::size_t i = 0; i < a.size(); ++i) {
    const SimilaritySums& sums = of_component[i];
    ab += sums.ab;
    aa += sums.aa;
    bb += sums.bb;
    ComponentSimilarity one{.name = a[i].name, .value = 0, .skipped = !(sums.uu > 0 && sums.vv > 0)};
    if (one.skipped) {
      ++result.skipped;
    } else {
      one.value = std::min(1.0, sums.uv / (std::sqrt(sums.uu) * std::sqrt(sums.vv)));
      sum += one.value;
    }
    result.components.push_back(std::move(one));
  }
  const auto compared = static_cast<double>(static_cast<std::int64_t>(a.size()) - result.skipped);
  if (compared > 0) result.similarity = sum / compared;
  if (aa > 0 && bb > 0) result.cosine = std::min(1.0, ab / (std::sqrt(aa) * std::sqrt(bb)));
  return result;
}

PairSimilarity compare(const TaskEmbedding& a, const TaskEmbedding& b) {
  PairSimilarity result = compare(components_of(a), components_like(a, b));
  if (result.skipped == static_cast<std::int64_t>(result.components.size()))
    throw Error(
        {.what = "no tensor is other than zero in both embeddings", .where = quoted(b.info().task) + " beside " + quoted(a.info().task)});
  return result;
}

std::string layer_of_component(const std::string& name) {
  // The last number of the path, and in hierarchical models the stage before it.
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  const std::string tower = parts.empty() ? "" : parts.front();
  const auto is_number = [](const std::string& text) { return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos; };
  std::string label;
  for (std::size_t i = 1; i < parts.size(); ++i) {
    if (!is_number(parts[i])) continue;
    const std::string& what = parts[i - 1];
    if (what == "layer" || what == "layers" || what == "block" || what == "blocks" || what == "resblocks")
      label += (label.empty() ? "" : ", block ") + parts[i];
  }
  if (label.empty()) return tower + ": outside the blocks";
  std::string side;
  for (const char* one : {"encoder", "decoder"})
    if (std::find(parts.begin(), parts.end(), one) != parts.end()) side = one;
  const bool stages = label.find(',') != std::string::npos;
  return tower + ": " + (side == "decoder" ? "decoder " : "") + (stages ? "stage " : "layer ") + label;
}

void TaskGraph::add(const std::vector<TaskEmbedding>& embeddings, const std::vector<std::string>& names,
                    const std::function<void(double)>& notice) {
  MMTUNE_ASSERT(names.size() == embeddings.size());
  std::vector<GraphTask> tasks = tasks_;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const TaskEmbedding& embedding = embeddings[i];
    for (const GraphTask& task : tasks)
      if (task.info.task == names[i])
        throw UsageError({.what = "two tasks have the same name",
                          .where = quoted(names[i]),
                          .got = printable(task.info.run) + " and " + printable(embedding.info().run),
                          .hint = "give names: --name A --name B …, one a run"});
    tasks.push_back({embedding.info(), fs::absolute(embedding.path()).lexically_normal().string()});
    tasks.back().info.task = names[i];
  }
  std::vector<TaskEmbedding> known;  // mapped, and in memory only while they are compared
  for (const GraphTask& task : tasks_) {
    fs::path path = task.embedding;
    if (path.is_relative()) path = folder_ / path;
    std::error_code ignored;
    if (!fs::exists(path, ignored))
      throw Error({.what = "the embedding of a task of the graph is gone",
                   .where = quoted(task.info.task),
                   .expected = path.string(),
                   .hint = "make it anew (mmtune graph embed " + printable(task.info.run) + "), or build the graph without it"});
    known.push_back(TaskEmbedding::open(path));
  }
  std::vector<const TaskEmbedding*> all;
  for (const TaskEmbedding& one : known) all.push_back(&one);
  for (const TaskEmbedding& one : embeddings) all.push_back(&one);
  if (all.empty()) return;

  std::vector<std::string> layers = layers_;
  PairwiseOptions options{.first = tasks_.size(), .layer_of = {}, .layers = 0, .notice = {}};
  for (const io::TensorEntry& one : all.front()->components()) {
    const std::string layer = layer_of_component(one.name);
    const auto found = std::find(layers.begin(), layers.end(), layer);
    options.layer_of.push_back(static_cast<std::size_t>(found - layers.begin()));
    if (found == layers.end()) layers.push_back(layer);
  }
  options.layers = layers.size();
  const auto chunks = static_cast<double>(chunk_count(*all.front(), all.size()));
  if (notice) options.notice = [&](std::int64_t done) { notice(static_cast<double>(done) / chunks); };
  std::vector<PairSummary> compared = compare_all(all, options);
  auto next = compared.begin();
  for (std::size_t j = tasks_.size(); j < all.size(); ++j) {
    const auto end = next + static_cast<std::ptrdiff_t>(j);
    pairs_.emplace_back(std::make_move_iterator(next), std::make_move_iterator(end));
    pairs_.back().emplace_back();
    next = end;
  }
  tasks_ = std::move(tasks);
  layers_ = std::move(layers);
  components_ = static_cast<std::int64_t>(all.front()->components().size());
}

std::size_t TaskGraph::index_of(const std::string& task) const {
  std::error_code ignored;
  const fs::path folder = fs::weakly_canonical(task, ignored);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    if (tasks_[i].info.task == task) return i;
    names.push_back(tasks_[i].info.task);
  }
  for (std::size_t i = 0; i < tasks_.size(); ++i)
    if (fs::path(tasks_[i].info.run) == folder) return i;
  const auto close = nearest(task, names);
  throw UsageError({.what = "the graph has no such task",
                    .where = quoted(task),
                    .expected = "one of " + listed(names, 8),
                    .hint = close ? "did you mean \"" + *close + "\"?" : "mmtune graph add puts a run into it"});
}

namespace {

template <class Less>
std::vector<std::size_t> first_of(std::size_t task, std::size_t size, std::size_t k, Less less) {
  if (k + 1 > size)
    throw UsageError({.what = "the graph has too few tasks",
                      .where = std::to_string(k) + " neighbours",
                      .expected = size < 2 ? "a graph of two tasks and more" : "at most " + std::to_string(size - 1),
                      .got = std::to_string(size) + (size == 1 ? " task" : " tasks")});
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < size; ++i)
    if (i != task) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), less);
  order.resize(k);
  return order;
}

}  // namespace

std::vector<std::size_t> TaskGraph::neighbours(std::size_t task, std::size_t k, bool by_cosine) const {
  return first_of(task, size(), k, [&](std::size_t a, std::size_t b) {
    return by_cosine ? cosine(task, a) > cosine(task, b) : similarity(task, a) > similarity(task, b);
  });
}

std::vector<std::size_t> TaskGraph::strangers(std::size_t task, std::size_t k) const {
  return first_of(task, size(), k, [&](std::size_t a, std::size_t b) { return similarity(task, a) < similarity(task, b); });
}

std::vector<std::size_t> TaskGraph::clustered() const {
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < size(); ++i) groups.push_back({i});
  const auto alike = [&](const std::vector<std::size_t>& a, const std::vector<std::size_t>& b) {
    double sum = 0;
    for (const std::size_t i : a)
      for (const std::size_t j : b) sum += similarity(i, j);
    return sum / static_cast<double>(a.size() * b.size());
  };
  std::vector<std::vector<double>> table(groups.size(), std::vector<double>(groups.size(), 0.0));
  for (std::size_t i = 0; i < groups.size(); ++i)
    for (std::size_t j = i + 1; j < groups.size(); ++j) table[i][j] = table[j][i] = alike(groups[i], groups[j]);
  std::vector<bool> live(groups.size(), true);
  for (std::size_t left = groups.size(); left > 1; --left) {
    std::size_t best_i = 0, best_j = 0;
    double best = -1;
    for (std::size_t i = 0; i < groups.size(); ++i)
      for (std::size_t j = i + 1; j < groups.size(); ++j)
        if (live[i] && live[j] && table[i][j] > best) {
          best = table[i][j];
          best_i = i;
          best_j = j;
        }
    // The ends that are more alike meet in the middle.
    std::vector<std::size_t>&a = groups[best_i], &b = groups[best_j];
    const double ends[] = {similarity(a.back(), b.front()), similarity(a.back(), b.back()), similarity(a.front(), b.front()),
                           similarity(a.front(), b.back())};
    const auto meet = std::max_element(std::begin(ends), std::end(ends)) - std::begin(ends);
    if (meet >= 2) std::reverse(a.begin(), a.end());
    if (meet % 2 == 1) std::reverse(b.begin(), b.end());
    // Average linkage: the mean over all pairs, kept up by the groups' sizes.
    const auto na = static_cast<double>(a.size()), nb = static_cast<double>(b.size());
    a.insert(a.end(), b.begin(), b.end());
    live[best_j] = false;
    for (std::size_t other = 0; other < groups.size(); ++other)
      if (live[other] && other != best_i)
        table[best_i][other] = table[other][best_i] = (na * table[best_i][other] + nb * table[best_j][other]) / (na + nb);
  }
  for (std::size_t i = 0; i < groups.size(); ++i)
    if (live[i]) return groups[i];
  return {};
}

void TaskGraph::save(const fs::path& path) const {
  Json tasks = Json::array();
  for (const GraphTask& one : tasks_) {
    Json task = to_json(one.info);
    task["embedding"] = one.embedding;
    tasks.push_back(std::move(task));
  }
  const Json head = {
      {"format", format_name},
      {"format_version", format_version},
      {"mmtune", version()},
      {"components", components_},
      {"layers", layers_},
      {"about",
       "similarity: mean over tensors of the cosine of F_i/(F_i+F_j+1e-6) and F_j/(F_i+F_j+1e-6); cosine: of the embeddings "
       "themselves; skipped: tensors that are zero in one of the two; pairs: i, j < i, and the mean similarity of every layer"},
      {"tasks", std::move(tasks)}};
  const auto of_all = [&](auto number) {
    return [this, number](std::size_t i) {
      Json values = Json::array();
      for (std::size_t j = 0; j < size(); ++j) values.push_back(pair(i, j).*number);
      return values;
    };
  };
  const auto layers_of = [&](std::size_t i) {
    Json row = Json::array();
    for (std::size_t j = 0; j < i; ++j) {
      Json values = Json::array();
      for (const double value : pair(i, j).layers) values.push_back(std::isfinite(value) ? Json(std::round(value * 1e6) / 1e6) : Json());
      row.push_back(std::move(values));
    }
    return row;
  };
  write_file_atomically(path, [&](const ByteSink& sink) {
    const auto put = [&](const std::string& text) { sink(std::as_bytes(std::span(text))); };
    put("{\n");
    for (const auto& [key, value] : head.items()) put(Json(key).dump() + ": " + value.dump() + ",\n");
    // A row at a time: as one tree of values many tasks would take several times the file.
    const auto put_rows = [&](const std::string& key, const std::function<Json(std::size_t)>& row, const std::string& end) {
      put("\"" + key + "\": [\n");
      for (std::size_t i = 0; i < size(); ++i) put(row(i).dump() + (i + 1 < size() ? ",\n" : "\n"));
      put("]" + end + "\n");
    };
    put_rows("similarity", of_all(&PairSummary::similarity), ",");
    put_rows("cosine", of_all(&PairSummary::cosine), ",");
    put_rows("skipped", of_all(&PairSummary::skipped), ",");
    put_rows("pairs", layers_of, "");
    put("}\n");
  });
}

TaskGraph TaskGraph::open(const fs::path& path) try {
  const Json json = read_json_file(path);
  const std::string where = path.string();
  if (!json.is_object() || json.value("format", Json()) != format_name)
    throw Error({.what = "not a task graph", .where = where, .expected = "a file that mmtune graph build made"});
  if (json.at("format_version") != format_version)
    throw Error({.what = "a task graph of another version", .where = where, .expected = std::to_string(format_version)});
  TaskGraph graph;
  graph.folder_ = fs::absolute(path).parent_path();
  graph.layers_ = json.at("layers").get<std::vector<std::string>>();
  graph.components_ = json.at("components");
  for (const Json& task : json.at("tasks")) graph.tasks_.push_back({embedding_info(task, where), task.at("embedding").get<std::string>()});
  const std::size_t n = graph.tasks_.size();
  for (const char* key : {"similarity", "cosine", "skipped", "pairs"})
    if (json.at(key).size() != n) throw Error({.what = std::string("\"") + key + "\" has not a row a task", .where = where});
  for (std::size_t i = 0; i < n; ++i) {
    graph.pairs_.emplace_back(i + 1);
    for (std::size_t j = 0; j <= i; ++j) {
      PairSummary& pair = graph.pairs_[i][j];
      pair.similarity = number_of(json.at("similarity").at(i).at(j), where);
      pair.cosine = number_of(json.at("cosine").at(i).at(j), where);
      pair.skipped = json.at("skipped").at(i).at(j);
      if (number_of(json.at("similarity").at(j).at(i), where) != pair.similarity)
        throw Error({.what = "the similarities are not symmetric", .where = where});
      if (j < i) {
        for (const Json& value : json.at("pairs").at(i).at(j)) pair.layers.push_back(number_of(value, where));
        if (pair.layers.size() != graph.layers_.size()) throw Error({.what = "a pair has not a number a layer", .where = where});
      }
    }
  }
  return graph;
} catch (const Json::exception&) {
  throw Error({.what = "the task graph is damaged", .where = path.string(), .hint = "make it anew: mmtune graph build RUN… --out FILE"});
}

}  // namespace mmtune::methods
