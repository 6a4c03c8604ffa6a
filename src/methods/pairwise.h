#pragma once
// Many task embeddings compared pair by pair: every number is read once, a chunk of coordinates of all embeddings at a time, and all pairs
// are done with a chunk while it lies in the cache.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "methods/task_embedding.h"

namespace mmtune::methods {

/// Arrays by name, as an embedding or a test holds them.
struct ComponentView {
  std::string name;
  std::vector<std::int64_t> shape;
  const float* numbers = nullptr;
  std::int64_t count = 0;
};
/// The tensors of an embedding where they lie.
std::vector<ComponentView> components_of(const TaskEmbedding& embedding);
/// The tensors of `b` in the order of those of `a`. Throws Error naming both tasks: another backbone, kind of expert, tensors or shapes (a
/// rank, a length), or other options.
std::vector<ComponentView> components_like(const TaskEmbedding& a, const TaskEmbedding& b);

/// What a graph keeps of a pair.
struct PairSummary {
  double similarity = 1, cosine = 1;
  std::int64_t skipped = 0;
  std::vector<double> layers = {};  ///< mean similarity of each layer's components; NaN where all were skipped
};

struct PairwiseOptions {
  std::size_t first = 0;                          ///< pairs of two embeddings before this one are left out
  std::vector<std::size_t> layer_of;              ///< of every component of embedding 0: its layer
  std::size_t layers = 0;                         ///< how many there are
  std::function<void(std::int64_t done)> notice;  ///< unset: none; how many of chunk_count() are done
};

/// Pairs (i, j) with i < j and j >= first, j by j and i by i; their values are those of compare() (methods/task_graph.h): similarities to
/// the last bit whatever is compared with them, cosines but for rounding. In memory at a time: the chunks of all, 6 MiB together, and what
/// is summed for every pair. Throws Error as components_like does with each and embedding 0, and where a pair has no tensor that is other
/// than zero in both.
std::vector<PairSummary> compare_all(std::span<const TaskEmbedding* const> embeddings, const PairwiseOptions& options);
/// Steps that compare_all takes.
std::int64_t chunk_count(const TaskEmbedding& embedding, std::size_t embeddings);

}  // namespace mmtune::methods
