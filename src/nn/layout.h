#pragma once
// How the rows of a token matrix [N, D] belong to sequences. One representation serves padded batches ([B*T, D] with a mask) and
// packed ones (real tokens only), so that layers that act on single tokens never compute padding.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace mmtune::nn {

/// Rows of a sequence are contiguous and in order; sequences follow each other.
class Layout {
 public:
  Layout() = default;
  /// `batch` sequences of `length` rows. `key_mask` [B, T] bool says which rows may be attended to; undefined: all of them.
  static Layout uniform(std::int64_t batch, std::int64_t length, at::Tensor key_mask = {});
  /// Sequences of the given lengths (each at least 1), every row visible within its sequence.
  static Layout packed(std::vector<std::int64_t> lengths);

  std::int64_t batch() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t rows() const { return rows_; }
  std::int64_t length(std::int64_t sequence) const { return lengths_[static_cast<std::size_t>(sequence)]; }
  const std::vector<std::int64_t>& lengths() const { return lengths_; }
  std::vector<std::int64_t> offsets() const;  ///< first row of each sequence, and rows() at the end
  bool is_uniform() const { return uniform_; }
  const at::Tensor& key_mask() const { return key_mask_; }
  /// The same with its mask on `device`.
  Layout on(at::Device device) const;

  /// The layout after `count` visible rows were put into every sequence at position `at` (at most the shortest length).
  Layout with_inserted(std::int64_t at, std::int64_t count) const;
  /// The layout after rows [at, at + count) of every sequence were taken out.
  Layout with_removed(std::int64_t at, std::int64_t count) const;

 private:
  std::vector<std::int64_t> lengths_;
  std::int64_t rows_ = 0;
  bool uniform_ = true;
  at::Tensor key_mask_;
};

/// The token matrix between blocks, with the span of prompt rows that a sequence expert has put into every sequence.
struct Tokens {
  at::Tensor rows;  ///< [N, D]
  Layout layout;
  std::int64_t prompt_at = 0;     ///< position of the first prompt row in each sequence
  std::int64_t prompt_count = 0;  ///< 0: no prompts are there
  /// Patches in a line of the picture, where blocks further up merge neighbours (the rows are its lines, top to bottom); 0 elsewhere.
  std::int64_t columns = 0;
  /// Nobody reads what the next block makes of the prompts: it may leave out their queries and all that follows, and take them out.
  bool prompts_end = false;
  /// Swin: window i of a batch sees the prompts of example i mod B instead of its own. What the released code of MoPE does (and the code of
  /// prompted Swins that it comes from); for comparisons only.
  bool released_window_order = false;

  /// Puts prompts [P, D] (the same for all) or [B, P, D] at position `at` of every sequence.
  void insert_prompts(const at::Tensor& prompts, std::int64_t at);
  /// Overwrites the prompt rows (there must be exactly P of them).
  void replace_prompts(const at::Tensor& prompts);
  void remove_prompts();
  at::Tensor prompts() const;  ///< [B, P, D], a copy
};

/// `x` on the device of `other`. Rows are counted on the CPU; what was counted there goes where the rows are.
at::Tensor beside(const at::Tensor& x, const at::Tensor& other);
/// The number of every row within its sequence, counted from `first`: [N] int64. No sequence may be longer than `longest`.
at::Tensor positions_within(const Layout& layout, std::int64_t first, std::int64_t longest);
/// Row 0 of every sequence: [B, D].
at::Tensor first_rows(const at::Tensor& rows, const Layout& layout);
/// Mean over the visible rows of every sequence: [B, D].
at::Tensor mean_rows(const at::Tensor& rows, const Layout& layout);

}  // namespace mmtune::nn
