#include "core/option_writer.h"

#include "core/toml.h"

namespace mmtune {

namespace {

std::string as_toml(bool value) {
  return value ? "true" : "false";
}
std::string as_toml(std::int64_t value) {
  return std::to_string(value);
}
std::string as_toml(double value) {
  return toml_number(value);
}
std::string as_toml(const std::string& value) {
  return toml_quoted(value);
}

template <class T>
std::string as_toml(const std::vector<T>& values) {
  std::string out = "[";
  for (const T& value : values) out += (out.size() > 1 ? ", " : "") + as_toml(value);
  return out + "]";
}

/// Collects a table's own keys apart from its subtables, because TOML wants the keys first.
class Writer : public OptionVisitor {
 public:
  Writer(std::string path, std::string header) : path_(std::move(path)), header_(std::move(header)) {}

  std::string text() const {
    // A table that has only subtables needs no header of its own, but an empty table must not vanish.
    const bool headed = !header_.empty() && (!keys_.empty() || subtables_.empty() || header_.starts_with("[["));
    return (headed ? "\n" + header_ + "\n" : "") + keys_ + subtables_;
  }

 protected:
  void visit_field(std::string_view key, FieldRef field, const FieldSpec&) override {
    std::visit([&](auto* value) { put(key, *value); }, field);
  }

  void visit_choice(std::string_view key, std::string& name, const std::vector<std::pair<std::string, std::string>>&,
                    const FieldSpec&) override {
    put(key, name);
  }

  void visit_variants(std::string_view key, std::string& name, const std::vector<Variant>& all, const FieldSpec&) override {
    put(key, name);
    for (const Variant& variant : all) {
      if (variant.name == name) variant.declare(*this);
    }
  }

  void visit_table(std::string_view key, const TableRef& table, const TableSpec&) override {
    if (!table.present()) return;
    const std::string path = path_ + toml_key(key);
    Writer inner(path + ".", "[" + path + "]");
    table.declare(inner);
    subtables_ += inner.text();
  }

  void visit_tables(std::string_view key, const TableListRef& list, const TableSpec&) override {
    const std::string path = path_ + toml_key(key);
    if (list.size() == 0) {
      keys_ += toml_key(key) + " = []\n";
      return;
    }
    for (std::size_t i = 0; i < list.size(); ++i) {
      Writer inner(path + ".", "[[" + path + "]]");
      list.declare(i, inner);
      subtables_ += inner.text();
    }
  }

 private:
  template <class T>
  void put(std::string_view key, const T& value) {
    keys_ += toml_key(key) + " = " + as_toml(value) + "\n";
  }
  template <class T>
  void put(std::string_view key, const std::optional<T>& value) {
    if (value) put(key, *value);
  }
  void put(std::string_view key, const std::map<std::string, std::string>& values) {
    begin_subtable(key);
    for (const auto& [name, value] : values) subtables_ += toml_key(name) + " = " + toml_quoted(value) + "\n";
  }
  void put(std::string_view key, const std::map<std::string, double>& values) {
    begin_subtable(key);
    for (const auto& [name, value] : values) subtables_ += toml_key(name) + " = " + toml_number(value) + "\n";
  }
  void begin_subtable(std::string_view key) { subtables_ += "\n[" + path_ + toml_key(key) + "]\n"; }

  std::string path_;
  std::string header_;
  std::string keys_;
  std::string subtables_;
};

}  // namespace

std::string write_toml(const std::function<void(OptionVisitor&)>& declare) {
  Writer writer("", "");
  declare(writer);
  std::string text = writer.text();
  if (text.starts_with('\n')) text.erase(0, 1);
  return text;
}

}  // namespace mmtune
