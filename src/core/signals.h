#pragma once
// Ctrl-C and SIGTERM as a question that long work asks between two steps.

#include <csignal>

namespace mmtune {

/// While one exists, the first SIGINT or SIGTERM is remembered instead of ending the process; a second one ends it as usual.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  /// The signal that came, or 0.
  static int received();

 private:
  struct sigaction old_interrupt_ = {}, old_terminate_ = {};
};

}  // namespace mmtune
