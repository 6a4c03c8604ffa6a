#pragma once
// A name scope over a checkpoint: backbones ask for tensors by the names and shapes they need, so that a backbone reads like its
// checkpoint. What was asked for is recorded; finish() refuses anything missing or misshapen, all of it at once.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"

namespace mmtune::nn {

/// What became of a checkpoint's tensors. used + unused = the file's tensors.
struct LoadReport {
  std::vector<std::string> used, unused, missing, misshapen;
  std::string summary() const;  ///< one line
};

/// How a tensor begins where a model is made anew (pretraining, tests).
enum class Init { normal, zeros, ones };

/// In which form the large matrices of a frozen model lie in memory. The half-precision ones are made float32 a matrix at a time, just
/// before they are multiplied with.
enum class Storage { f32, f16, bf16 };

/// float32 tensor over the file's own bytes where the dtype is float32 (no copy; the mapping is kept alive), converted otherwise.
at::Tensor to_tensor(const io::TensorEntry& entry, const std::shared_ptr<const MappedFile>& mapping);
/// The same for a matrix in `storage`: over the file's bytes where it is in it already, else converted; the file's pages then leave memory
/// again. Throws Error where a value is too large for f16.
at::Tensor to_stored(const io::TensorEntry& entry, const std::shared_ptr<const MappedFile>& mapping, Storage storage);
/// The same without conversion: the file's own dtype, a copy.
at::Tensor to_tensor_exact(const io::TensorEntry& entry);
/// An entry that points into `tensor` (contiguous, CPU), for writing.
io::TensorEntry to_entry(const std::string& name, const at::Tensor& tensor);

/// Where a tensor lies in a file that another program laid out: under which name, and in which of `parts` equal blocks of rows.
struct Stored {
  std::string name;
  std::int64_t part = 0, parts = 1;
  /// Makes a tensor of the shape that is asked for from one of another (a table of positions for another size). Empty: shapes must agree.
  std::function<at::Tensor(const at::Tensor& tensor, at::IntArrayRef shape)> fit = {};
};

class Weights {
 public:
  /// Reads from a checkpoint. `prefixes` are tried in order; the first under which `probe` exists is taken ("", "bert.", …).
  static Weights of(const io::Checkpoint& checkpoint, const std::vector<std::string>& prefixes, std::string_view probe,
                    Storage storage = Storage::f32);
  /// Makes every tensor anew: normal(0, std), zeros or ones as the layer says.
  static Weights fresh(std::uint64_t seed, double std = 0.02, Storage storage = Storage::f32);

  Weights operator/(std::string_view name) const;
  Weights operator/(std::int64_t index) const;
  /// The scope's own path: "encoder.layer.0".
  const std::string& path() const { return path_; }

  at::Tensor tensor(std::string_view name, at::IntArrayRef shape, Init init = Init::normal) const;
  /// A tensor that is large, and that only frozen_matrix() and lookup() (nn/layers.h) read: it may be in half precision.
  at::Tensor matrix(std::string_view name, at::IntArrayRef shape, Init init = Init::normal) const;
  bool has(std::string_view name) const;
  /// The shape of a tensor of the file; nothing where it has none, or where there is no file.
  std::optional<std::vector<std::int64_t>> shape_of(std::string_view name) const;

  /// The file's own top, above the prefix that was taken: what stands beside the encoder in a task's checkpoint.
  Weights top() const;
  /// The same file read by other names: `stored` tells for a full name (without prefix) where the file keeps it. To be called before any
  /// tensor is asked for.
  using Layout = std::function<Stored(const std::string& name)>;
  Weights laid_out(Layout stored) const;

  /// Throws Error listing what is missing and misshapen; otherwise tells what was used.
  LoadReport finish() const;

 private:
  struct State;
  at::Tensor make(std::string_view name, at::IntArrayRef shape, Init init, Storage storage) const;
  Weights(std::shared_ptr<State> state, std::string path, bool top = false) : state_(std::move(state)), path_(std::move(path)), top_(top) {}
  Stored stored(std::string_view name) const;

  std::shared_ptr<State> state_;
  std::string path_;
  bool top_ = false;
};

}  // namespace mmtune::nn
