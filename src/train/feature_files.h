#pragma once
// Features on disk, for the next run: a bounded folder of small files, each named by everything that decides its content.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace mmtune::train {

/// Files of features [n, D]. What is damaged, or of another shape, counts as absent and is overwritten by the next write. Several processes
/// may use one folder. read() may be called from any thread.
class FeatureFiles {
 public:
  /// `limit`: bytes of all files of the folder together; the ones used longest ago go first. The folder is made with the first write.
  FeatureFiles(std::filesystem::path folder, std::int64_t limit);

  /// The features under `key`, checked against their checksum; undefined where there are none of this shape.
  at::Tensor read(const std::string& key, std::int64_t rows, std::int64_t width) const;
  /// Keeps `features` [n, D] float32. A folder that cannot be written costs a warning, once, and nothing else.
  void write(const std::string& key, const at::Tensor& features);

 private:
  std::filesystem::path path_of(const std::string& key) const;
  void make_room(std::int64_t bytes);

  std::filesystem::path folder_;
  std::int64_t limit_;
  std::optional<std::int64_t> used_;  ///< bytes in the folder, once they were counted
  bool failed_ = false;
};

}  // namespace mmtune::train
