#include "core/option_docs.h"

#include <algorithm>

#include "core/toml.h"

namespace mmtune {

namespace {

std::string fallback_text(const bool& value) {
  return value ? "true" : "false";
}
std::string fallback_text(const std::int64_t& value) {
  return std::to_string(value);
}
std::string fallback_text(const double& value) {
  std::string text = toml_number(value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}
std::string fallback_text(const std::string& value) {
  return toml_quoted(value);
}
template <class T>
std::string fallback_text(const std::vector<T>& values) {
  std::string out = "[";
  for (const T& value : values) out += (out.size() > 1 ? ", " : "") + fallback_text(value);
  return out + "]";
}
template <class T>
std::string fallback_text(const std::optional<T>& value) {
  return value ? fallback_text(*value) : "none";
}
template <class T>
std::string fallback_text(const std::map<std::string, T>& values) {
  std::string out = "{";
  for (const auto& [key, value] : values) out += (out.size() > 1 ? ", " : "") + toml_key(key) + " = " + fallback_text(value);
  return out + "}";
}

template <class T>
bool says_nothing(const T& value) {
  if constexpr (requires { value.has_value(); }) {
    return !value.has_value();
  } else if constexpr (requires { value.empty(); }) {
    return value.empty();
  } else {
    return false;
  }
}

class Documenter : public OptionVisitor {
 public:
  Documenter(std::string table, std::string when, std::vector<OptionEntry>& entries)
      : table_(std::move(table)), when_(std::move(when)), entries_(entries) {}

 protected:
  void visit_field(std::string_view key, FieldRef field, const FieldSpec& spec) override {
    OptionEntry entry = start(OptionEntry::Kind::field, key, spec.help);
    entry.accepts = accepted(field, spec);
    entry.fallback = std::visit(
        [&](const auto* value) {
          if (spec.required) return std::string("required");
          if (says_nothing(*value) && !spec.unset.empty()) return spec.unset;
          return fallback_text(*value);
        },
        field);
    entries_.push_back(std::move(entry));
  }

  void visit_choice(std::string_view key, std::string& name, const std::vector<std::pair<std::string, std::string>>& names,
                    const FieldSpec& spec) override {
    OptionEntry entry = start(OptionEntry::Kind::field, key, spec.help);
    for (const auto& [choice, help] : names) entry.accepts += (entry.accepts.empty() ? "" : ", ") + choice;
    entry.accepts = "one of " + entry.accepts;
    entry.fallback = spec.required ? "required" : toml_quoted(name);
    if (std::any_of(names.begin(), names.end(), [](const auto& choice) { return !choice.second.empty(); })) entry.choices = names;
    entries_.push_back(std::move(entry));
  }

  void visit_variants(std::string_view key, std::string& name, const std::vector<Variant>& all, const FieldSpec& spec) override {
    std::vector<std::pair<std::string, std::string>> names;
    for (const Variant& variant : all) names.emplace_back(variant.name, variant.help);
    visit_choice(key, name, names, spec);
    for (const Variant& variant : all) {
      OptionEntry heading = start(OptionEntry::Kind::variant, variant.name, variant.help);
      const std::string condition = std::string(key) + " = " + toml_quoted(variant.name);
      heading.when = when_.empty() ? condition : when_ + ", " + condition;
      Documenter inner(table_, heading.when, entries_);
      entries_.push_back(std::move(heading));
      variant.declare(inner);
    }
  }

  void visit_table(std::string_view key, const TableRef& table, const TableSpec& spec) override {
    OptionEntry entry = start(OptionEntry::Kind::table, key, spec.help);
    entry.fallback = spec.required ? "required" : table.present() ? "" : "absent";
    entries_.push_back(std::move(entry));
    Documenter inner(path_of(key), when_, entries_);
    table.declare(inner);
  }

  void visit_tables(std::string_view key, const TableListRef& list, const TableSpec& spec) override {
    OptionEntry entry = start(OptionEntry::Kind::list_of_tables, key, spec.help);
    entry.fallback = spec.required ? "required" : "none";
    entries_.push_back(std::move(entry));
    Documenter inner(path_of(key), when_, entries_);
    list.prototype(inner);
  }

 private:
  std::string path_of(std::string_view key) const { return (table_.empty() ? "" : table_ + ".") + toml_key(key); }

  OptionEntry start(OptionEntry::Kind kind, std::string_view key, const std::string& help) const {
    OptionEntry entry;
    entry.kind = kind;
    entry.table = table_;
    entry.key = std::string(key);
    entry.when = when_;
    entry.help = help;
    return entry;
  }

  std::string table_;
  std::string when_;
  std::vector<OptionEntry>& entries_;
};

/// Fields that are documented together: one table, under one condition.
struct Section {
  std::string table;
  std::string when;
  std::string help;
  bool list = false;
  std::string fallback;
  std::vector<const OptionEntry*> fields;
};

std::vector<Section> sections_of(const std::vector<OptionEntry>& entries) {
  std::vector<Section> sections;
  const auto section = [&](const std::string& table, const std::string& when) -> Section& {
    const auto found = std::find_if(sections.begin(), sections.end(), [&](const Section& s) { return s.table == table && s.when == when; });
    if (found != sections.end()) return *found;
    const bool list = std::any_of(sections.begin(), sections.end(), [&](const Section& s) { return s.table == table && s.list; });
    sections.push_back({});
    sections.back().table = table;
    sections.back().when = when;
    sections.back().list = list;
    return sections.back();
  };
  for (const OptionEntry& entry : entries) {
    if (entry.kind == OptionEntry::Kind::field) {
      section(entry.table, entry.when).fields.push_back(&entry);
    } else if (entry.kind == OptionEntry::Kind::variant) {
      section(entry.table, entry.when).help = entry.help;
    } else {
      Section& own = section((entry.table.empty() ? "" : entry.table + ".") + toml_key(entry.key), entry.when);
      own.help = entry.help;
      own.list = entry.kind == OptionEntry::Kind::list_of_tables;
      own.fallback = entry.fallback;
    }
  }
  return sections;
}

std::string header_of(const Section& section) {
  if (section.table.empty()) return {};
  return section.list ? "[[" + section.table + "]]" : "[" + section.table + "]";
}

/// Makes text safe inside a cell of a Markdown table.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : c == '<' ? std::string("&lt;") : std::string(1, c);
  return out;
}

std::string code_unless_words(const std::string& fallback) {
  // Values are set as code; words ("required", "the model's own length") are not.
  const bool value =
      !fallback.empty() && (fallback.front() == '"' || fallback.front() == '[' || fallback.front() == '{' || fallback.front() == '-' ||
                            (fallback.front() >= '0' && fallback.front() <= '9') || fallback == "true" || fallback == "false");
  return value ? "`" + fallback + "`" : cell(fallback);
}

std::string wrapped(const std::string& text, std::size_t indent, std::size_t width) {
  std::string out;
  std::size_t column = indent;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::size_t length = end - begin;
    if (column > indent && column + 1 + length > width) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += text.substr(begin, length);
    column += length;
    begin = end + 1;
  }
  return out;
}

}  // namespace

std::vector<OptionEntry> document(const std::function<void(OptionVisitor&)>& declare) {
  std::vector<OptionEntry> entries;
  Documenter documenter("", "", entries);
  declare(documenter);
  return entries;
}

std::vector<std::string> top_level_keys(const std::function<void(OptionVisitor&)>& declare) {
  std::vector<std::string> keys;
  for (const OptionEntry& entry : document(declare)) {
    if (entry.table.empty() && entry.kind != OptionEntry::Kind::variant) keys.push_back(entry.key);
  }
  return keys;
}

std::string options_as_markdown(const std::vector<OptionEntry>& entries) {
  std::string out;
  for (const Section& section : sections_of(entries)) {
    if (!section.when.empty()) {
      out += "### " + (section.table.empty() ? "" : "`" + header_of(section) + "` with ") + "`" + section.when + "`\n\n";
    } else if (!section.table.empty()) {
      out += "## `" + header_of(section) + "`\n\n";
    }
    if (!section.help.empty()) {
      std::string sentence = cell(section.help);
      if (sentence[0] >= 'a' && sentence[0] <= 'z') sentence[0] = static_cast<char>(sentence[0] - 'a' + 'A');
      out += sentence + (section.fallback == "absent" ? " (optional)." : ".") + "\n\n";
    }
    if (section.fields.empty()) {
      if (!section.when.empty()) out += "No further keys.\n\n";
      continue;
    }
    out += "| key | accepts | default | meaning |\n|---|---|---|---|\n";
    for (const OptionEntry* field : section.fields) {
      std::string meaning = cell(field->help);
      for (const auto& [name, help] : field->choices) {
        if (!help.empty()) meaning += "<br>`" + name + "`: " + cell(help);
      }
      out += "| `" + field->key + "` | " + cell(field->accepts) + " | " + code_unless_words(field->fallback) + " | " + meaning + " |\n";
    }
    out += "\n";
  }
  return out;
}

std::string options_as_help(const std::vector<OptionEntry>& entries, std::size_t width) {
  std::string out;
  for (const Section& section : sections_of(entries)) {
    const std::string header = header_of(section);
    if (!header.empty() || !section.when.empty()) {
      out += "\n" + header + (section.when.empty() ? "" : (header.empty() ? "with " : " with ") + section.when);
      if (!section.help.empty()) out += "   # " + section.help;
      out += "\n";
    }
    for (const OptionEntry* field : section.fields) {
      const std::string line = "  " + toml_key(field->key) + ": " + field->accepts +
                               (field->fallback.empty()         ? ""
                                : field->fallback == "required" ? " (required)"
                                                                : " (default " + field->fallback + ")");
      out += wrapped(line.substr(2), 6, width).insert(0, "  ") + "\n";
      if (!field->help.empty()) out += "      " + wrapped(field->help, 6, width) + "\n";
    }
  }
  return out;
}

}  // namespace mmtune
