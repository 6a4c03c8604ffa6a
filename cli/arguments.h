#pragma once
// Declares a command's arguments. The parser (CLI11) stays inside arguments.cpp, because including it takes seconds.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace mmtune::cli {

/// Where an argument's value goes. Lists take one value each time the option is given.
using Target = std::variant<std::string*, std::optional<std::string>*, std::int64_t*, std::optional<std::int64_t>*, double*,
                            std::optional<double>*, std::vector<std::string>*>;

struct ArgumentSpec {
  std::string help;
  bool required = false;
  std::string value = {};  ///< what stands for the value in the help: FILE, N, TEXT
  std::optional<double> min = {};
  std::optional<double> max = {};
  std::vector<std::string> choices = {};
  bool comma = false;  ///< a list may also be given at once, with commas: --compare lora,prompt
  bool many = false;   ///< a list takes all words up to the next option: --models A B
};

class Arguments {
 public:
  struct Parser;
  explicit Arguments(std::unique_ptr<Parser> parser);
  ~Arguments();
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  /// By place; `name` in capitals, as it stands in the help. A list takes all that remains, so it comes last.
  void positional(const std::string& name, Target target, const ArgumentSpec& spec = {.help = {}, .required = true});
  /// By name: "--out", or "-o,--out".
  void option(const std::string& names, Target target, const ArgumentSpec& spec);
  void flag(const std::string& names, bool& target, const std::string& help);

 private:
  friend int dispatch(const std::vector<std::string>&, const std::vector<struct Command>&);
  std::unique_ptr<Parser> parser_;
};

}  // namespace mmtune::cli
