#pragma once
// The tiny multimodal models of TVP's golden cases: written as a model folder and opened as any other, and the sequences that go with them.

#include <memory>
#include <vector>

#include "backbones/multimodal_model.h"
#include "golden.h"

namespace mmtune::golden {

/// A case's model and what its JSON says of its sequences.
struct GoldenModel {
  std::unique_ptr<backbones::MultimodalLm> lm;
  backbones::Instruction instruction;
  std::int64_t padding = 0;  ///< the id that the case pads with on the right

  backbones::MultimodalModel& model() const { return dynamic_cast<backbones::MultimodalModel&>(*lm); }
  /// The answers of these classes, end symbol included.
  std::vector<backbones::TokenIds> answers(const Case& golden, const at::Tensor& labels) const;
};

/// Of a case with weights ("w.…"); `prefix` "w.". Takes the weights and the ids that it reads.
GoldenModel golden_model(Case& golden);

/// A number that one of the config's texts tells behind `label`: "[BOS=1]" → 1. Throws Error where none does.
std::int64_t told_number(const Json& config, const std::string& label);
/// A list of ids of the JSON.
backbones::TokenIds ids_of(const Json& list);
backbones::TokenIds ids_of(const at::Tensor& ids);

}  // namespace mmtune::golden
