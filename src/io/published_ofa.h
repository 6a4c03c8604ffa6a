#pragma once
// OFA's released checkpoints (fairseq), told by their tensors.

#include <optional>
#include <string>

#include "io/published_models.h"

namespace mmtune::io {

/// Nothing where the tensors are not OFA's. Throws Error where they contradict each other.
std::optional<PublishedModel> recognise_ofa(const TorchArchive& archive, const PublishedOptions& options, const std::string& where);

}  // namespace mmtune::io
