#pragma once
// Golden cases: tensors that a method's original implementation computed, a JSON beside each that says what they are. This program finds
// the cases by their JSON, runs each through the product's own code, and compares every stored tensor. Nothing here knows a size: all come
// from the case. A method is one file that offers its kinds of case (registry.cpp lists the methods).

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace mmtune::golden {

/// A case: its JSON, its tensors, and what has been done with each of them. A case passes when every tensor was used or compared and none
/// differed.
class Case {
 public:
  /// Throws Error on a file that is missing or damaged. A case whose JSON lists no tensors may be a JSON alone.
  explicit Case(const std::filesystem::path& json);

  const std::string& name() const { return name_; }
  const std::filesystem::path& folder() const { return folder_; }
  const Json& json() const { return json_; }
  /// An integer of the JSON's "config"; throws Error where it is missing.
  std::int64_t config(const std::string& key) const;
  std::vector<std::int64_t> config_list(const std::string& key) const;
  double config_number(const std::string& key) const;
  double constant(const std::string& key) const;
  /// Whether one of the JSON's texts (case, notes, equations) holds `text`.
  bool mentions(std::string_view text) const;

  bool has(const std::string& tensor) const { return tensors_.contains(tensor); }
  /// All names that begin so, sorted.
  std::vector<std::string> names(std::string_view prefix) const;
  /// The tensor, which then counts as used. Throws Error where it is missing.
  at::Tensor take(const std::string& tensor);
  /// Of no consequence to what the case computes.
  void ignore(std::string_view prefix);

  /// Largest absolute difference over largest absolute reference; fails the case above the tolerance that its prefix has: gradients for
  /// "grad.", forward for everything else. A tensor that the case does not hold is not compared.
  void compare(const std::string& tensor, const at::Tensor& got);
  /// The same with a limit of its own on the largest difference: `absolute`, or `relative` to the largest reference, whichever is larger.
  struct Limit {
    double absolute = 0, relative = 0;
    bool gradient = false;  ///< of which of the two worst differences it counts
  };
  void compare(const std::string& tensor, const at::Tensor& got, const Limit& limit);
  void fail(const std::string& message) { failures_.push_back(message); }
  /// The same for what is no tensor: fails where `got` is not `expected`, and tells both.
  void check(const std::string& what, const Json& got, const Json& expected);
  /// To be called once, at the end: what was neither used nor compared.
  void finish();

  const std::vector<std::string>& failures() const { return failures_; }
  std::size_t compared() const { return compared_; }
  double worst(bool gradients) const { return gradients ? worst_gradient_ : worst_forward_; }

 private:
  void judge(const std::string& tensor, const at::Tensor& got, const at::Tensor& reference, const Limit& limit);
  std::string name_;
  std::filesystem::path folder_;
  Json json_;
  std::map<std::string, at::Tensor> tensors_;
  std::set<std::string> done_;
  std::vector<std::string> failures_;
  std::size_t compared_ = 0;
  double worst_forward_ = 0, worst_gradient_ = 0;
};

/// A kind of case.
struct Kind {
  std::string name;
  std::function<bool(const Case&)> takes;
  std::function<void(Case&)> run;
};

/// The kinds of a method; one file each.
std::vector<Kind> mope_kinds();
std::vector<Kind> apt_operator_kinds();
std::vector<Kind> apt_task_kinds();
std::vector<Kind> pi_module_kinds();
std::vector<Kind> pi_model_kinds();
std::vector<Kind> pi_ofa_kinds();
std::vector<Kind> apt_vilt_kinds();
std::vector<Kind> apt_meter_kinds();
std::vector<Kind> apt_crosslayer_kinds();
std::vector<Kind> tvp_prompt_kinds();
std::vector<Kind> tvp_data_kinds();
std::vector<Kind> tvp_model_kinds();

/// Of all methods. The first that takes a case runs it.
std::vector<Kind> all_kinds();

}  // namespace mmtune::golden
