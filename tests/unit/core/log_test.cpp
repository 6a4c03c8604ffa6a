#include "core/log.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <string>

#include "support/support.h"

namespace mmtune {
namespace {

std::string on_plain_stderr(const std::function<void()>& action) {
  testing::internal::CaptureStderr();
  action();
  return testing::internal::GetCapturedStderr();
}

/// What `action` writes to a stderr that is a terminal of `columns` columns.
std::string on_terminal(const std::function<void()>& action, unsigned short columns = 100) {
  const test::ScopedVariable term("TERM", "xterm");
  winsize size{};
  size.ws_col = columns;
  size.ws_row = 25;
  int ours = -1, theirs = -1;
  if (::openpty(&ours, &theirs, nullptr, nullptr, &size) != 0) return "no pseudo-terminal";
  const int saved = ::dup(STDERR_FILENO);
  ::dup2(theirs, STDERR_FILENO);
  action();
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  ::close(theirs);
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t got = 0; (got = ::read(ours, buffer.data(), buffer.size())) > 0;) text.append(buffer.data(), static_cast<std::size_t>(got));
  ::close(ours);
  return text;
}

TEST(Log, LinesGoToStderr) {
  EXPECT_EQ(on_plain_stderr([] { log_info("hello"); }), "hello\n");
  EXPECT_EQ(on_plain_stderr([] { log_warning("careful"); }), "warning: careful\n");
}

TEST(Log, Durations) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(754), "12:34");
  EXPECT_EQ(format_duration(3 * 3600 + 62), "3:01:02");
  EXPECT_EQ(format_duration(-5), "0:00");
}

TEST(Log, RatesHaveTheDigitsThatMeanSomething) {
  EXPECT_EQ(format_rate(1234.5, "images"), "1234 images/s");
  EXPECT_EQ(format_rate(12.34, "images"), "12.3 images/s");
  EXPECT_EQ(format_rate(0.1234, "steps"), "0.123 steps/s");
}

TEST(Progress, PlainLinesWhereThereIsNoTerminal) {
  const std::string text = on_plain_stderr([] {
    Progress progress("training", 4, "steps", 0.0);
    for (int i = 0; i <= 4; ++i) progress.update(i, "loss 0.5");
    progress.finish();
  });
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(text.find("training: 50% 2/4 steps, "), std::string::npos) << text;
  EXPECT_NE(text.find(" steps/s, "), std::string::npos) << text;
  EXPECT_NE(text.find(" left, loss 0.5\n"), std::string::npos) << text;
  EXPECT_NE(text.find("training: 4 steps in 0:00, loss 0.5\n"), std::string::npos) << text;
}

TEST(Progress, QuietBetweenPlainLines) {
  const std::string text = on_plain_stderr([] {
    Progress progress("training", 1000, "steps", 3600.0);
    for (int i = 0; i < 1000; ++i) progress.update(i);
  });
  EXPECT_EQ(text, "training: 999 of 1000 steps in 0:00\n");
}

TEST(Progress, SaysNothingWhenNothingHappened) {
  EXPECT_EQ(on_plain_stderr([] { const Progress progress("training", 10, "steps"); }), "");
}

TEST(Progress, UnknownTotals) {
  const std::string text = on_plain_stderr([] {
    Progress progress("reading", 0, "lines", 0.0);
    progress.update(5);
  });
  EXPECT_NE(text.find("reading: 5 lines"), std::string::npos);
  EXPECT_EQ(text.find('%'), std::string::npos);
}

TEST(Progress, ABarOnATerminalIsRedrawnAndThenReplaced) {
  const std::string text = on_terminal([] {
    Progress progress("training", 2, "steps");
    progress.update(1);
    log_info("evaluated");
    progress.update(2);
  });
  EXPECT_NE(text.find("\rtraining: [############............] 50% 1/2 steps\x1b[K"), std::string::npos) << text;
  EXPECT_NE(text.find("\r\x1b[Kevaluated"), std::string::npos) << text;
  EXPECT_NE(text.find("\r\x1b[Ktraining: 2 steps in"), std::string::npos) << text;
}

TEST(Progress, ABarNeverWraps) {
  const std::string text = on_terminal(
      [] {
        Progress progress("training with a long label", 2, "steps");
        progress.update(1, "été");
      },
      20);
  const auto start = text.find('\r'), end = text.find("\x1b[K");
  ASSERT_NE(end, std::string::npos);
  EXPECT_LT(end - start - 1, 20U);
}

TEST(Progress, ADumbTerminalGetsPlainLines) {
  const std::string text = on_terminal([] {
    const test::ScopedVariable term("TERM", "dumb");
    Progress progress("training", 2, "steps", 0.0);
    progress.update(1);
  });
  EXPECT_EQ(text.find('\x1b'), std::string::npos) << text;
}

}  // namespace
}  // namespace mmtune
