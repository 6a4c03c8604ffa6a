#include "methods/pairwise.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/listed.h"
#include "methods/similarity_kernel.h"

namespace mmtune::methods {

namespace {

/// Numbers of all embeddings that are in memory at a time: 2 MiB of float32, and 4 MiB more for products in double.
constexpr std::int64_t numbers_at_once = std::int64_t{1} << 19;
/// Embeddings whose products with all that follow them are one matrix product.
constexpr std::int64_t rows_at_once = 64;

std::string quoted(const std::string& name) {
  return "\"" + printable(name) + "\"";
}

std::string text_of(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : " and ") + printable(name);
  return text;
}

void refuse_unlike(const EmbeddingInfo& a, const EmbeddingInfo& b) {
  const std::string where = quoted(b.task) + " beside " + quoted(a.task);
  if (a.backbones != b.backbones)
    throw Error({.what = "the two tasks' experts belong to different backbones, so their embeddings lie in different spaces",
                 .where = where,
                 .expected = text_of(a.backbone_names) + " (fingerprint " + text_of(a.backbones) + ")",
                 .got = text_of(b.backbone_names) + " (fingerprint " + text_of(b.backbones) + ")"});
  if (a.kind != b.kind)
    throw Error({.what = "experts of different kinds cannot be compared", .where = where, .expected = a.kind, .got = printable(b.kind)});
  if (a.options != b.options)
    throw Error({.what = "the embeddings were made in different ways",
                 .where = where,
                 .expected = printable(a.options),
                 .got = printable(b.options),
                 .hint = "make them alike: mmtune graph embed RUN, or graph build with --again"});
}

/// Coordinates of a chunk: whole stretches of the kernel, so that sums do not depend on how many embeddings there are.
std::int64_t chunk_length(std::size_t embeddings) {
  const std::int64_t fair = numbers_at_once / static_cast<std::int64_t>(embeddings);
  return std::max<std::int64_t>(fair / similarity_stretch, 1) * similarity_stretch;
}

/// Sums over the pairs of some embeddings.
class Pairs {
 public:
  Pairs(std::size_t count, std::size_t first) : count_(static_cast<std::int64_t>(count)) {
    for (auto j = static_cast<std::int64_t>(std::max<std::size_t>(first, 1)); j < count_; ++j) {
      begins_.push_back({static_cast<std::int64_t>(places_.size()), j});
      for (std::int64_t i = 0; i < j; ++i) places_.push_back({i, j});
    }
  }
  struct Place {
    std::int64_t i, j;
  };
  struct Begin {
    std::int64_t pair, j;
  };
  const std::vector<Place>& places() const { return places_; }
  /// The pairs (·, j) lie behind one another.
  const std::vector<Begin>& begins() const { return begins_; }

 private:
  std::int64_t count_;
  std::vector<Place> places_;
  std::vector<Begin> begins_;
};

/// Adds the products of a chunk's rows [N, n] to those of every pair, and every row's own.
void add_products(const at::Tensor& chunk, const Pairs& pairs, std::vector<double>& products, std::vector<double>& squares) {
  const at::Tensor wide = chunk.to(at::kDouble);
  const auto& begins = pairs.begins();
  for (std::int64_t row = 0; row < begins.front().j; ++row)
    squares[static_cast<std::size_t>(row)] += at::dot(wide[row], wide[row]).item<double>();
  for (std::size_t begin = 0; begin < begins.size(); begin += static_cast<std::size_t>(rows_at_once)) {
    const std::size_t end = std::min(begin + static_cast<std::size_t>(rows_at_once), begins.size());
    const std::int64_t from = begins[begin].j, some = static_cast<std::int64_t>(end - begin);
    // Of what follows a row nothing is needed: the last of these has the most before it.
    const at::Tensor made = at::mm(wide.narrow(0, from, some), wide.narrow(0, 0, from + some).t()).contiguous();
    const auto* const numbers = made.const_data_ptr<double>();
    for (std::size_t row = begin; row < end; ++row) {
      const auto* const line = numbers + static_cast<std::int64_t>(row - begin) * (from + some);
      for (std::int64_t i = 0; i < begins[row].j; ++i) products[static_cast<std::size_t>(begins[row].pair + i)] += line[i];
      squares[static_cast<std::size_t>(begins[row].j)] += line[begins[row].j];
    }
  }
}

}  // namespace

std::vector<ComponentView> components_of(const TaskEmbedding& embedding) {
  std::vector<ComponentView> views;
  for (const io::TensorEntry& one : embedding.components())
    views.push_back({one.name, one.shape, reinterpret_cast<const float*>(one.data.data()), one.elements()});
  return views;
}

std::vector<ComponentView> components_like(const TaskEmbedding& a, const TaskEmbedding& b) {
  refuse_unlike(a.info(), b.info());
  const std::string where = quoted(b.info().task) + " beside " + quoted(a.info().task);
  std::vector<ComponentView> views;
  for (const io::TensorEntry& one : a.components()) {
    const io::TensorEntry* const other = b.find(one.name);
    if (other == nullptr)
      throw Error({.what = "the experts stand at different sites",
                   .where = where,
                   .expected = "tensor " + quoted(one.name),
                   .got = "none of this name"});
    if (other->shape != one.shape)
      throw Error({.what = "the experts have different shapes (another rank, length or bottleneck): no exact projection joins them",
                   .where = where + ", tensor " + quoted(one.name),
                   .expected = shape_text(one.shape),
                   .got = shape_text(other->shape),
                   .hint = "train both with the same [expert] section"});
    views.push_back({other->name, other->shape, reinterpret_cast<const float*>(other->data.data()), other->elements()});
  }
  if (b.components().size() != views.size())
    throw Error({.what = "the experts stand at different sites",
                 .where = where,
                 .expected = std::to_string(views.size()) + " tensors",
                 .got = std::to_string(b.components().size())});
  return views;
}

std::int64_t chunk_count(const TaskEmbedding& embedding, std::size_t embeddings) {
  const std::int64_t length = chunk_length(embeddings);
  std::int64_t count = 0;
  for (const io::TensorEntry& one : embedding.components()) count += (one.elements() + length - 1) / length;
  return count;
}

std::vector<PairSummary> compare_all(std::span<const TaskEmbedding* const> embeddings, const PairwiseOptions& options) {
  if (embeddings.size() < 2 || options.first >= embeddings.size()) return {};
  const std::vector<ComponentView> components = components_of(*embeddings.front());
  std::vector<std::vector<const float*>> numbers_of;
  for (const TaskEmbedding* one : embeddings) {
    std::vector<const float*>& all = numbers_of.emplace_back();
    for (const ComponentView& view : components_like(*embeddings.front(), *one)) all.push_back(view.numbers);
  }
  const auto count = static_cast<std::int64_t>(embeddings.size());
  const std::int64_t length = chunk_length(embeddings.size());
  const Pairs pairs(embeddings.size(), options.first);
  const std::size_t pair_count = pairs.places().size();
  // Sums until the end, when they become means.
  std::vector<PairSummary> summaries(pair_count,
                                     {.similarity = 0, .cosine = 0, .skipped = 0, .layers = std::vector<double>(options.layers, 0.0)});
  std::vector<double> squares(embeddings.size(), 0.0), products(pair_count, 0.0);
  std::vector<std::uint32_t> seen(pair_count * options.layers, 0);
  std::vector<NormalisedSums> here(pair_count);
  const at::Tensor buffer = at::empty({count * length}, at::kFloat);
  std::int64_t done = 0;
  for (std::size_t c = 0; c < components.size(); ++c) {
    std::fill(here.begin(), here.end(), NormalisedSums{});
    const std::int64_t size = components[c].count;
    for (std::int64_t first = 0; first < size; first += length) {
      const std::int64_t some = std::min(length, size - first);
      const at::Tensor chunk = buffer.narrow(0, 0, count * some).view({count, some});
      auto* const numbers = chunk.data_ptr<float>();
      for (std::int64_t row = 0; row < count; ++row) {
        std::copy_n(numbers_of[static_cast<std::size_t>(row)][c] + first, some, numbers + row * some);
        embeddings[static_cast<std::size_t>(row)]->forget();
      }
      at::parallel_for(0, static_cast<std::int64_t>(pair_count), 16, [&](std::int64_t begin, std::int64_t end) {
        // All pairs with a stretch while it is near; a pair's sums are in the order of its coordinates.
        for (std::int64_t at = 0; at < some; at += similarity_stretch)
          for (std::int64_t pair = begin; pair < end; ++pair) {
            const auto [i, j] = pairs.places()[static_cast<std::size_t>(pair)];
            add_normalised(numbers + i * some + at, numbers + j * some + at, std::min(similarity_stretch, some - at), similarity_epsilon,
                           here[static_cast<std::size_t>(pair)]);
          }
      });
      add_products(chunk, pairs, products, squares);
      if (options.notice) options.notice(++done);
    }
    for (std::size_t pair = 0; pair < pair_count; ++pair) {
      const NormalisedSums& one = here[pair];
      PairSummary& summary = summaries[pair];
      if (!(one.uu > 0 && one.vv > 0)) {
        ++summary.skipped;
        continue;
      }
      const double value = std::min(1.0, one.uv / (std::sqrt(one.uu) * std::sqrt(one.vv)));
      summary.similarity += value;
      summary.layers[options.layer_of[c]] += value;
      ++seen[pair * options.layers + options.layer_of[c]];
    }
  }
  for (std::size_t pair = 0; pair < pair_count; ++pair) {
    PairSummary& summary = summaries[pair];
    const auto i = static_cast<std::size_t>(pairs.places()[pair].i), j = static_cast<std::size_t>(pairs.places()[pair].j);
    const std::int64_t compared = static_cast<std::int64_t>(components.size()) - summary.skipped;
    if (compared == 0)
      throw Error({.what = "no tensor is other than zero in both embeddings",
                   .where = quoted(embeddings[j]->info().task) + " beside " + quoted(embeddings[i]->info().task)});
    summary.similarity /= static_cast<double>(compared);
    if (squares[i] > 0 && squares[j] > 0) summary.cosine = std::min(1.0, products[pair] / (std::sqrt(squares[i]) * std::sqrt(squares[j])));
    for (std::size_t l = 0; l < options.layers; ++l) {
      const std::uint32_t times = seen[pair * options.layers + l];
      summary.layers[l] = times > 0 ? summary.layers[l] / times : std::nan("");
    }
  }
  return summaries;
}

}  // namespace mmtune::methods
