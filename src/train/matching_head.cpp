#include "train/matching_head.h"

#include <ATen/ATen.h>

#include <string>

#include "nn/weights.h"

namespace mmtune::train {

namespace {

struct Map {
  at::Tensor weight, bias;  ///< [rows, width], [rows]
};

std::optional<Map> read_map(const io::Checkpoint& checkpoint, const std::string& name, std::int64_t rows, std::int64_t width) {
  const io::TensorEntry *weight = checkpoint.find(name + ".weight"), *bias = checkpoint.find(name + ".bias");
  if (weight == nullptr || bias == nullptr || weight->shape != std::vector<std::int64_t>{rows, width} ||
      bias->shape != std::vector<std::int64_t>{rows})
    return std::nullopt;
  return Map{nn::to_tensor(*weight, checkpoint.mapping_of(*weight)), nn::to_tensor(*bias, checkpoint.mapping_of(*bias))};
}

}  // namespace

std::optional<MatchingHead> matching_head_of(const io::Checkpoint& checkpoint, std::int64_t width) {
  const std::optional<Map> ranking = read_map(checkpoint, "rank_output", 1, width);
  const std::optional<Map> matching = read_map(checkpoint, "itm_score.fc", 2, width);
  if (!ranking && !matching) return std::nullopt;
  MatchingHead head;
  head.weight = ranking ? ranking->weight : matching->weight.slice(0, 1);
  head.bias = ranking ? ranking->bias : matching->bias.slice(0, 1);
  // Two logits under a softmax are one under a sigmoid.
  head.matching_weight = matching ? matching->weight.slice(0, 1) - matching->weight.slice(0, 0, 1) : head.weight;
  head.matching_bias = matching ? matching->bias.slice(0, 1) - matching->bias.slice(0, 0, 1) : head.bias;
  return head;
}

}  // namespace mmtune::train
