#pragma once
// What a long command tells its user: log lines on stderr, or a progress bar where stderr is a terminal.

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace mmtune {

/// One line on stderr, after clearing a progress bar that may stand there. Nothing where the environment says MMTUNE_LOG=quiet, which
/// leaves errors alone.
void log_info(std::string_view line);
void log_warning(std::string_view line);

/// Seconds as m:ss or h:mm:ss.
std::string format_duration(double seconds);
/// "12.3 images/s", with the digits that mean something.
std::string format_rate(double per_second, std::string_view unit);

/// Progress with rate and remaining time: a bar redrawn in place on a terminal, otherwise one plain line every `plain_every` seconds. The
/// unit "B" is for bytes, which are shown in kB, MB or GB.
class Progress {
 public:
  Progress(std::string label, std::int64_t total, std::string unit, double plain_every = 10.0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// `done` of `total` so far; `note` (loss, metric) is shown behind the rate.
  void update(std::int64_t done, std::string_view note = {});
  /// The closing line; the destructor calls it where nobody did.
  void finish();

 private:
  std::string line(bool with_bar) const;

  std::string label_;
  std::int64_t total_;
  std::string unit_;
  double plain_every_;
  bool terminal_;
  bool finished_ = false;
  std::int64_t first_done_ = -1, done_ = 0;
  std::string note_;
  std::chrono::steady_clock::time_point created_, start_, last_;
};

}  // namespace mmtune
