#pragma once
// An expert: a small set of tensors with a kind, attached to the sites of one backbone. A portable object: it is saved, loaded,
// enabled, disabled, and (by later methods) embedded, compared and interpolated through the names of its tensors alone.

#include <ATen/core/Generator.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backbones/backbone.h"
#include "core/json.h"
#include "core/options.h"
#include "nn/parameters.h"

namespace mmtune::experts {

class Expert {
 public:
  virtual ~Expert() = default;
  Expert() = default;
  Expert(const Expert&) = delete;
  Expert& operator=(const Expert&) = delete;

  virtual std::string_view kind() const = 0;
  /// Stable names (PEFT's keys without "base_model.model." for the kinds that PEFT has), all tensors that make the expert. Those that do
  /// not require gradients are part of it, and saved, but never trained.
  virtual std::vector<nn::NamedTensor> tensors() const = 0;
  /// adapter_config.json: PEFT's keys for the kinds that PEFT has, our own peft_type for the rest.
  virtual Json config() const = 0;
  /// Hooks in or out; an expert starts enabled. A disabled expert leaves the backbone as if it had never been there.
  virtual void set_enabled(bool enabled) = 0;
  virtual bool enabled() const = 0;
  /// Whether what it does can be folded into the backbone's tensors exactly (experts/merge.h).
  virtual bool mergeable() const { return false; }
  /// Multiply-accumulates added per example with `tokens` rows, every row of every block being computed.
  virtual std::int64_t extra_macs(std::int64_t tokens) const = 0;
  /// Whether it works beside the backbone: no gradient of its tensors passes through a block, and it needs every row of the last one.
  virtual bool beside_backbone() const { return false; }

  /// Whether every pass needs the features of the towers beside its own (nn::Context::complementary).
  virtual bool conditional() const { return false; }
  /// Widths of the other towers that it was built for, in their order; empty for an expert of one tower.
  virtual std::vector<std::int64_t> complementary_widths() const { return {}; }
  /// Whether it learns what stands in for an absent complementary modality even if every training example has it.
  virtual bool learns_absent() const { return false; }
  /// To be called before every forward pass of the model, and after the last backward pass of a step: for experts whose tensors in the
  /// backbone are made from those that learn.
  virtual void before_pass(const nn::Context&) {}
  virtual void after_backward() {}
  /// Whether all that it trains gets squared gradients where nn::Context::examples asks for them.
  virtual bool squares_gradients() const { return false; }
  /// What a run keeps of it: itself, or the expert that it has become.
  virtual const Expert& kept() const { return *this; }
  /// What the latest forward pass adds to the task's loss: a scalar with a graph, weighted; undefined where there is nothing to add.
  virtual at::Tensor auxiliary_loss() const { return {}; }

  std::int64_t parameter_count() const;  ///< of what is trained
};

/// The recipe of an expert: options of one kind, and how to build it on a backbone.
class ExpertRecipe {
 public:
  virtual ~ExpertRecipe() = default;
  virtual std::string_view kind() const = 0;
  virtual std::string_view summary() const = 0;  ///< one line, no full stop
  virtual void declare(OptionVisitor& visitor) = 0;
  /// Reads the options back from adapter_config.json. Throws Error on a value that it does not understand.
  virtual void read_config(const Json& config, const std::string& where) = 0;
  /// Creates the tensors (trainable leaves) and hooks. Throws Error when no site matches, naming the pattern and the nearest site names.
  /// The expert must not outlive `backbone`.
  virtual std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const = 0;

  /// Options that name files or folders.
  virtual std::vector<std::string*> paths() { return {}; }
  /// Whether it is built from experts that must belong to the backbone with this fingerprint: build_on() is then called, not build().
  virtual bool needs_fingerprint() const { return false; }
  virtual std::unique_ptr<Expert> build_on(backbones::Backbone& backbone, const std::string&, at::Generator generator) const {
    return build(backbone, std::move(generator));
  }

  /// Whether the expert, on the main tower, works with the towers beside it.
  virtual bool conditional() const { return false; }
  /// The same for such kinds, with the widths of the other towers' features.
  virtual std::unique_ptr<Expert> build_conditioned(backbones::Backbone& backbone, const std::vector<std::int64_t>&,
                                                    at::Generator generator) const {
    return build(backbone, std::move(generator));
  }
};

/// Throws UsageError naming the nearest known kind.
std::unique_ptr<ExpertRecipe> expert_recipe(std::string_view kind);
std::vector<std::string> known_kinds();

/// Writes adapter_config.json and adapter_model.safetensors into `folder` (created), each atomically. `metadata` (backbone identity,
/// recipe, data fingerprint, metric, version) is kept as JSON text under "mmtune" in the tensors' file, so that the two cannot part.
void save_expert(const Expert& expert, const std::filesystem::path& folder, const Json& metadata);

/// An expert's folder, opened on a backbone.
struct OpenedExpert {
  std::unique_ptr<Expert> expert;
  /// Tensors of the task's head that PEFT keeps beside the expert (modules_to_save), by the names of transformers: "classifier.weight".
  std::vector<nn::NamedTensor> head;
  Json config;    ///< adapter_config.json as it is
  Json metadata;  ///< what save_expert was given; null where the file is not ours
};

/// Builds the expert that `folder` describes on `backbone` and fills its tensors. PEFT's folders are understood as its versions wrote them,
/// with module names of transformers 4 and 5. Strict: every key of the file is used and every tensor of the expert is filled with finite
/// numbers, shapes equal, the backbone is the one that the metadata names (unless `any_backbone`); otherwise Error with the lists. A file
/// without a tensor that would change anything is an Error, and so is what a configuration asks for and we do not have.
OpenedExpert open_expert(const std::filesystem::path& folder, backbones::Backbone& backbone, const std::string& backbone_fingerprint,
                         bool any_backbone = false);
/// The same for a folder without a head; one that has a head is refused.
std::unique_ptr<Expert> load_expert(const std::filesystem::path& folder, backbones::Backbone& backbone,
                                    const std::string& backbone_fingerprint, bool any_backbone = false);

}  // namespace mmtune::experts
