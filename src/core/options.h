#pragma once
// One declaration of a set of options serves everything: reading and checking a recipe, defaults, --help, the reference page, and the
// resolved recipe that a run keeps.
//
//   struct LoraOptions {
//     std::int64_t rank = 8;
//     double alpha = 16;
//     std::vector<std::string> targets = {"query", "value"};
//   };
//   inline void declare(OptionVisitor& v, LoraOptions& o) {
//     v.field("rank", o.rank, {.help = "rank of the update", .min = 1});
//     v.field("alpha", o.alpha, {.help = "scale: the update is multiplied by alpha / rank", .above = 0});
//     v.field("targets", o.targets, {.help = "names of the linear maps, as patterns", .min_items = 1});
//   }
//
// The value that a default-constructed struct holds is the default. `declare` must be found by argument-dependent lookup (same namespace
// as the struct), must visit the same keys whenever it is called (variants() is for keys that depend on a choice), and may be called on
// any object at any time by visitors that only look.

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/error.h"

namespace mmtune {

/// What may be said of one field. Bounds hold for numbers and for the elements of lists of numbers.
struct FieldSpec {
  std::string help;                  ///< one line, no full stop
  std::optional<double> min;         ///< value >= min
  std::optional<double> max;         ///< value <= max
  std::optional<double> above;       ///< value > above
  std::optional<double> below;       ///< value < below
  std::vector<std::string> choices;  ///< the strings allowed (also for the elements of a list of strings)
  std::size_t min_items = 0;         ///< of a list
  bool required = false;             ///< no default: the recipe must say it (and a string must not be empty)
  std::string unset;                 ///< documentation: what happens when an optional value (or an empty string) is left out
};

struct TableSpec {
  std::string help;
  bool required = false;
};

/// The types a field can have.
using FieldRef = std::variant<bool*, std::int64_t*, double*, std::string*, std::vector<std::string>*, std::vector<std::int64_t>*,
                              std::vector<double>*, std::optional<bool>*, std::optional<std::int64_t>*, std::optional<double>*,
                              std::optional<std::string>*, std::map<std::string, std::string>*, std::map<std::string, double>*>;

/// A name in a recipe for a value of an enumeration.
template <class Enum>
struct Choice {
  std::string name;
  Enum value;
  std::string help = {};
};

class OptionVisitor;

/// One of several sets of keys that may stand in the same table; which one is told by the value of a key of that table.
struct Variant {
  std::string name;
  std::string help;
  std::function<void(OptionVisitor&)> declare;
};

/// A nested table as the visitors see it.
struct TableRef {
  std::function<void(OptionVisitor&)> declare;  ///< of the table's own struct, or of a default one while an optional table is absent
  std::function<bool()> present;
  std::function<void()> create;  ///< makes an optional table present
};

/// A list of tables as the visitors see it.
struct TableListRef {
  std::function<std::size_t()> size;
  std::function<void(std::size_t)> resize;
  std::function<void(std::size_t, OptionVisitor&)> declare;
  std::function<void(OptionVisitor&)> prototype;  ///< of a default element
};

class OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;

  /// A field of one of the types of FieldRef.
  template <class T>
  void field(std::string_view key, T& value, const FieldSpec& spec = {}) {
    static_assert(std::is_constructible_v<FieldRef, T*>, "options are bool, int64, double, string, lists and optionals of them");
    visit_field(key, FieldRef(&value), spec);
  }

  /// An enumeration by the names of its values. The current value must be among the choices.
  template <class Enum>
  void choice(std::string_view key, Enum& value, const std::type_identity_t<std::vector<Choice<Enum>>>& choices,
              const FieldSpec& spec = {}) {
    std::vector<std::pair<std::string, std::string>> names;
    std::string name;
    for (const auto& candidate : choices) {
      names.emplace_back(candidate.name, candidate.help);
      if (candidate.value == value) name = candidate.name;
    }
    MMTUNE_ASSERT(!name.empty());
    visit_choice(key, name, names, spec);
    for (const auto& candidate : choices) {
      if (candidate.name == name) value = candidate.value;
    }
  }

  /// A key (`method = "lora"`) whose value decides which further keys the same table has.
  void variants(std::string_view key, std::string& value, const std::vector<Variant>& all, const FieldSpec& spec = {}) {
    visit_variants(key, value, all, spec);
  }

  /// A nested table: a struct with its own declare(), or an optional of one (absent unless the recipe has the table).
  template <class T>
  void table(std::string_view key, T& sub, const TableSpec& spec = {}) {
    visit_table(key, {[&sub](OptionVisitor& v) { declare(v, sub); }, [] { return true; }, [] {}}, spec);
  }
  template <class T>
  void table(std::string_view key, std::optional<T>& sub, const TableSpec& spec = {}) {
    visit_table(key,
                {[&sub](OptionVisitor& v) {
                   T prototype{};
                   declare(v, sub ? *sub : prototype);
                 },
                 [&sub] { return sub.has_value(); }, [&sub] { sub.emplace(); }},
                spec);
  }

  /// A list of tables ([[key]]); a single [key] is a list of one.
  template <class T>
  void tables(std::string_view key, std::vector<T>& list, const TableSpec& spec = {}) {
    visit_tables(key,
                 {[&list] { return list.size(); }, [&list](std::size_t n) { list.resize(n); },
                  [&list](std::size_t i, OptionVisitor& v) { declare(v, list[i]); },
                  [](OptionVisitor& v) {
                    T prototype{};
                    declare(v, prototype);
                  }},
                 spec);
  }

  /// A condition on values that stand above it in the declaration; `key` is the one to blame. Checked while reading only.
  virtual void require(std::string_view key, bool holds, const std::string& expected, const std::string& hint = {});

 protected:
  virtual void visit_field(std::string_view key, FieldRef value, const FieldSpec& spec) = 0;
  virtual void visit_choice(std::string_view key, std::string& name, const std::vector<std::pair<std::string, std::string>>& names,
                            const FieldSpec& spec) = 0;
  virtual void visit_variants(std::string_view key, std::string& name, const std::vector<Variant>& all, const FieldSpec& spec) = 0;
  virtual void visit_table(std::string_view key, const TableRef& table, const TableSpec& spec) = 0;
  virtual void visit_tables(std::string_view key, const TableListRef& list, const TableSpec& spec) = 0;
};

/// "a number >= 0 and < 1", "one of a, b, c", "a list of integers >= 1": what a field accepts, for errors and documentation.
std::string accepted(const FieldRef& value, const FieldSpec& spec);

}  // namespace mmtune
