// mmtune: one program with verbs. Errors are one line on standard error; the exit code tells whose mistake it was.

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "command.h"
#include "core/error.h"

namespace {

/// One line that is safe on a terminal: LibTorch's messages have several and carry stack traces behind the first.
std::string first_line(const std::string& text) {
  return mmtune::printable(text.substr(0, text.find('\n')), 1000);
}

int fail(const std::string& line, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "mmtune: error: %s\n", line.c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int code = mmtune::cli::dispatch(std::vector<std::string>(argv + 1, argv + argc), mmtune::cli::all_commands());
    // An answer that did not reach its reader (a full disk behind a redirection) is no success.
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      return fail(std::string("standard output: cannot be written: ") + std::strerror(errno), 1);
    }
    return code;
  } catch (const mmtune::UsageError& error) {
    return fail(first_line(error.what()), 2);
  } catch (const std::bad_alloc&) {
    return fail("out of memory", 1);
  } catch (const std::exception& error) {
    return fail(first_line(error.what()), 1);
  }
}
