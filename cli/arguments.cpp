#include "arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "command.h"
#include "core/error.h"
#include "core/nearest.h"

namespace mmtune::cli {

struct Arguments::Parser {
  CLI::App* app = nullptr;
  std::vector<std::function<void()>> readers;  ///< run after parsing: from CLI11's strings to the targets
};

namespace {

/// Text of an error of CLI11 as part of one line.
std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

[[noreturn]] void bad_value(const std::string& name, const std::string& expected, const std::string& got) {
  throw UsageError({.what = name, .expected = expected, .got = "'" + printable(got, 60) + "'"});
}

template <class Number>
Number read_number(const std::string& name, const std::string& text, const ArgumentSpec& spec) {
  std::string expected = std::is_integral_v<Number> ? "an integer" : "a number";
  const auto bound = [](double value) {
    std::string shown = std::to_string(value);
    shown.erase(shown.find_last_not_of('0') + 1);
    if (shown.back() == '.') shown.pop_back();
    return shown;
  };
  if (spec.min) expected += " >= " + bound(*spec.min);
  if (spec.max) expected += std::string(spec.min ? " and" : "") + " <= " + bound(*spec.max);
  Number value{};
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc{} || result.ptr != end) bad_value(name, expected, text);
  const auto real = static_cast<double>(value);
  if (!std::isfinite(real) || (spec.min && real < *spec.min) || (spec.max && real > *spec.max)) bad_value(name, expected, text);
  return value;
}

std::string read_string(const std::string& name, const std::string& text, const ArgumentSpec& spec) {
  if (!spec.choices.empty() && std::find(spec.choices.begin(), spec.choices.end(), text) == spec.choices.end()) {
    std::string all;
    for (const std::string& choice : spec.choices) all += (all.empty() ? "one of " : ", ") + choice;
    bad_value(name, all, text);
  }
  return text;
}

/// Stores what the user gave (at least one value) into the target.
void store(const std::string& name, const std::vector<std::string>& given, const Target& target, const ArgumentSpec& spec) {
  const auto read_one = [&]<class T>(T& out) {
    if constexpr (std::is_same_v<T, std::string>) {
      out = read_string(name, given.back(), spec);
    } else {
      out = read_number<T>(name, given.back(), spec);
    }
  };
  std::visit(
      [&]<class T>(T* out) {
        if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          out->clear();
          for (const std::string& text : given) out->push_back(read_string(name, text, spec));
        } else if constexpr (requires { out->has_value(); }) {
          read_one(out->emplace());
        } else {
          read_one(*out);
        }
      },
      target);
}

void add(Arguments::Parser& parser, const std::string& names, bool by_place, const Target& target, const ArgumentSpec& spec) {
  const bool list = std::holds_alternative<std::vector<std::string>*>(target);
  CLI::Option* option = parser.app->add_option(names);
  option->description(spec.help)->required(spec.required);
  // No more than one value an occurrence: `--text a b` must leave b alone, and a text such as "[x]" must stay as it is.
  option->allow_extra_args(list && (by_place || spec.many));
  if (list) {
    option->expected(spec.required ? 1 : 0, CLI::detail::expected_max_vector_size)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    if (!by_place && !spec.many) option->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    if (spec.comma) option->delimiter(',');
  } else {
    option->expected(1);
  }
  option->type_name(spec.value.empty() ? (by_place ? "" : "VALUE") : spec.value);
  parser.readers.emplace_back([option, target, spec, by_place, names] {
    if (option->count() == 0) return;
    store(by_place ? names : option->get_name(false, false), option->results(), target, spec);
  });
}

void add_flag(Arguments::Parser& parser, const std::string& names, bool& target, const std::string& help) {
  CLI::Option* option = parser.app->add_flag(names, help)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  parser.readers.emplace_back([option, &target] { target = option->count() > 0; });
}

/// The first word that is no option: the command. Only --threads takes a value before it.
std::optional<std::string> command_word(const std::vector<std::string>& arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--threads") {
      ++i;
    } else if (!arguments[i].starts_with('-')) {
      return arguments[i];
    }
  }
  return std::nullopt;
}

[[noreturn]] void unexpected(const CLI::App& app, const std::string& word, const std::string& see) {
  if (!word.starts_with('-')) throw UsageError({.what = "unexpected argument '" + printable(word) + "'", .hint = see});
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  const auto near = nearest(word.substr(0, word.find('=')), known);
  throw UsageError({.what = "unknown option '" + printable(word) + "'", .hint = near ? "did you mean '" + *near + "'?" : see});
}

}  // namespace

Arguments::Arguments(std::unique_ptr<Parser> parser) : parser_(std::move(parser)) {}
Arguments::~Arguments() = default;

void Arguments::positional(const std::string& name, Target target, const ArgumentSpec& spec) {
  add(*parser_, name, true, target, spec);
}
void Arguments::option(const std::string& names, Target target, const ArgumentSpec& spec) {
  add(*parser_, names, false, target, spec);
}
void Arguments::flag(const std::string& names, bool& target, const std::string& help) {
  add_flag(*parser_, names, target, help);
}

int dispatch(const std::vector<std::string>& arguments, const std::vector<Command>& commands) {
  std::vector<std::string> names;
  names.reserve(commands.size());
  for (const Command& command : commands) names.push_back(command.name);
  if (const auto word = command_word(arguments); word && std::find(names.begin(), names.end(), *word) == names.end()) {
    const auto near = nearest(*word, names);
    throw UsageError({.what = "unknown command '" + printable(*word) + "'",
                      .hint = near ? "did you mean '" + *near + "'?" : "mmtune --help lists the commands"});
  }

  CLI::App app("Adapts frozen multimodal models to new tasks by training experts: small sets of tensors at named sites.", "mmtune");
  app.require_subcommand(0, 1);
  bool version = false;
  Session session;
  std::vector<std::unique_ptr<Arguments>> declared;
  const auto declare_in = [&](CLI::App* where) -> Arguments& {
    auto parser = std::make_unique<Arguments::Parser>();
    parser->app = where;
    where->allow_extras();
    where->set_help_flag("-h,--help", "show this help");
    declared.push_back(std::make_unique<Arguments>(std::move(parser)));
    return *declared.back();
  };
  const ArgumentSpec threads{.help = "threads to compute with (default: the machine's cores)", .value = "N", .min = 1, .max = 1024};

  Arguments& global = declare_in(&app);
  global.option("--threads", &session.threads, threads);
  global.flag("--version", version, "show the version");
  std::vector<Action> actions;
  for (const Command& command : commands) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    if (command.hidden) sub->group("");
    Arguments& own = declare_in(sub);
    actions.push_back(command.declare(own));
    own.option("--threads", &session.threads, threads);
    sub->footer([&command] {
      std::string text = "Example:\n";
      std::size_t begin = 0;
      while (begin < command.example.size()) {
        const std::size_t end = std::min(command.example.find('\n', begin), command.example.size());
        text += "  " + command.example.substr(begin, end - begin) + "\n";
        begin = end + 1;
      }
      return text + (command.epilogue ? command.epilogue() : std::string());
    });
  }

  app.footer(
      "mmtune COMMAND --help explains a command with an example.\nExit codes: 0 success, 2 a mistake in the arguments or the "
      "recipe, 1 any other failure, 130 and 143 stopped by a signal.");

  try {
    // CLI11 takes its arguments from the back.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    const std::string help = app.help();  // of the chosen command, where there is one
    std::fwrite(help.data(), 1, help.size(), stdout);
    return 0;
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    throw UsageError(
        {.what = one_line(error.what()), .hint = "see mmtune " + (chosen.empty() ? "" : chosen.front()->get_name() + " ") + "--help"});
  }

  const auto chosen = app.get_subcommands();
  const CLI::App& deepest = chosen.empty() ? app : *chosen.front();
  const std::string see = "see mmtune " + (chosen.empty() ? "" : deepest.get_name() + " ") + "--help";
  for (const CLI::App* one : {static_cast<const CLI::App*>(&app), &deepest}) {
    const auto extras = one->remaining();
    if (!extras.empty()) unexpected(*one, extras.front(), see);
  }
  for (const auto& one : declared) {
    if (one->parser_->app == &app || one->parser_->app == &deepest) {
      for (const auto& read : one->parser_->readers) read();
    }
  }
  if (version) {
    const std::string line = version_line() + "\n";
    std::fwrite(line.data(), 1, line.size(), stdout);
    return 0;
  }
  if (chosen.empty()) throw UsageError({.what = "no command given", .hint = "mmtune --help lists them"});
  const auto index = static_cast<std::size_t>(std::find(names.begin(), names.end(), deepest.get_name()) - names.begin());
  if (commands[index].engine) start_engine(session);
  return actions[index](session);
}

}  // namespace mmtune::cli
