#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>

#include "core/error.h"
#include "core/files.h"
#include "golden.h"
#include "io/safetensors.h"
#include "nn/weights.h"

namespace mmtune::golden {

namespace {

constexpr double forward_tolerance = 2e-5;
constexpr double gradient_tolerance = 2e-4;

const Json& entry(const Json& json, const std::string& section, const std::string& key, const std::string& where) {
  const auto found = json.find(section);
  if (found == json.end() || !found->is_object() || !found->contains(key))
    throw Error({.what = "the case does not say " + section + "." + key, .where = where});
  return (*found)[key];
}

}  // namespace

Case::Case(const std::filesystem::path& path)
    : name_(path.stem().string()), folder_(path.parent_path()), json_(read_json_file(path.string())) {
  std::filesystem::path file = path;
  file.replace_extension(".safetensors");
  if (!std::filesystem::exists(file) && !json_.contains("tensors")) return;
  const io::SafetensorsFile opened = io::SafetensorsFile::open(file);
  for (const io::TensorEntry& one : opened.tensors()) tensors_.emplace(one.name, nn::to_tensor_exact(one));
}

std::int64_t Case::config(const std::string& key) const {
  return entry(json_, "config", key, name_).get<std::int64_t>();
}
std::vector<std::int64_t> Case::config_list(const std::string& key) const {
  return entry(json_, "config", key, name_).get<std::vector<std::int64_t>>();
}
double Case::config_number(const std::string& key) const {
  return entry(json_, "config", key, name_).get<double>();
}
double Case::constant(const std::string& key) const {
  return entry(json_, "constants", key, name_).get<double>();
}

bool Case::mentions(std::string_view text) const {
  for (const char* key : {"case", "notes", "equations", "tests"})
    if (json_.contains(key) && json_[key].dump().find(text) != std::string::npos) return true;
  return false;
}

std::vector<std::string> Case::names(std::string_view prefix) const {
  std::vector<std::string> found;
  for (const auto& [name, tensor] : tensors_)
    if (name.starts_with(prefix)) found.push_back(name);
  return found;
}

at::Tensor Case::take(const std::string& tensor) {
  const auto found = tensors_.find(tensor);
  if (found == tensors_.end()) throw Error({.what = "the case lacks a tensor", .where = name_, .expected = tensor});
  done_.insert(tensor);
  return found->second;
}

void Case::ignore(std::string_view prefix) {
  for (const std::string& name : names(prefix)) done_.insert(name);
}

void Case::compare(const std::string& tensor, const at::Tensor& got) {
  const bool gradient = tensor.starts_with("grad.");
  compare(tensor, got, {.relative = gradient ? gradient_tolerance : forward_tolerance, .gradient = gradient});
}

void Case::compare(const std::string& tensor, const at::Tensor& got, const Limit& limit) {
  if (!has(tensor)) return;
  const at::Tensor reference = take(tensor);
  ++compared_;
  if (!got.defined() || got.sizes() != reference.sizes()) {
    fail(tensor + ": of another shape");
    return;
  }
  // One expert alone has no spread: the released code computes 0/0 there and takes it for 0.
  if (tensor.find("cv2") != std::string::npos) {
    const at::Tensor defined = reference.isnan().logical_not();
    judge(tensor, got.detach().masked_select(defined).to(at::kDouble), reference.masked_select(defined).to(at::kDouble), limit);
    return;
  }
  judge(tensor, got.detach().to(at::kDouble), reference.to(at::kDouble), limit);
}

void Case::check(const std::string& what, const Json& got, const Json& expected) {
  ++compared_;
  if (got != expected) fail(what + ": expected " + expected.dump() + ", got " + got.dump());
}

void Case::judge(const std::string& tensor, const at::Tensor& got, const at::Tensor& reference, const Limit& limit) {
  if (reference.numel() == 0) return;
  const auto largest = reference.abs().max().item<double>(), apart = (got - reference).abs().max().item<double>();
  // Where the reference is zero throughout, so must ours be.
  const double relative = largest > 0 ? apart / largest : (apart > 0 ? 1.0 : 0.0);
  double& worst = limit.gradient ? worst_gradient_ : worst_forward_;
  worst = std::max(worst, relative);
  if (relative <= limit.relative || apart <= limit.absolute) return;
  char text[64];
  std::snprintf(text, sizeof(text), ": relative difference %.2e", relative);
  fail(tensor + text);
}

void Case::finish() {
  for (const auto& [name, tensor] : tensors_)
    if (!done_.contains(name)) fail(name + ": neither used nor compared");
}

}  // namespace mmtune::golden
