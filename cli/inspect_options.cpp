#include "inspect_options.h"

#include <algorithm>

#include "core/error.h"
#include "core/nearest.h"
#include "core/option_docs.h"
#include "methods/tvp_recipe.h"
#include "report/table.h"
#include "train/pretrain/answers_recipe.h"
#include "train/pretrain/recipe.h"
#include "train/recipe.h"

namespace mmtune::cli {

namespace {

using Kind = OptionEntry::Kind;

struct Component {
  std::string name;
  std::string help;
  std::vector<OptionEntry> entries;
};

std::string path_of(const OptionEntry& entry) {
  return entry.table.empty() ? entry.key : entry.table + "." + entry.key;
}

/// The sections of a recipe; the variants of a section ([expert] with method = "lora") are components of their own.
void add_components(const std::vector<OptionEntry>& all, const std::string& prefix, std::vector<Component>& out) {
  for (const OptionEntry& heading : all) {
    if (heading.kind == Kind::field) continue;
    const bool variant = heading.kind == Kind::variant;
    Component component{.name = prefix + (variant ? heading.key : path_of(heading)), .help = heading.help, .entries = {}};
    for (const OptionEntry& entry : all) {
      const bool own_heading = &entry == &heading;
      const bool inside = variant ? entry.kind == Kind::field && entry.when == heading.when && entry.table == heading.table
                                  : entry.kind == Kind::field && entry.when == heading.when && entry.table == path_of(heading);
      if (own_heading || inside) component.entries.push_back(entry);
    }
    out.push_back(std::move(component));
  }
}

std::vector<Component> all_components() {
  std::vector<Component> components;
  const auto training = document_options<train::Recipe>();
  add_components(training, "", components);
  const auto prompting = document_options<methods::TvpRecipe>();
  components.push_back({.name = "tvp", .help = "the recipe of a visual prompt (expert.method = \"tvp\")", .entries = prompting});
  add_components(prompting, "tvp.", components);
  const auto answering = document_options<train::AnswersRecipe>();
  components.push_back({.name = "answers", .help = "the recipe of mmtune pretrain with task answer or contrast", .entries = answering});
  add_components(answering, "answers.", components);
  const auto pretraining = document_options<train::PretrainRecipe>();
  components.push_back({.name = "pretrain", .help = "the recipe of mmtune pretrain", .entries = pretraining});
  add_components(pretraining, "pretrain.", components);
  return components;
}

Json to_json(const Component& component) {
  Json options = Json::array();
  for (const OptionEntry& entry : component.entries) {
    if (entry.kind != Kind::field) continue;
    Json option = {{"key", path_of(entry)}, {"accepts", entry.accepts}, {"default", entry.fallback}, {"help", entry.help}};
    if (!entry.when.empty()) option["when"] = entry.when;
    for (const auto& [name, help] : entry.choices) option["choices"][name] = help;
    options.push_back(std::move(option));
  }
  return {{"kind", "options"}, {"component", component.name}, {"help", component.help}, {"options", options}};
}

}  // namespace

std::optional<Description> describe_options(const std::string& name) {
  for (const Component& component : all_components()) {
    if (component.name != name) continue;
    std::string text = options_as_help(component.entries);
    text.erase(0, text.find_first_not_of('\n'));
    const bool any =
        std::any_of(component.entries.begin(), component.entries.end(), [](const OptionEntry& entry) { return entry.kind == Kind::field; });
    if (!any) text += "  no keys of its own\n";
    return Description{.text = std::move(text), .json = to_json(component)};
  }
  return std::nullopt;
}

Description list_components() {
  report::Table table({{"component"}, {"keys", report::Align::right}, {"what it is"}});
  for (const Component& component : all_components()) {
    const auto keys = std::count_if(component.entries.begin(), component.entries.end(),
                                    [](const OptionEntry& entry) { return entry.kind == Kind::field; });
    table.add({component.name, static_cast<std::int64_t>(keys), component.help});
  }
  return {.text = table.text(120), .json = {{"kind", "components"}, {"components", table.json()}}};
}

void refuse_component(const std::string& name) {
  std::vector<std::string> names;
  for (const Component& component : all_components()) names.push_back(component.name);
  const auto near = nearest(name, names);
  throw UsageError({.what = "no component of recipes has this name",
                    .where = printable(name),
                    .hint = near ? "did you mean '" + *near + "'?" : "mmtune inspect --options lists them"});
}

}  // namespace mmtune::cli
