#include "train/matching_head.h"

#include <ATen/ATen.h>

#include <string>

#include "nn/weights.h"

namespace mmtune::train {

std::optional<MatchingHead> matching_head_of(const io::Checkpoint& checkpoint, std::int64_t width) {
  const auto read = [&](const std::string& name, std::int64_t rows) -> std::optional<MatchingHead> {
    const io::TensorEntry *weight = checkpoint.find(name + ".weight"), *bias = checkpoint.find(name + ".bias");
    if (weight == nullptr || bias == nullptr || weight->shape != std::vector<std::int64_t>{rows, width} ||
        bias->shape != std::vector<std::int64_t>{rows})
      return std::nullopt;
    return MatchingHead{.weight = nn::to_tensor(*weight, checkpoint.mapping_of(*weight)).slice(0, rows - 1),
                        .bias = nn::to_tensor(*bias, checkpoint.mapping_of(*bias)).slice(0, rows - 1)};
  };
  if (auto ranking = read("rank_output", 1)) return ranking;
  return read("itm_score.fc", 2);
}

}  // namespace mmtune::train
