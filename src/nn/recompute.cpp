#include "nn/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include "core/error.h"

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What computing a block again needs besides its differentiable inputs.
struct Job : torch::CustomClassHolder {
  BlockFunction block;
  Tokens tokens;    ///< as they came, without rows
  Context context;  ///< without the complementary feature
  bool has_complementary = false;
  at::Tensor random_state;

  /// The block's output rows, with a graph to `rows` and `complementary` where gradients are on.
  at::Tensor run(const at::Tensor& rows, const at::Tensor& complementary) const {
    Tokens own = tokens;
    own.rows = rows;
    Context with = context;
    with.complementary = complementary;
    block(own, with);
    return own.rows;
  }
};

/// A leaf over the same values.
at::Tensor cut(const at::Tensor& x) {
  return x.defined() ? x.detach().requires_grad_(x.requires_grad()) : x;
}

/// Differentiable inputs: the block's rows, and one more: the context's complementary feature, or where it has none a placeholder, which
/// makes the output require a gradient where only tensors of the block itself do.
class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows, const at::Tensor& other, const at::Tensor& output,
                            const c10::intrusive_ptr<Job>& job) {
    context->save_for_backward({rows, other});
    context->saved_data["job"] = c10::IValue::make_capsule(job);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto job = c10::static_intrusive_pointer_cast<Job>(context->saved_data["job"].toCapsule());
    const at::Tensor rows = saved[0].detach().requires_grad_(context->needs_input_grad(0));
    const at::Tensor complementary = job->has_complementary ? saved[1].detach().requires_grad_(context->needs_input_grad(1)) : at::Tensor();
    at::Tensor output;
    {
      const at::AutoGradMode record(true);
      at::Tensor now;
      if (job->random_state.defined()) {
        now = job->context.generator->get_state();
        job->context.generator->set_state(job->random_state);
      }
      output = job->run(rows, complementary);
      if (now.defined()) job->context.generator->set_state(now);
    }
    torch::autograd::backward({output}, {gradients[0]});
    return {rows.grad(), complementary.defined() ? complementary.grad() : at::Tensor(), {}, {}};
  }
};

}  // namespace

void run_block(Tokens& tokens, const Context& context, const BlockFunction& block) {
  if (!context.recompute || !at::GradMode::is_enabled()) {
    block(tokens, context);
    return;
  }
  auto job = c10::make_intrusive<Job>();
  job->block = block;
  job->tokens = tokens;
  job->tokens.rows.reset();
  job->context = context;
  job->context.complementary.reset();
  if (context.training && context.generator) job->random_state = context.generator->get_state();
  const at::Tensor rows = tokens.rows, complementary = context.complementary;
  // This run is recorded too: only so is it known whether anything in the block learns. Its graph ends with this call.
  tokens.rows = cut(rows);
  Context with = context;
  with.complementary = cut(complementary);
  block(tokens, with);
  if (!tokens.rows.requires_grad()) return;
  job->has_complementary = complementary.defined();
  const bool any = rows.requires_grad() || (complementary.defined() && complementary.requires_grad());
  at::Tensor other = complementary;
  if (!other.defined()) other = at::empty({0}, rows.options().requires_grad(false));
  // Only tensors of the block itself learn: the node must be there nevertheless.
  if (!any) other = other.detach().requires_grad_(true);
  tokens.rows = Recomputed::apply(rows, other, tokens.rows.detach(), job);
}

}  // namespace mmtune::nn
