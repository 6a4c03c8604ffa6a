// A recipe of every kind of option: an Error, or values that survive being written and read again. The lines behind a zero byte are
// key=value arguments.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/recipe.h"

namespace fuzzed {

using mmtune::OptionVisitor;

enum class Kind { one, two };

struct Part {
  std::string variant = "short";
  std::int64_t length = 1;
  std::optional<double> scale;
  std::vector<double> numbers;
};
void declare(OptionVisitor& v, Part& o) {
  v.variants("variant", o.variant,
             {{"short", "", [&](OptionVisitor& inner) { inner.field("length", o.length, {.help = "n", .min = 0, .max = 9}); }},
              {"long", "", [&](OptionVisitor& inner) { inner.field("scale", o.scale, {.help = "s", .above = 0}); }}});
  v.field("numbers", o.numbers, {.help = "x"});
}

struct Recipe {
  bool flag = false;
  std::string text;
  Kind kind = Kind::one;
  std::vector<std::string> names;
  std::vector<std::int64_t> counts;
  std::map<std::string, std::string> map;
  std::optional<std::int64_t> maybe;
  Part part;
  std::optional<Part> other;
  std::vector<Part> parts;
};
void declare(OptionVisitor& v, Recipe& o) {
  v.field("flag", o.flag);
  v.field("text", o.text);
  v.choice("kind", o.kind, {{"one", Kind::one}, {"two", Kind::two}});
  v.field("names", o.names);
  v.field("counts", o.counts, {.help = "c", .min = -5});
  v.field("map", o.map);
  v.field("maybe", o.maybe);
  v.table("part", o.part);
  v.table("other", o.other);
  v.tables("parts", o.parts);
  v.require("flag", !o.flag || o.kind == Kind::one, "false with kind two");
}

}  // namespace fuzzed

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = std::min(input.find('\0'), input.size());
  const std::string_view text = input.substr(0, end);
  input.remove_prefix(std::min(end + 1, input.size()));
  std::string written;
  try {
    mmtune::TomlValue root = mmtune::parse_toml(text, "fuzz");
    while (!input.empty()) {
      const std::size_t line = std::min(input.find('\n'), input.size());
      mmtune::apply_assignment(root, std::string(input.substr(0, line)));
      input.remove_prefix(std::min(line + 1, input.size()));
    }
    written = mmtune::write_options(mmtune::read_options<fuzzed::Recipe>(root));
  } catch (const mmtune::UsageError&) {
    return 0;
  }
  // From here on nothing may throw: what was accepted is written as a valid recipe.
  const auto again = mmtune::read_options<fuzzed::Recipe>(mmtune::parse_toml(written, "again"));
  if (mmtune::write_options(again) != written) std::abort();
  return 0;
}
