#pragma once
// An expert that runs two towers together, block by block, so that each may learn from the other on its way.

#include "backbones/stepwise.h"
#include "experts/expert.h"

namespace mmtune::experts {

class JointExpert : public Expert {
 public:
  struct Side {
    backbones::Backbone& backbone;
    const backbones::ModelInputs& inputs;
  };
  struct Outputs {
    backbones::ModelOutputs main, other;
  };
  /// Passes both towers; row b of the one belongs to row b of the other. Throws UsageError for a backbone that it cannot run.
  virtual Outputs forward(const Side& main, const Side& other, const nn::Context& context) const = 0;
  /// What extra_macs() says of the main tower, of the other one with `tokens` rows; and how many of its blocks gradients pass.
  virtual std::int64_t other_macs(std::int64_t tokens) const = 0;
  virtual std::int64_t other_blocks() const = 0;
};

}  // namespace mmtune::experts
