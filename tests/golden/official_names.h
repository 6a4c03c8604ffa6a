#pragma once
// From the tensor names of MoPE's released code to ours. Backbones: the released Swin (timm's names) and BERT to HuggingFace's. Experts:
// every piece of an official tensor is bound to the piece of ours that plays its part, so that values go one way and gradients back.

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backbones/backbone.h"
#include "experts/mope.h"
#include "golden.h"

namespace mmtune::golden {

/// The main encoder of a case, filled with the weights below "weight." + `prefix`; throws Error where one of its tensors has none.
std::unique_ptr<backbones::Backbone> official_swin(Case& golden, const std::string& prefix);
std::unique_ptr<backbones::Backbone> official_bert(Case& golden, const std::string& prefix);

/// A view of a tensor; identity where it is empty.
using View = std::function<at::Tensor(const at::Tensor&)>;

/// Official tensors bound to leaves of ours.
class Bindings {
 public:
  /// `weights` is what the names of the case's parameters begin with.
  explicit Bindings(Case& golden, std::string weights = "weight.") : golden_(golden), weights_(std::move(weights)) {}
  /// Copies the official value in. `official` is the name without that.
  void bind(const std::string& official, const at::Tensor& ours, const View& official_view = {}, const View& our_view = {});
  /// Compares the gradients of all bound tensors with "grad.…": parts of an official tensor that nothing is bound to must have none.
  void compare_gradients();
  /// Puts the stored gradients into ours.
  void load_gradients() const;
  /// Compares the values with "after_step.…". What nothing is bound to decays by `factor(name)`: the released optimiser does not know that
  /// it is never used.
  void compare_after_step(const std::function<double(const std::string&)>& factor);

 private:
  struct Bound {
    std::string official;
    at::Tensor ours;
    View official_view, our_view;
  };
  std::set<std::string> officials() const;
  at::Tensor gathered(const std::string& official, at::Tensor start, const std::function<at::Tensor(const at::Tensor&)>& of) const;
  Case& golden_;
  std::string weights_;
  std::vector<Bound> bound_;
};

/// Binds the experts of a Swin case; `prefix` as in official_swin.
void bind_swin_mope(Case& golden, const std::string& prefix, const experts::Mope& mope, Bindings& bindings);

/// A tensor of an expert by its name; throws Error where it has none.
at::Tensor tensor_of(const experts::Expert& expert, const std::string& name);

}  // namespace mmtune::golden
