#include "text/metaspace.h"

#include <vector>

#include "core/error.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

class MetaspacePreTokenizer : public PreTokenizer {
 public:
  explicit MetaspacePreTokenizer(const Metaspace& settings) : settings_(settings) {}

  void apply(PreTokenized& text) const override {
    text.rewrite([&](std::span<const Char> word, std::vector<Char>& chars, std::vector<Range>& words) {
      if (word.empty()) return;
      auto begin = static_cast<std::uint32_t>(chars.size());
      const Char& front = word.front();
      if (visible(front.code) != settings_.replacement && prepends(front)) chars.push_back({settings_.replacement, front.begin, front.end});
      for (const Char& c : word) {
        const char32_t code = visible(c.code);
        const auto at = static_cast<std::uint32_t>(chars.size());
        if (settings_.split && code == settings_.replacement && at > begin) {
          words.push_back({begin, at});
          begin = at;
        }
        chars.push_back({code, c.begin, c.end});
      }
      words.push_back({begin, static_cast<std::uint32_t>(chars.size())});
    });
  }

 private:
  char32_t visible(char32_t code) const { return code == U' ' ? settings_.replacement : code; }

  bool prepends(const Char& front) const {
    return settings_.prepend == PrependScheme::always || (settings_.prepend == PrependScheme::first && front.begin == 0);
  }

  Metaspace settings_;
};

PrependScheme read_scheme(JsonFields& fields) {
  const std::string scheme = fields.string("prepend_scheme");
  if (scheme == "always") return PrependScheme::always;
  if (scheme == "first") return PrependScheme::first;
  if (scheme == "never") return PrependScheme::never;
  fields.fail("prepend_scheme", "always, first or never", fields.any("prepend_scheme"));
}

}  // namespace

Metaspace read_metaspace(JsonFields& fields) {
  Metaspace settings;
  const std::u32string replacement = to_utf32(fields.string("replacement"));
  if (replacement.size() != 1) fields.fail("replacement", "one character", fields.any("replacement"));
  settings.replacement = replacement.front();
  if (fields.optional("prepend_scheme") != nullptr) settings.prepend = read_scheme(fields);
  const bool adds = fields.boolean_or("add_prefix_space", settings.prepend != PrependScheme::never);
  // Of the two spellings in one file, "no" holds in both or is a contradiction.
  if (!adds && fields.optional("prepend_scheme") != nullptr && settings.prepend != PrependScheme::never) {
    fields.fail("add_prefix_space", "true beside this prepend_scheme", fields.any("add_prefix_space"));
  }
  if (!adds) settings.prepend = PrependScheme::never;
  settings.split = fields.boolean_or("split", true);
  fields.ignore("str_rep");
  return settings;
}

std::unique_ptr<PreTokenizer> make_metaspace(const Metaspace& settings) {
  return std::make_unique<MetaspacePreTokenizer>(settings);
}

}  // namespace mmtune::text
