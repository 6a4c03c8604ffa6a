#pragma once
// The folder that a training leaves: recipe.toml, run.json, metrics.jsonl, expert/, head.safetensors, checkpoints/.

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"

namespace mmtune::train {

class RunFolder {
 public:
  /// A new folder for a training. Throws Error: it exists and is not empty, or cannot be made.
  static RunFolder create(const std::filesystem::path& path);
  /// The folder of an interrupted training; made where it is not there yet. Throws Error: it is not a run, or another process trains in it.
  static RunFolder resume(const std::filesystem::path& path);
  /// The folder of a training that another process leads: its files can be read, and whatever this object is told to write is not.
  static RunFolder follow(const std::filesystem::path& path);
  /// For reading. Throws Error where there is no run.
  static RunFolder open(const std::filesystem::path& path);
  ~RunFolder();
  RunFolder(RunFolder&& other) noexcept;
  RunFolder& operator=(RunFolder&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path recipe() const { return path_ / "recipe.toml"; }
  std::filesystem::path record() const { return path_ / "run.json"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path experts() const { return path_ / "expert"; }
  std::filesystem::path head() const { return path_ / "head.safetensors"; }
  std::filesystem::path last() const { return path_ / "checkpoints" / "last.safetensors"; }
  std::filesystem::path best() const { return path_ / "checkpoints" / "best.safetensors"; }

  bool has_checkpoint() const;
  /// Throws UsageError naming the first line in which `recipe` differs from the one that the run was started with.
  void refuse_another_recipe(const std::string& recipe) const;
  Json read_record() const;
  void write_record(const Json& record) const;
  /// Adds a line to metrics.jsonl.
  void append_metrics(const Json& line) const;
  /// The metrics of the validation after `step`; null where there was none.
  Json validation_at(std::int64_t step) const;
  /// Drops what was written after the checkpoint that a training resumes from: lines of later steps, validations of steps after
  /// `evaluated_step`, and a line that was cut off.
  void rewind_metrics(std::int64_t step, std::int64_t evaluated_step) const;

 private:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}
  void make();
  /// The whole lines of metrics.jsonl, as text and as JSON.
  std::vector<std::pair<std::string, Json>> read_metrics() const;
  void lock();

  std::filesystem::path path_;
  int lock_ = -1;
  bool follows_ = false;
};

}  // namespace mmtune::train
