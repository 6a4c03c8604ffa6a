#include "core/log.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>

namespace mmtune {

namespace {

using Clock = std::chrono::steady_clock;

/// stderr has one cursor, so what stands in its last line is shared by all that write there.
struct Screen {
  std::mutex mutex;
  bool bar_stands = false;
};

Screen& screen() {
  static Screen the_screen;
  return the_screen;
}

void write_line(const std::string& line) {
  const std::lock_guard lock(screen().mutex);
  const std::string text = (screen().bar_stands ? "\r\x1b[K" : "") + line + "\n";
  screen().bar_stands = false;
  std::fwrite(text.data(), 1, text.size(), stderr);
}

/// A line longer than the terminal would wrap, and every redraw would leave one behind.
std::string fitted(std::string line) {
  winsize size{};
  const std::size_t columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  if (line.size() >= columns) {
    line.resize(columns - 1);
    while (!line.empty() && (static_cast<unsigned char>(line.back()) & 0xc0) == 0x80) line.pop_back();
    if (!line.empty() && static_cast<unsigned char>(line.back()) >= 0xc0) line.pop_back();
  }
  return line;
}

void draw_bar(const std::string& line) {
  const std::lock_guard lock(screen().mutex);
  const std::string text = "\r" + fitted(line) + "\x1b[K";
  screen().bar_stands = true;
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

bool quiet() {
  const char* const level = std::getenv("MMTUNE_LOG");
  return level != nullptr && std::string_view(level) == "quiet";
}

bool stderr_is_terminal() {
  const char* term = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

double seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

/// "12 images", or "12.3 MB" where bytes are counted.
std::string format_amount(double amount, const std::string& unit) {
  char text[64];
  if (unit != "B") {
    std::snprintf(text, sizeof text, "%.0f ", amount);
    return std::string(text) + unit;
  }
  const char* shape = amount >= 1e9 ? "%.2f GB" : amount >= 1e5 ? "%.1f MB" : "%.1f kB";
  std::snprintf(text, sizeof text, shape, amount / (amount >= 1e9 ? 1e9 : amount >= 1e5 ? 1e6 : 1e3));
  return text;
}

/// "3/12 images" or "1.2 MB/12.3 MB".
std::string format_part(std::int64_t done, std::int64_t total, const std::string& unit) {
  const std::string first = unit == "B" ? format_amount(static_cast<double>(done), unit) : std::to_string(done);
  return first + "/" + format_amount(static_cast<double>(total), unit);
}

}  // namespace

std::string format_duration(double duration_seconds) {
  const auto total = std::llround(std::clamp(duration_seconds, 0.0, 1e9));
  char text[48];
  if (total >= 3600) {
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", total / 3600, total / 60 % 60, total % 60);
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld", total / 60, total % 60);
  }
  return text;
}

std::string format_rate(double per_second, std::string_view unit) {
  if (unit == "B") return format_amount(per_second, "B") + "/s";
  char text[64];
  const char* shape = per_second >= 100 ? "%.0f " : per_second >= 1 ? "%.1f " : "%.3f ";
  std::snprintf(text, sizeof text, shape, per_second);
  return std::string(text).append(unit) + "/s";
}

void log_info(std::string_view line) {
  if (!quiet()) write_line(std::string(line));
}

void log_warning(std::string_view line) {
  if (!quiet()) write_line("warning: " + std::string(line));
}

Progress::Progress(std::string label, std::int64_t total, std::string unit, double plain_every)
    : label_(std::move(label)),
      total_(total),
      unit_(std::move(unit)),
      plain_every_(plain_every),
      terminal_(stderr_is_terminal()),
      finished_(quiet()),
      created_(Clock::now()),
      start_(created_),
      last_(created_) {}

Progress::~Progress() {
  finish();
}

void Progress::update(std::int64_t done, std::string_view note) {
  if (finished_) return;
  const auto now = Clock::now();
  const bool first = first_done_ < 0;
  if (first) {
    // The first item often pays for warming up, and a resumed run starts in the middle: neither belongs in the rate.
    first_done_ = done;
    start_ = now;
  }
  done_ = done;
  note_ = note;
  const double since_last = seconds(now - last_);
  if (terminal_ ? (first || since_last >= 0.1 || done == total_) : since_last >= plain_every_) {
    last_ = now;
    if (terminal_) {
      draw_bar(line(true));
    } else {
      log_info(line(false));
    }
  }
}

std::string Progress::line(bool with_bar) const {
  std::string text = label_ + ": ";
  if (total_ > 0) {
    const double share = std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0);
    if (with_bar) {
      constexpr int width = 24;
      const int full = static_cast<int>(share * width);
      text += "[" + std::string(static_cast<std::size_t>(full), '#') + std::string(static_cast<std::size_t>(width - full), '.') + "] ";
    }
    text += std::to_string(static_cast<int>(share * 100)) + "% ";
    text += format_part(done_, total_, unit_);
  } else {
    text += format_amount(static_cast<double>(done_), unit_);
  }
  const double elapsed = seconds(Clock::now() - start_);
  if (done_ > first_done_ && elapsed > 0) {
    const double rate = static_cast<double>(done_ - first_done_) / elapsed;
    text += ", " + format_rate(rate, unit_);
    if (total_ > done_) text += ", " + format_duration(static_cast<double>(total_ - done_) / rate) + " left";
  }
  if (!note_.empty()) text += ", " + note_;
  return text;
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  if (first_done_ < 0) return;  // nothing happened, nothing to say
  std::string text = label_ + ": ";
  if (total_ > 0 && done_ != total_)
    text += (unit_ == "B" ? format_amount(static_cast<double>(done_), unit_) : std::to_string(done_)) + " of ";
  text += format_amount(static_cast<double>(total_ > 0 && done_ != total_ ? total_ : done_), unit_) + " in " +
          format_duration(seconds(Clock::now() - created_));
  if (!note_.empty()) text += ", " + note_;
  write_line(text);
}

}  // namespace mmtune
