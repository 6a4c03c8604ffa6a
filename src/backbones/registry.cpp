#include "backbones/registry.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace mmtune::backbones {

namespace {

std::vector<Architecture> architectures() {
  return {bert_architecture(), roberta_architecture(), xlm_roberta_architecture(), vit_architecture()};
}

Architecture architecture_of(const Json& config, const std::string& where) {
  const std::string type = config.is_object() ? Config(config, where).text("model_type", "") : "";
  for (const Architecture& architecture : architectures())
    if (architecture.model_type == type) return architecture;
  std::string known;
  for (const std::string& name : known_architectures()) known += (known.empty() ? "" : ", ") + name;
  throw Error({.what = "model_type is not supported", .where = where, .expected = "one of " + known, .got = "\"" + printable(type) + "\""});
}

}  // namespace

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Architecture& architecture : architectures()) names.emplace_back(architecture.model_type);
  return names;
}

std::unique_ptr<Backbone> open_backbone(const io::Checkpoint& checkpoint) {
  const std::string where = (checkpoint.folder() / "config.json").string();
  const Architecture architecture = architecture_of(checkpoint.config(), where);
  const nn::Weights weights = nn::Weights::of(checkpoint, architecture.prefixes, architecture.probe);
  return architecture.make(Config(checkpoint.config(), where), weights);
}

std::unique_ptr<Backbone> fresh_backbone(const Json& config, std::uint64_t seed) {
  const std::string where = "model configuration";
  return architecture_of(config, where).make(Config(config, where), nn::Weights::fresh(seed));
}

}  // namespace mmtune::backbones
