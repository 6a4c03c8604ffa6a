#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/files.h"

namespace mmtune::train {

namespace {

namespace fs = std::filesystem;

/// A folder that holds nothing of ours but what making and locking it leaves.
bool is_unused(const fs::path& path) {
  for (const fs::directory_entry& entry : fs::directory_iterator(path))
    if (entry.path().filename() != ".lock" && entry.path().filename() != "checkpoints") return false;
  return !fs::exists(path / "checkpoints") || fs::is_empty(path / "checkpoints");
}

}  // namespace

RunFolder RunFolder::create(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error) && (!fs::is_directory(path) || !is_unused(path)))
    throw Error(
        {.what = "the run folder exists already", .where = path.string(), .hint = "--resume goes on with it, --out names another one"});
  RunFolder run(path);
  run.make();
  run.lock();
  return run;
}

RunFolder RunFolder::resume(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error) && (!fs::is_directory(path) || (!is_unused(path) && !fs::exists(path / "recipe.toml"))))
    throw Error({.what = "not a run folder", .where = path.string(), .expected = "a folder that mmtune train made, with recipe.toml"});
  RunFolder run(path);
  run.make();
  run.lock();
  return run;
}

RunFolder RunFolder::follow(const fs::path& path) {
  RunFolder run(path);
  run.follows_ = true;
  return run;
}

RunFolder RunFolder::open(const fs::path& path) {
  for (const char* file : {"recipe.toml", "run.json"})
    if (!fs::exists(path / file))
      throw Error({.what = "not a run folder",
                   .where = path.string(),
                   .expected = "a folder that mmtune train made",
                   .got = std::string("no ") + file});
  return RunFolder(path);
}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)), follows_(other.follows_) {}

RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

void RunFolder::make() {
  std::error_code error;
  fs::create_directories(path_ / "checkpoints", error);
  if (error) throw Error({.what = "cannot make the run folder: " + error.message(), .where = path_.string()});
}

void RunFolder::lock() {
  const fs::path file = path_ / ".lock";
  lock_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) throw Error({.what = std::string("cannot write into the run folder: ") + std::strerror(errno), .where = path_.string()});
  // Released by the kernel when the process ends, however it ends. Where the file system knows no locks, nothing is guarded.
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    throw Error({.what = "another process trains in this run folder", .where = path_.string()});
}

bool RunFolder::has_checkpoint() const {
  return fs::exists(last());
}

void RunFolder::refuse_another_recipe(const std::string& now) const {
  const std::string kept = read_file(recipe());
  if (kept == now) return;
  const auto lines = [](const std::string& text) {
    std::vector<std::string> all;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = std::min(text.find('\n', begin), text.size());
      all.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
    return all;
  };
  const std::vector<std::string> a = lines(kept), b = lines(now);
  std::size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  throw UsageError({.what = "the run was started with another recipe",
                    .where = recipe().string(),
                    .expected = i < a.size() ? printable(a[i]) : "nothing more",
                    .got = i < b.size() ? printable(b[i]) : "nothing",
                    .hint = "resume with the run's own recipe.toml, or start anew with another --out"});
}

Json RunFolder::read_record() const {
  return read_json_file(record());
}

void RunFolder::write_record(const Json& record_json) const {
  if (follows_) return;
  write_file_atomically(record(), record_json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void RunFolder::append_metrics(const Json& line) const {
  if (follows_) return;
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const int file = ::open(metrics().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const auto written = file < 0 ? -1 : ::write(file, text.data(), text.size());
  const int reason = errno;
  if (file >= 0) ::close(file);
  if (written != static_cast<ssize_t>(text.size()))
    throw Error({.what = std::string("cannot write: ") + (written < 0 ? std::strerror(reason) : "no space left on device"),
                 .where = metrics().string()});
}

std::vector<std::pair<std::string, Json>> RunFolder::read_metrics() const {
  std::vector<std::pair<std::string, Json>> lines;
  if (!fs::exists(metrics())) return lines;
  const std::string text = read_file(metrics());
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    Json json = Json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("step") && json["step"].is_number_integer()) lines.emplace_back(std::move(line), std::move(json));
  }
  return lines;
}

Json RunFolder::validation_at(std::int64_t step) const {
  for (const auto& [line, json] : read_metrics())
    if (json["step"] == step && json.contains("valid")) return json["valid"];
  return nullptr;
}

void RunFolder::rewind_metrics(std::int64_t step, std::int64_t evaluated_step) const {
  if (follows_ || !fs::exists(metrics())) return;
  std::string kept;
  for (const auto& [line, json] : read_metrics())
    if (json["step"].get<std::int64_t>() <= (json.contains("valid") ? evaluated_step : step)) kept += line + "\n";
  write_file_atomically(metrics(), kept);
}

}  // namespace mmtune::train
