#pragma once
// The architectures that can be opened. A new one is one file that defines its Architecture, and one line in registry.cpp.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/config.h"

namespace mmtune::backbones {

struct Architecture {
  std::string_view model_type;        ///< of config.json
  std::vector<std::string> prefixes;  ///< under which task checkpoints keep the encoder, tried in order
  std::string_view probe;             ///< a tensor that every checkpoint of this architecture has
  /// Builds the model from its tensors. Called with a fresh source too.
  std::unique_ptr<Backbone> (*make)(const Config& config, const nn::Weights& weights);
  /// The tower that this entry opens, where a model has several and each has an entry; otherwise the whole model.
  std::optional<Modality> tower = std::nullopt;
  /// How files name what `make` asks for, where they have spellings of their own; null: as it is asked for.
  nn::Weights::Layout (*layout)(const io::Checkpoint& checkpoint) = nullptr;
};

Architecture bert_architecture();
Architecture roberta_architecture();
Architecture xlm_roberta_architecture();
Architecture vit_architecture();
Architecture swin_architecture();
Architecture clip_architecture();
Architecture clip_image_tower();
Architecture clip_text_tower();
Architecture clip_vision_architecture();
Architecture clip_text_architecture();
Architecture wav2vec2_architecture();
Architecture vilt_architecture();
Architecture meter_architecture();
Architecture ofa_architecture();
Architecture llama_architecture();
Architecture opt_architecture();
Architecture t5_architecture();
Architecture llava_architecture();
Architecture blip2_architecture();
Architecture instructblip_architecture();
Architecture minigpt4_architecture();
Architecture vpgtrans_architecture();
Architecture bliva_architecture();

}  // namespace mmtune::backbones
