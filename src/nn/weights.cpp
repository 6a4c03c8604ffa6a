#include "nn/weights.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "core/error.h"
#include "core/hash.h"
#include "core/listed.h"

namespace mmtune::nn {

namespace {

at::ScalarType scalar_type(io::DType dtype, const std::string& name) {
  switch (dtype) {
    case io::DType::f64:
      return at::kDouble;
    case io::DType::f32:
      return at::kFloat;
    case io::DType::f16:
      return at::kHalf;
    case io::DType::bf16:
      return at::kBFloat16;
    case io::DType::i64:
      return at::kLong;
    case io::DType::i32:
      return at::kInt;
    case io::DType::i16:
      return at::kShort;
    case io::DType::i8:
      return at::kChar;
    case io::DType::u8:
      return at::kByte;
    case io::DType::boolean:
      return at::kBool;
    default:
      throw Error({.what = "tensor dtype " + std::string(io::name_of(dtype)) + " cannot be used by a model", .where = name});
  }
}

io::DType io_type(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return io::DType::f64;
    case at::kFloat:
      return io::DType::f32;
    case at::kHalf:
      return io::DType::f16;
    case at::kBFloat16:
      return io::DType::bf16;
    case at::kLong:
      return io::DType::i64;
    case at::kInt:
      return io::DType::i32;
    case at::kShort:
      return io::DType::i16;
    case at::kChar:
      return io::DType::i8;
    case at::kByte:
      return io::DType::u8;
    case at::kBool:
      return io::DType::boolean;
    default:
      MMTUNE_ASSERT(false);
      return io::DType::f32;
  }
}

std::string some(const std::vector<std::string>& names) {
  constexpr std::size_t most = 8;
  return listed(names, most);
}

}  // namespace

at::Tensor to_tensor_exact(const io::TensorEntry& entry) {
  at::Tensor tensor = at::empty(entry.shape, scalar_type(entry.dtype, entry.name));
  if (!entry.data.empty()) std::memcpy(tensor.data_ptr(), entry.data.data(), entry.data.size());
  return tensor;
}

namespace {

/// The tensor over the file's own bytes; undefined where they do not lie as a tensor's must.
at::Tensor over_mapping(const io::TensorEntry& entry, const std::shared_ptr<const MappedFile>& mapping) {
  const at::ScalarType type = scalar_type(entry.dtype, entry.name);
  const bool aligned = reinterpret_cast<std::uintptr_t>(entry.data.data()) % c10::elementSize(type) == 0;
  if (!aligned || !mapping || entry.data.empty()) return {};
  // The pages are private to this process; nothing of ours writes to a frozen weight.
  void* bytes = const_cast<std::byte*>(entry.data.data());
  return at::from_blob(
      bytes, entry.shape, [mapping](void*) {}, at::TensorOptions().dtype(type));
}

at::ScalarType type_of(Storage storage) {
  return storage == Storage::f32 ? at::kFloat : storage == Storage::f16 ? at::kHalf : at::kBFloat16;
}

}  // namespace

at::Tensor to_tensor(const io::TensorEntry& entry, const std::shared_ptr<const MappedFile>& mapping) {
  if (entry.dtype == io::DType::f32) {
    if (at::Tensor mapped = over_mapping(entry, mapping); mapped.defined()) return mapped;
  }
  return to_tensor_exact(entry).to(at::kFloat);
}

at::Tensor to_stored(const io::TensorEntry& entry, const std::shared_ptr<const MappedFile>& mapping, Storage storage) {
  if (storage == Storage::f32) return to_tensor(entry, mapping);
  at::Tensor source = over_mapping(entry, mapping);
  const bool mapped = source.defined();
  if (!mapped) source = to_tensor_exact(entry);
  if (source.scalar_type() == type_of(storage)) return source;
  at::Tensor stored = source.to(type_of(storage));
  if (storage == Storage::f16 && stored.isinf().any().item<bool>() && !source.isinf().any().item<bool>())
    throw Error({.what = "a weight is too large for f16 (over 65504)",
                 .where = printable(entry.name),
                 .hint = "use backbone.weights = \"bf16\", which has float32's range"});
  if (mapped) mapping->forget(entry.data);
  return stored;
}

io::TensorEntry to_entry(const std::string& name, const at::Tensor& tensor) {
  MMTUNE_ASSERT(tensor.is_contiguous() && tensor.device().is_cpu());
  const auto* bytes = static_cast<const std::byte*>(tensor.const_data_ptr());
  return {name, io_type(tensor.scalar_type()), tensor.sizes().vec(), {bytes, tensor.nbytes()}};
}

struct Weights::State {
  std::optional<io::Checkpoint> checkpoint;
  std::string prefix;
  Weights::Layout layout;
  std::uint64_t seed = 0;
  std::uint64_t drawn = 0;
  double std = 0.02;
  Storage storage = Storage::f32;
  std::set<std::string> used;
  std::vector<std::string> missing, misshapen;
};

Weights Weights::of(const io::Checkpoint& checkpoint, const std::vector<std::string>& prefixes, std::string_view probe, Storage storage) {
  auto state = std::make_shared<State>();
  state->storage = storage;
  state->checkpoint = checkpoint;
  for (const std::string& prefix : prefixes) {
    if (!checkpoint.find(prefix + std::string(probe))) continue;
    state->prefix = prefix;
    break;
  }
  return {state, ""};
}

Weights Weights::fresh(std::uint64_t seed, double std, Storage storage) {
  auto state = std::make_shared<State>();
  state->storage = storage;
  state->seed = seed;
  state->std = std;
  return {state, ""};
}

Weights Weights::operator/(std::string_view name) const {
  return {state_, path_.empty() ? std::string(name) : path_ + "." + std::string(name), top_};
}

Weights Weights::top() const {
  return {state_, "", true};
}

Weights Weights::laid_out(Layout stored) const {
  MMTUNE_ASSERT(state_->used.empty());
  state_->layout = std::move(stored);
  return *this;
}

Stored Weights::stored(std::string_view name) const {
  const std::string full = (*this / name).path_;
  if (state_->layout) return state_->layout(full);
  return {.name = top_ ? full : state_->prefix + full};
}

std::optional<std::vector<std::int64_t>> Weights::shape_of(std::string_view name) const {
  if (!state_->checkpoint) return std::nullopt;
  const Stored place = stored(name);
  const io::TensorEntry* entry = state_->checkpoint->find(place.name);
  if (!entry) return std::nullopt;
  std::vector<std::int64_t> shape = entry->shape;
  if (place.parts > 1 && !shape.empty()) shape.front() /= place.parts;
  return shape;
}

Weights Weights::operator/(std::int64_t index) const {
  return *this / std::to_string(index);
}

bool Weights::has(std::string_view name) const {
  return !state_->checkpoint || state_->checkpoint->find(stored(name).name) != nullptr;
}

at::Tensor Weights::tensor(std::string_view name, at::IntArrayRef shape, Init init) const {
  return make(name, shape, init, Storage::f32);
}

at::Tensor Weights::matrix(std::string_view name, at::IntArrayRef shape, Init init) const {
  return make(name, shape, init, state_->storage);
}

at::Tensor Weights::make(std::string_view name, at::IntArrayRef shape, Init init, Storage storage) const {
  if (!state_->checkpoint) {
    const at::ScalarType type = type_of(storage);
    if (init == Init::zeros) return at::zeros(shape, type);
    if (init == Init::ones) return at::ones(shape, type);
    at::Generator generator = at::detail::createCPUGenerator(mix_seed(state_->seed, state_->drawn++));
    // Truncated at two standard deviations, as transformers initialises ViT and BERT-type encoders closely enough.
    return at::empty(shape).normal_(0.0, state_->std, generator).clamp_(-2 * state_->std, 2 * state_->std).to(type);
  }
  const Stored place = stored(name);
  const io::TensorEntry* entry = state_->checkpoint->find(place.name);
  if (!entry) {
    state_->missing.push_back(place.name);
    return at::empty(shape);
  }
  if (place.fit && at::IntArrayRef(entry->shape) != shape) {
    state_->used.insert(place.name);
    return place.fit(to_tensor(*entry, state_->checkpoint->mapping_of(*entry)), shape).contiguous();
  }
  std::vector<std::int64_t> whole = shape.vec();
  if (place.parts > 1) whole.front() *= place.parts;
  if (entry->shape != whole) {
    state_->misshapen.push_back(place.name + " (expected " + shape_text(whole) + ", got " + shape_text(entry->shape) + ")");
    return at::empty(shape);
  }
  state_->used.insert(place.name);
  if (place.parts == 1) return to_stored(*entry, state_->checkpoint->mapping_of(*entry), storage);
  io::TensorEntry part = *entry;
  part.shape = shape.vec();
  const std::size_t bytes = entry->data.size() / static_cast<std::size_t>(place.parts);
  part.data = entry->data.subspan(bytes * static_cast<std::size_t>(place.part), bytes);
  return to_stored(part, state_->checkpoint->mapping_of(*entry), storage);
}

LoadReport Weights::finish() const {
  LoadReport report;
  if (!state_->checkpoint) return report;
  report.used.assign(state_->used.begin(), state_->used.end());
  for (const io::TensorEntry* entry : state_->checkpoint->tensors())
    if (!state_->used.contains(entry->name)) report.unused.push_back(entry->name);
  report.missing = state_->missing;
  report.misshapen = state_->misshapen;
  if (report.missing.empty() && report.misshapen.empty()) return report;
  std::string what;
  if (!report.missing.empty()) what = std::to_string(report.missing.size()) + " missing: " + some(report.missing);
  if (!report.misshapen.empty())
    what += (what.empty() ? "" : "; ") + std::to_string(report.misshapen.size()) + " misshapen: " + some(report.misshapen);
  if (!report.unused.empty()) what += "; unused in the file: " + some(report.unused);
  throw Error({.what = "the checkpoint's tensors do not fit its config.json: " + what, .where = state_->checkpoint->folder().string()});
}

std::string LoadReport::summary() const {
  return std::to_string(used.size()) + " tensors used, " + std::to_string(unused.size()) + " unused" +
         (unused.empty() ? "" : " (" + some(unused) + ")");
}

}  // namespace mmtune::nn
