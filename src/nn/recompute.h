#pragma once
// Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): of a block only its input is kept, and the block is computed again in the
// backward pass.

#include <functional>

#include "nn/context.h"
#include "nn/layout.h"

namespace mmtune::nn {

/// One block of an encoder: changes the tokens in place.
using BlockFunction = std::function<void(Tokens&, const Context&)>;

/// Runs `block`. Where context.recompute is set and something in or below the block learns, only its input rows stay in memory until the
/// backward pass, which computes the block again with the random numbers that it had: gradients are those of the plain run. What the block
/// refers to must live until then. All that a block reads and is learned elsewhere must come through the tokens and the context, or be a
/// leaf (a parameter): hooks that hand tensors with a graph from block to block in another way do not go together with it.
void run_block(Tokens& tokens, const Context& context, const BlockFunction& block);

}  // namespace mmtune::nn
