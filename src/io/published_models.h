#pragma once
// What a published checkpoint that is not in HuggingFace's layout is, told by its tensors, and the config.json and preprocessor_config.json
// that open it here: ViLT's and METER's released files (Lightning) and OFA's (fairseq), read by TorchArchive.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "core/json.h"
#include "io/torch_archive.h"

namespace mmtune::io {

struct PublishedModel {
  std::string architecture;   ///< model_type
  std::string image_encoder;  ///< METER: model_type of its image encoder
  Json config;
  Json preprocessor;
  /// tokenizer_config.json where the model's tokenizer is made of a vocab.json and merges.txt in its own way; null: the tokenizer's files
  /// are taken as they are.
  Json tokenizer;
  std::set<std::string> left_out;  ///< tensors that are not written
};

struct PublishedOptions {
  /// Side of the pictures; nothing: what the position table was trained for. ViLT takes any size, and this is the shorter edge.
  std::optional<std::int64_t> image_size;
  std::optional<std::int64_t> heads;         ///< of the attention; nothing: the file's hyper_parameters, or one for 64 of the width
  std::optional<std::string> image_encoder;  ///< "clip" or "swin": what the user says that the file holds
};

/// Throws Error where the tensors are of no model that is known, contradict each other, or are of another image encoder than the options
/// say.
PublishedModel recognise_published(const TorchArchive& archive, const PublishedOptions& options, const std::string& where);

struct ImportedCheckpoint {
  PublishedModel model;
  std::size_t tensors = 0;
  std::int64_t parameters = 0;
};

/// Writes `out`: model.safetensors with the file's own names, config.json, preprocessor_config.json, and the tokenizer's files from the
/// folder `tokenizer` (empty: none). Throws Error; `out` is then not there.
ImportedCheckpoint import_published(const std::filesystem::path& file, const std::filesystem::path& out,
                                    const std::filesystem::path& tokenizer, const PublishedOptions& options);

}  // namespace mmtune::io
