#pragma once
// Batches: the examples of a data set as the towers of a model read them together.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "train/inputs.h"

namespace mmtune::train {

struct Batch {
  std::vector<std::int64_t> examples;  ///< indices into the data set
  std::vector<TowerBatch> towers;
  std::vector<std::string> skipped;  ///< one message for every example that could not be read (data.on_error = "skip")
  /// Of tasks whose answers are sequences, while they learn: what the decoder reads [B, T], right-padded, and behind which places of it
  /// something is learned.
  at::Tensor said, learned;
};

/// What a decoder is taught about an example: what it reads, and what it should say behind each place; -1: whatever it wants.
struct Taught {
  std::vector<std::int64_t> said, wanted;
  double confidence = 1.0;
};

/// The towers' readers together.
class BatchReader {
 public:
  struct Source {
    const InputReader* reader = nullptr;
    const FeatureStore* store = nullptr;  ///< null: nothing is stored
    std::string tower;                    ///< for messages
    bool required = false;                ///< an example that lacks this input is one that cannot be read
    bool by_example = false;              ///< one row an example, equal inputs or not: what the tower makes of them differs
  };
  /// Fills Batch::said and learned with what it makes of an example.
  struct Teacher {
    std::function<Taught(const data::Example&)> teach;
    std::int64_t padding = 0;
  };
  void teach(Teacher teacher) { teacher_ = std::move(teacher); }
  BatchReader(std::vector<Source> sources, OnError on_error) : sources_(std::move(sources)), on_error_(on_error) {}

  /// The examples of `dataset` at `indices`; those that cannot be read are left out or thrown, as data.on_error says.
  Batch read(const data::Dataset& dataset, std::span<const std::int64_t> indices) const;
  /// Tokens of all texts that the towers read of an example.
  std::int64_t text_tokens(const data::Example& example) const;

 private:
  std::vector<Source> sources_;
  OnError on_error_;
  std::optional<Teacher> teacher_;
};

}  // namespace mmtune::train
