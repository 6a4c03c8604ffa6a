#pragma once
// A command of the program: what `mmtune NAME` takes, and what it does. One file a command; cli/registry.cpp lists them.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace mmtune::cli {

class Arguments;

/// What the global options say.
struct Session {
  std::int64_t threads = 0;  ///< 0: the machine's cores, as LibTorch finds them
};

/// Does the work after the arguments were understood; the exit code. Mistakes are thrown: UsageError (2), anything else (1).
using Action = std::function<int(const Session&)>;

struct Command {
  std::string name;
  std::string summary;  ///< one line for `mmtune --help`
  std::string example;  ///< one or more command lines for `mmtune NAME --help`
  /// Declares the arguments and returns the action that reads them.
  std::function<Action(Arguments&)> declare;
  /// Printed at the end of `mmtune NAME --help` (a recipe's keys); may be empty.
  std::function<std::string()> epilogue = {};
  bool engine = false;  ///< uses LibTorch: its threads are set up before the action runs
  bool hidden = false;  ///< not in `mmtune --help`
};

/// Every command of this build, in the order of `mmtune --help`.
std::vector<Command> all_commands();

/// Readies LibTorch for a command with `engine`.
void start_engine(const Session& session);

/// "mmtune 0.1.0 (LibTorch 2.13)".
std::string version_line();

/// Understands `arguments` (without the program's name) and runs the command they name. Throws UsageError; prints help and the version
/// itself.
int dispatch(const std::vector<std::string>& arguments, const std::vector<Command>& commands);

}  // namespace mmtune::cli
