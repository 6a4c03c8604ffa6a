#include "methods/task_embedding.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "backbones/multimodal_lm.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/version.h"
#include "data/prefetch.h"
#include "train/device.h"
#include "train/sequences.h"

namespace mmtune::methods {

namespace {

namespace fs = std::filesystem;
using train::Batch;

constexpr const char* format_name = "mmtune-task-embedding";
constexpr int format_version = 1;

/// The experts' trained tensors, each with its sum of squares.
struct Sums {
  explicit Sums(const train::Model& model) {
    for (const auto& tower : model.towers())
      for (const nn::NamedTensor& one : tower->tensors()) {
        leaves.push_back(one);
        leaves.back().tensor.mutable_grad() = at::Tensor();
        sums.push_back(at::zeros(one.tensor.sizes(), at::TensorOptions(at::kDouble).device(one.tensor.device())));
      }
  }
  /// Adds what the backward pass left: squares, or gradients that are still to be squared.
  void add(bool squared) {
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      at::Tensor& gradient = leaves[i].tensor.mutable_grad();
      if (!gradient.defined()) continue;  // the batch did not touch it
      if (!at::isfinite(gradient).all().item<bool>())
        throw Error({.what = "a gradient is not finite", .where = leaves[i].name, .hint = "is the run's expert sound? try mmtune eval"});
      if (squared) {
        sums[i].add_(gradient);
      } else {
        const at::Tensor wide = gradient.to(at::kDouble);
        sums[i].addcmul_(wide, wide);
      }
      gradient.reset();
    }
  }
  std::vector<nn::NamedTensor> leaves;
  std::vector<at::Tensor> sums;
};

/// What stands in the way of squared gradients; empty where nothing does.
std::string without_closed_form(const train::Model& model) {
  for (const auto& tower : model.towers()) {
    // Pictures of any size, beside texts: not as many rows an example. A multimodal language model reads rows of several kinds.
    const std::string& architecture = tower->backbone().info().architecture;
    if (architecture == "vilt" || architecture == "meter" || dynamic_cast<backbones::MultimodalLm*>(&tower->backbone()) != nullptr)
      return "the backbone \"" + architecture + "\"";
    for (const auto& expert : tower->experts()) {
      if (!expert->squares_gradients()) return "the kind \"" + std::string(expert->kind()) + "\"";
      // Deep prompts pass through the maps of keys and values by themselves: what learns in those maps is used twice.
      if (expert->kind() == "prompt" && tower->experts().size() > 1) return "prompts beside another expert";
    }
  }
  return {};
}

/// The first `count` examples, those of about the same length behind each other: squares do not depend on the order, and padding does.
std::vector<std::int64_t> by_length(const data::Dataset& dataset, std::int64_t count, const train::BatchReader& reader) {
  std::vector<std::pair<std::int64_t, std::int64_t>> lengths;
  for (std::int64_t i = 0; i < count; ++i) lengths.emplace_back(reader.text_tokens(dataset.examples[static_cast<std::size_t>(i)]), i);
  std::sort(lengths.begin(), lengths.end());
  std::vector<std::int64_t> order;
  for (const auto& [length, index] : lengths) order.push_back(index);
  return order;
}

std::vector<std::int64_t> in_turn(std::int64_t count) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  return order;
}

std::vector<at::Tensor> freeze(const train::Head& head) {
  std::vector<at::Tensor> learned;
  for (const nn::NamedTensor& one : head.tensors()) {
    if (!one.tensor.requires_grad()) continue;
    learned.push_back(one.tensor);
    one.tensor.requires_grad_(false);
  }
  return learned;
}

}  // namespace

std::string describe(const EmbeddingOptions& options) {
  std::string text = options.granularity == Granularity::sample  ? "sample"
                     : options.granularity == Granularity::token ? "token (approximate)"
                                                                 : "micro-batch of " + std::to_string(options.batch);
  text += options.labels == LabelSource::empirical ? ", empirical labels" : ", sampled labels";
  text += options.training ? ", train mode" : ", eval mode";
  text += options.smoothing ? ", smoothing " + std::to_string(*options.smoothing) : ", smoothing as trained";
  return text;
}

FisherDiagonal fisher_diagonal(train::Model& model, const train::Task& task, const data::Dataset& dataset, const EmbeddingOptions& options,
                               train::OnError on_error) {
  Sums sums(model);
  if (sums.leaves.empty())
    throw Error({.what = "the run trained nothing in its backbone",
                 .where = dataset.source,
                 .expected = "an expert with tensors",
                 .hint = "a run with method = \"linear\" has only a head, which belongs to its task's labels alone"});
  FisherDiagonal result;
  const std::int64_t first_example[] = {0};
  if (!dataset.examples.empty() && task.arranged(dataset, first_example, 0))
    throw UsageError({.what = "an example of this task is judged beside others, so that it has no gradient of its own",
                      .where = "task = \"" + std::string(task.name()) + "\""});
  const std::string kind = model.pair_reader() != nullptr ? "pairs of pictures" : without_closed_form(model);
  const bool micro = options.granularity == Granularity::micro_batch;
  if (!micro && !kind.empty()) {
    if (options.granularity == Granularity::token)
      throw UsageError({.what = "there are no squares by token", .where = "--granularity token", .got = kind});
    result.looped = kind + ": no closed form here, so every example had a pass of its own";
  }
  const bool squared = !micro && result.looped.empty();
  const std::int64_t size = result.looped.empty() ? options.batch : 1;
  const auto all = static_cast<std::int64_t>(dataset.examples.size());
  const std::int64_t count = options.samples > 0 ? std::min(options.samples, all) : all;
  const train::BatchReader reader = model.reader(on_error, squared);
  const std::vector<std::int64_t> order = squared ? by_length(dataset, count, reader) : in_turn(count);
  const auto read = [&](std::int64_t index) {
    const std::int64_t begin = index * size;
    return reader.read(dataset,
                       std::span(order).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(std::min(size, count - begin))));
  };
  const std::int64_t batches = (count + size - 1) / size;
  data::Prefetcher<Batch> prefetcher(0, batches, read, 1, 3);
  const std::vector<at::Tensor> head = model.has_head() ? freeze(model.head()) : std::vector<at::Tensor>();
  Progress progress("embedding", count, "examples");
  const auto begin = std::chrono::steady_clock::now();
  double loss_sum = 0;
  std::int64_t number = 0, used = 0;
  while (std::optional<Batch> batch = prefetcher.next()) {
    const std::int64_t stream = number++;
    if (batch->examples.empty()) continue;
    ++used;
    result.examples += static_cast<std::int64_t>(batch->examples.size());
    nn::Context context{.training = options.training};
    const at::Generator generator = train::generator_on(model.device(), mix_seed(options.seed, static_cast<std::uint64_t>(stream)));
    if (options.training) context.generator = generator;
    if (squared) context.examples = 1;
    context.by_row = options.granularity == Granularity::token;
    const at::Tensor logits = model.forward(*batch, context);
    const at::Tensor loss =
        options.labels == LabelSource::sampled ? task.sampled_loss(logits, generator) : task.loss(logits, dataset, batch->examples);
    loss_sum += loss.item<double>();
    loss.backward();
    sums.add(squared);
    progress.update(result.examples);
  }
  progress.finish();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  for (const at::Tensor& one : head) one.requires_grad_(true);
  if (result.examples == 0) throw Error({.what = "no example could be read", .where = dataset.source});
  result.mean_loss = loss_sum / static_cast<double>(result.examples);
  // A short last micro-batch counts as a whole one, as in the released code.
  const auto divisor = static_cast<double>(micro ? used * options.batch : result.examples);
  bool any = false;
  for (std::size_t i = 0; i < sums.leaves.size(); ++i) {
    result.components.push_back({sums.leaves[i].name, sums.sums[i].div_(divisor).to(at::kFloat).to(at::kCPU)});
    if (!at::isfinite(result.components.back().tensor).all().item<bool>())
      throw Error({.what = "squared gradients are too large for float32", .where = sums.leaves[i].name});
    any = any || result.components.back().tensor.count_nonzero().item<std::int64_t>() > 0;
  }
  if (!any)
    throw Error({.what = "every squared gradient is zero: the embedding would say nothing",
                 .where = dataset.source,
                 .got = "a mean loss of " + std::to_string(result.mean_loss),
                 .hint = "does the expert reach the head? a head of zeros, or a loss that is exactly 0, hides it"});
  return result;
}

Json to_json(const EmbeddingInfo& info) {
  return {{"format", format_name},
          {"format_version", format_version},
          {"mmtune", version()},
          {"task", info.task},
          {"run", info.run},
          {"expert", info.expert},
          {"kind", info.kind},
          {"modality", info.modality},
          {"backbones", info.backbones},
          {"backbone_names", info.backbone_names},
          {"options", info.options},
          {"examples", info.examples},
          {"batch", info.batch},
          {"mean_loss", info.mean_loss},
          {"looped", info.looped}};
}

EmbeddingInfo embedding_info(const Json& json, const std::string& where) try {
  if (json.at("format") != format_name) throw Error({.what = "not a task embedding", .where = where});
  if (json.at("format_version") != format_version)
    throw Error({.what = "a task embedding of another version",
                 .where = where,
                 .expected = std::to_string(format_version),
                 .got = printable(json.at("format_version").dump())});
  EmbeddingInfo info;
  info.task = json.at("task");
  info.run = json.at("run");
  info.expert = json.at("expert");
  info.kind = json.at("kind");
  info.modality = json.at("modality");
  info.backbones = json.at("backbones").get<std::vector<std::string>>();
  info.backbone_names = json.at("backbone_names").get<std::vector<std::string>>();
  info.options = json.at("options");
  info.examples = json.at("examples");
  info.batch = json.at("batch");
  info.mean_loss = json.at("mean_loss");
  info.looped = json.at("looped");
  return info;
} catch (const Json::exception&) {
  throw Error({.what = "the description of a task embedding is damaged", .where = where, .hint = "make it anew: mmtune graph embed RUN"});
}

TaskEmbedding TaskEmbedding::open(const fs::path& path) {
  TaskEmbedding opened(path, io::SafetensorsFile::open(path));
  const auto text = opened.file_.metadata().find("mmtune");
  if (text == opened.file_.metadata().end())
    throw Error({.what = "not a task embedding", .where = path.string(), .expected = "a file that mmtune graph embed made"});
  opened.info_ = embedding_info(parse_json(text->second, path.string() + " (metadata \"mmtune\")"), path.string());
  bool any = false;
  for (const io::TensorEntry& one : opened.components()) {
    if (one.dtype != io::DType::f32) throw Error({.what = "tensor \"" + printable(one.name) + "\" is not float32", .where = path.string()});
    const auto* const numbers = reinterpret_cast<const float*>(one.data.data());
    const std::int64_t count = one.elements();
    std::int64_t sound = 0, positive = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      sound += numbers[i] >= 0 && numbers[i] <= std::numeric_limits<float>::max() ? 1 : 0;
      positive += numbers[i] > 0 ? 1 : 0;
    }
    if (sound < count)
      throw Error({.what = "tensor \"" + printable(one.name) + "\" holds a negative or infinite number, which no mean of squares is",
                   .where = path.string(),
                   .hint = "make it anew: mmtune graph embed " + opened.info_.run});
    any = any || positive > 0;
  }
  if (!any)
    throw Error({.what = "the embedding is zero throughout and cannot be compared",
                 .where = path.string(),
                 .hint = "make it anew: mmtune graph embed " + opened.info_.run});
  opened.forget();
  return opened;
}

void TaskEmbedding::forget() const {
  // All at once: a page that two tensors share would stay with each of them.
  const auto begins_before = [](const io::TensorEntry& a, const io::TensorEntry& b) { return a.data.data() < b.data.data(); };
  const auto [first, last] = std::minmax_element(components().begin(), components().end(), begins_before);
  if (first != components().end())
    file_.mapping()->forget({first->data.data(), static_cast<std::size_t>(last->data.data() + last->data.size() - first->data.data())});
}

namespace {

void collect_experts(const fs::path& folder, std::vector<fs::path>& files) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder))
    if (entry.path().filename() == "adapter_model.safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts)
    if (text.find(part) == std::string::npos) text += (text.empty() ? "" : "+") + part;
  return text;
}

}  // namespace

std::string expert_fingerprint(const fs::path& run) {
  std::vector<fs::path> files;
  if (fs::is_directory(run / "expert")) collect_experts(run / "expert", files);
  Fingerprint fingerprint;
  for (const fs::path& path : files) {
    const io::SafetensorsFile file = io::SafetensorsFile::open(path);
    for (const io::TensorEntry& one : file.tensors()) fingerprint.add_field(one.name).add(one.data);
  }
  return fingerprint.hex();
}

fs::path embedding_of_run(const fs::path& run) {
  return run / "embedding.safetensors";
}

EmbeddingInfo embed_run(const fs::path& run, const EmbeddingOptions& options, const fs::path& out, const std::optional<std::string>& data) {
  std::error_code ignored;
  if (!fs::is_directory(run, ignored))
    throw Error({.what = "there is no such run folder", .where = run.string(), .expected = "a folder that mmtune train left"});
  const std::vector<std::string> padded = {"train.packing=padded"};
  train::TrainedRun opened = train::open_run(run, padded);
  train::DataSection section = opened.recipe.data;
  data::Dataset dataset;
  if (data) {
    dataset = data::read_dataset(train::question_options_of(section, *data, *opened.task));
  } else {
    if (opened.task->labelled()) {
      section.classes = opened.task->classes();
      section.classes_file.clear();
    }
    dataset = train::read_training_data(section, opened.recipe.train.seed, opened.task->labelled()).train;
    std::erase_if(dataset.examples, [&](const data::Example& example) { return !opened.task->learns_from(example); });
  }
  train::Recipe recipe = std::move(opened.recipe);
  if (options.smoothing) recipe.loss.label_smoothing = *options.smoothing;
  // A run's record does not keep what only training needs: smoothing and weights of classes.
  auto* const sequences = dynamic_cast<train::Sequences*>(opened.task.get());
  if (sequences != nullptr) {
    sequences->set_label_smoothing(recipe.loss.label_smoothing);
    dataset = sequences->spread(std::move(dataset));
  }
  const std::unique_ptr<train::Task> task =
      opened.task->labelled() && sequences == nullptr ? train::make_task(recipe, dataset) : std::move(opened.task);
  const FisherDiagonal diagonal = fisher_diagonal(*opened.model, *task, dataset, options, recipe.data.on_error);
  if (!diagonal.looped.empty()) log_warning(diagonal.looped);

  EmbeddingInfo info;
  const fs::path folder = fs::canonical(run);
  info.task = folder.filename().string();
  info.run = folder.string();
  info.expert = expert_fingerprint(folder);
  std::vector<std::string> kinds, modalities;
  for (const auto& tower : opened.model->towers()) {
    for (const auto& expert : tower->experts()) kinds.emplace_back(expert->kind());
    modalities.emplace_back(backbones::name_of(tower->modality()));
    info.backbone_names.push_back(tower->checkpoint().folder().filename().string());
  }
  for (const Json& tower : opened.record.at("backbones")) info.backbones.push_back(tower.at("fingerprint").get<std::string>());
  std::sort(modalities.begin(), modalities.end());
  info.kind = joined(kinds);
  info.modality = joined(modalities);
  info.options = describe(options);
  info.examples = diagonal.examples;
  info.batch = options.batch;
  info.mean_loss = diagonal.mean_loss;
  info.looped = diagonal.looped;
  info.seconds = diagonal.seconds;
  std::vector<io::TensorEntry> entries;
  for (const nn::NamedTensor& one : diagonal.components) entries.push_back(nn::to_entry(one.name, one.tensor));
  io::write_safetensors(out, entries, {{"format", "pt"}, {"mmtune", to_json(info).dump()}});
  return info;
}

}  // namespace mmtune::methods
