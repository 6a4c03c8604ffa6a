#pragma once
// Whole models of APT's golden cases: opened from their official names like a published checkpoint, with the experts that the case is
// about.

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backbones/backbone.h"
#include "experts/expert.h"
#include "golden.h"
#include "nn/parameters.h"

namespace mmtune::golden {

/// The case's parameters ("w.…") in a folder of their own, as the program would find them.
class OfficialFolder {
 public:
  OfficialFolder(Case& golden, const Json& config);
  ~OfficialFolder();
  OfficialFolder(const OfficialFolder&) = delete;
  OfficialFolder& operator=(const OfficialFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// The model's settings: "config", or "model_config" in it.
const Json& settings_of(const Case& golden);

class OfficialModel {
 public:
  OfficialModel(Case& golden, const Json& config);
  backbones::Backbone& backbone() { return *backbone_; }

  /// A trainable copy of an official parameter; the same one at every call.
  at::Tensor leaf(const std::string& official);
  /// Puts the leaf in the place of one of the backbone's tensors.
  void free(const std::string& slot, const std::string& official);
  /// Attaches APT, where the case has it; `official_site` tells what the original calls one of our sites.
  void attach_apt(bool learn_scale, const std::function<std::string(const std::string& site)>& official_site);
  /// Attaches prompts of the blocks, all of them [L, 1, p, D] or the first only [1, 1, p, D].
  void attach_prompts(const std::string& official);

  /// Linear → norm → GELU → linear, from leaves `prefix`.{0,1,3}.
  at::Tensor mlp_head(const std::string& prefix, const at::Tensor& features);
  at::Tensor linear_head(const std::string& prefix, const at::Tensor& features);

  void compare_gradients();
  /// The case's optimiser steps; `loss` is computed anew at each.
  void compare_training(const std::function<at::Tensor()>& loss);

 private:
  Case& golden_;
  OfficialFolder folder_;
  std::unique_ptr<backbones::Backbone> backbone_;
  std::vector<std::unique_ptr<experts::Expert>> experts_;
  std::map<std::string, at::Tensor> leaves_;
  std::map<std::string, std::function<at::Tensor()>> gathered_;  ///< gradients of official tensors that are several of ours
};

/// Calls back around a block, and lets the hook that was there do its work.
class BlockWatch final : public nn::SequenceHook {
 public:
  using Seen = std::function<void(const nn::Tokens&)>;
  BlockWatch(nn::SequenceSite& site, Seen entering, Seen leaving);
  ~BlockWatch() override;
  BlockWatch(const BlockWatch&) = delete;
  BlockWatch& operator=(const BlockWatch&) = delete;
  void before_block(nn::Tokens& tokens, const nn::Context& context) override;
  void after_block(nn::Tokens& tokens, const nn::Context& context) override;

 private:
  nn::SequenceSite& site_;
  nn::SequenceHook* inner_;
  Seen entering_, leaving_;
};

/// Calls back with what passes an attention sublayer before and behind its experts.
class AttentionWatch {
 public:
  using Seen = std::function<void(const std::string& site, const at::Tensor& rows, bool behind)>;
  AttentionWatch(backbones::Backbone& backbone, const Seen& seen);
  ~AttentionWatch();
  AttentionWatch(const AttentionWatch&) = delete;
  AttentionWatch& operator=(const AttentionWatch&) = delete;

 private:
  class Tap;
  std::vector<nn::SublayerSite*> sites_;
  std::vector<std::unique_ptr<nn::SublayerHook>> taps_;
};

/// Binary cross entropy summed over the answers, the mean over examples.
at::Tensor answer_loss(const at::Tensor& logits, const at::Tensor& targets);

/// [B, N, …] from rows [B·N, …].
at::Tensor as_batch(const at::Tensor& rows, std::int64_t batch);

}  // namespace mmtune::golden
