#pragma once
// A backbone block by block, for experts that run the blocks themselves: two towers in step, or rows of their own. Encoders that can be
// used so derive from Stepwise beside Backbone.

#include <cstdint>

#include "backbones/backbone.h"

namespace mmtune::backbones {

/// Whose outputs of a block are wanted; all rows are attended to in any case.
enum class StepRows {
  all,
  without_prompts,  ///< the prompt rows are gone afterwards
  prompts           ///< only they are left, as rows of uniform sequences
};
/// Leaves the rows that are wanted. `without_prompts` and `prompts` need tokens with prompts.
void keep(nn::Tokens& tokens, StepRows wanted);

class Stepwise {
 public:
  virtual ~Stepwise() = default;

  /// What enters the first block.
  virtual nn::Tokens enter(const ModelInputs& inputs, const nn::Context& context) const = 0;
  /// One block, without the hooks of its sequence site.
  virtual void step(std::int64_t block, nn::Tokens& tokens, StepRows wanted, const nn::Context& context) const = 0;
  /// Keys and values [N, D] that the block's attention makes of rows [N, D].
  virtual nn::KeyValueRows keys_values(std::int64_t block, const at::Tensor& rows, const nn::Context& context) const = 0;
  /// What the model makes of the last block's tokens.
  virtual ModelOutputs leave(const nn::Tokens& tokens, const nn::Context& context) const = 0;

 protected:
  Stepwise() = default;
};

/// The backbone's blocks. Throws UsageError where it does not give them away; `where` is the recipe's key that asks for them.
const Stepwise& stepwise(const Backbone& backbone, const std::string& where);

}  // namespace mmtune::backbones
