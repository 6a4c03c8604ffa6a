#pragma once
// How files spell the tensors of multimodal language models. The models here ask for one spelling (below); published files, transformers'
// own of several versions, and the files of the released code have others.

#include <string>
#include <vector>

#include "nn/weights.h"

namespace mmtune::backbones {

/// Where a file may keep the tensor that is asked for as `name`, the likeliest first. Names asked for: vision_tower.… (CLIP) or
/// vision_model.… (EVA ViT), multi_modal_projector.…, query_tokens, qformer.… (with qformer.embeddings.layernorm), language_projection.…,
/// vision_project.…, language_model.…, language_model.model.… or language_model.model.decoder.… (the body: embed_tokens, layers, …; of T5:
/// shared, encoder, decoder), lm_head.weight or language_model.lm_head.weight.
std::vector<std::string> spellings_of(const std::string& name);
/// The layout of a checkpoint: the first spelling that its file has.
nn::Weights::Layout multimodal_layout(const io::Checkpoint& checkpoint);

}  // namespace mmtune::backbones
