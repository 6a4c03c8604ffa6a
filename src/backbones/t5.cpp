#include "backbones/t5.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "backbones/named_inputs.h"
#include "backbones/reading_decoder.h"
#include "backbones/registry.h"
#include "core/error.h"
#include "nn/recompute.h"

namespace mmtune::backbones {

namespace {

T5Shape read_shape(const Config& config) {
  T5Shape shape{.width = config.integer("d_model", 512),
                .heads = config.integer("num_heads", 8),
                .head_width = config.integer("d_kv", 64),
                .inner = config.integer("d_ff", 2048),
                .encoder_layers = config.integer("num_layers", 6),
                .vocabulary = config.integer("vocab_size", 32128),
                .buckets = config.integer("relative_attention_num_buckets", 32),
                .farthest = config.integer("relative_attention_max_distance", 128),
                .epsilon = config.number("layer_norm_epsilon", 1e-6)};
  shape.decoder_layers = config.integer("num_decoder_layers", shape.encoder_layers);
  const std::string feed_forward = config.text("feed_forward_proj", "relu");
  shape.gated = feed_forward.starts_with("gated-");
  // "gated-gelu" has always meant the approximation; a configuration that names the function itself is believed (BLIP-2: the exact one).
  const std::string usual = feed_forward == "gated-gelu" ? "gelu_new" : shape.gated ? feed_forward.substr(6) : feed_forward;
  shape.activation = nn::activation_named(config.text("dense_act_fn", usual), config.where());
  // transformers 5 writes what it does; before, "untied" meant that nothing is scaled.
  shape.scaled_outputs = config.flag("scale_decoder_outputs", config.flag("tie_word_embeddings", true));
  const auto token = [&](const char* key, std::int64_t fallback) {
    return static_cast<std::int64_t>(config.number(key, static_cast<double>(fallback)));
  };
  shape.padding = token("pad_token_id", 0);
  shape.start = token("decoder_start_token_id", shape.padding);
  shape.end = token("eos_token_id", 1);
  return shape;
}

std::vector<std::int64_t> count(std::int64_t first, std::int64_t length) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(length));
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

std::string first_there(const nn::Weights& w, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (w.has(name)) return name;
  return *names.begin();
}

}  // namespace

T5::T5(const Config& config, const nn::Weights& w, const nn::Weights& head)
    : shape_(read_shape(config)),
      encoder_norm_(w / "encoder" / "final_layer_norm", shape_.width, shape_.epsilon),
      decoder_norm_(w / "decoder" / "final_layer_norm", shape_.width, shape_.epsilon) {
  words_name_ = first_there(w, {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"});
  words_ = w.matrix(words_name_, {shape_.vocabulary, shape_.width});
  const auto distances = [&](const char* side) {
    const std::string name = std::string(side) + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    return std::pair(name, w.tensor(name, {shape_.buckets, shape_.heads}));
  };
  std::tie(encoder_distances_name_, encoder_distances_) = distances("encoder");
  std::tie(decoder_distances_name_, decoder_distances_) = distances("decoder");
  for (std::int64_t layer = 0; layer < shape_.encoder_layers; ++layer)
    encoder_.push_back(std::make_unique<T5Layer>(w / "encoder" / "block" / layer, shape_, layer, false));
  for (std::int64_t layer = 0; layer < shape_.decoder_layers; ++layer)
    decoder_.push_back(std::make_unique<T5Layer>(w / "decoder" / "block" / layer, shape_, shape_.encoder_layers + layer, true));
  if (head.has("weight"))
    head_ = std::make_unique<nn::Linear>(head, shape_.width, shape_.vocabulary, shape_.encoder_layers + shape_.decoder_layers, false);
  const std::string scope = w.path().empty() ? "" : w.path() + ".";
  for (std::int64_t layer = 0; layer < shape_.encoder_layers; ++layer)
    sequence_sites_.push_back({.name = (w / "encoder" / "block" / layer).path(),
                               .width = shape_.width,
                               .layer = layer,
                               .last = layer + 1 == shape_.encoder_layers});
  sites_.tensors = {{scope + words_name_, &words_},
                    {scope + encoder_distances_name_, &encoder_distances_},
                    {scope + decoder_distances_name_, &decoder_distances_}};
  for (nn::SequenceSite& site : sequence_sites_) sites_.sequences.push_back(&site);
  for (auto& layer : encoder_) layer->list(sites_);
  encoder_norm_.list(sites_);
  for (auto& layer : decoder_) layer->list(sites_);
  decoder_norm_.list(sites_);
  if (head_) head_->list(sites_);
  info_ = {.architecture = "t5",
           .modality = Modality::text,
           .width = shape_.width,
           .layers = shape_.encoder_layers + shape_.decoder_layers,
           .heads = shape_.heads,
           .has_class_token = false,
           .max_length = config.integer("n_positions", 512)};
}

at::Tensor T5::embed(const at::Tensor& ids) const {
  return nn::lookup(words_, nn::beside(ids, words_));
}

at::Tensor T5::bias(bool decoder, const std::vector<std::int64_t>& queries, const std::vector<std::int64_t>& keys) const {
  at::Tensor index = at::empty({static_cast<std::int64_t>(queries.size()), static_cast<std::int64_t>(keys.size())}, at::kLong);
  auto* out = index.data_ptr<std::int64_t>();
  for (const std::int64_t query : queries)
    for (const std::int64_t key : keys) *out++ = t5_bucket(key - query, !decoder, shape_.buckets, shape_.farthest);
  const at::Tensor& table = decoder ? decoder_distances_ : encoder_distances_;
  return at::embedding(table, nn::beside(index, table)).permute({2, 0, 1}).contiguous();
}

at::Tensor T5::encode(const at::Tensor& embeds, const nn::Layout& layout, const nn::Context& context) const {
  MMTUNE_ASSERT(layout.is_uniform());
  nn::Tokens tokens{embeds, layout};
  const at::Tensor usual = bias(false, count(0, layout.length(0)), count(0, layout.length(0)));
  for (std::size_t i = 0; i < encoder_.size(); ++i) {
    nn::run_block(tokens, context, [this, i, usual](nn::Tokens& inner, const nn::Context& with) {
      nn::SequenceHook* const hook = sequence_sites_[i].hook;
      if (hook != nullptr) hook->before_block(inner, with);
      const std::int64_t length = inner.layout.length(0);
      const bool wider = length != usual.size(1);
      (*encoder_[i])(inner, {.bias = wider ? bias(false, count(0, length), count(0, length)) : usual}, nullptr, with);
      if (hook != nullptr) hook->after_block(inner, with);
    });
  }
  return encoder_norm_(tokens.rows);
}

std::vector<std::vector<at::Tensor>> T5::cross_keys_values(const at::Tensor& encoded, const nn::Context& context) const {
  std::vector<std::vector<at::Tensor>> cross;
  for (const auto& layer : decoder_) cross.push_back(layer->cross_keys_values(encoded, context));
  return cross;
}

at::Tensor T5::run_decoder(const at::Tensor& rows, const nn::Layout& layout, const at::Tensor& bias, ReadingCache* cache,
                           const std::vector<std::vector<at::Tensor>>& cross, const nn::Layout& source_layout,
                           const nn::Context& context) const {
  nn::Tokens tokens{rows, layout};
  for (std::size_t i = 0; i < decoder_.size(); ++i) {
    const T5Layer::Source source{cross[i], &source_layout};
    (*decoder_[i])(tokens, {.bias = bias, .cache = cache, .block = i}, &source, context);
  }
  return decoder_norm_(tokens.rows);
}

at::Tensor T5::decode(const at::Tensor& words, const at::Tensor& mask, const at::Tensor& encoded, const nn::Layout& layout,
                      const nn::Context& context) const {
  const std::int64_t batch = words.size(0), length = words.size(1);
  const std::vector<std::int64_t> places = count(0, length);
  const at::Tensor usual = bias(true, places, places);
  nn::Tokens tokens{embed(words.reshape({-1})), nn::Layout::uniform(batch, length, mask)};
  if (!context.recompute || context.complementary.defined())
    return run_decoder(tokens.rows, tokens.layout, usual, nullptr, cross_keys_values(encoded, context), layout, context);
  // Computed again in the backward pass, a layer needs the encoder's rows with their gradient: they come as what its context brings along.
  nn::Context own = context;
  own.complementary = encoded;
  for (std::size_t i = 0; i < decoder_.size(); ++i) {
    nn::run_block(tokens, own, [this, i, usual, layout](nn::Tokens& inner, const nn::Context& with) {
      nn::Context plain = with;
      plain.complementary.reset();
      const T5Layer::Source source{decoder_[i]->cross_keys_values(with.complementary, plain), &layout};
      (*decoder_[i])(inner, {.bias = usual, .cache = nullptr, .block = i}, &source, plain);
    });
  }
  return decoder_norm_(tokens.rows);
}

at::Tensor T5::logits(const at::Tensor& states, const nn::Context& context) const {
  const at::Tensor x = shape_.scaled_outputs ? states * (1.0 / std::sqrt(static_cast<double>(shape_.width))) : states;
  return head_ ? (*head_)(x, context) : nn::frozen_matrix(x, words_, {}, context.matmul_precision);
}

class T5Decoder final : public ReadingDecoder {
 public:
  T5Decoder(const T5& model, const at::Tensor& encoded, const nn::Layout& layout, const nn::Context& context)
      : ReadingDecoder(layout.batch(), model.decoder_.size()), model_(model), context_(context) {
    const at::NoGradGuard no_grad;
    cross_ = model_.cross_keys_values(encoded, context_);
    mask_ = layout.key_mask();
    source_length_ = layout.length(0);
  }
  std::int64_t vocabulary() const override { return model_.shape_.vocabulary; }

 private:
  at::Tensor states(const at::Tensor& tokens, const std::vector<std::int64_t>& depths) override {
    const std::int64_t length = tokens.size(1), past = cache_.visible.defined() ? cache_.visible.size(1) : 0;
    std::vector<std::int64_t> queries = depths, keys = count(0, past);
    for (std::int64_t& place : queries) place += past;
    keys.insert(keys.end(), queries.begin(), queries.end());
    const nn::Layout layout = nn::Layout::uniform(batch_, length);
    const at::Tensor rows = model_.embed(tokens.reshape({-1}));
    at::Tensor made = model_.run_decoder(rows, layout, model_.bias(true, queries, keys), &cache_, cross_,
                                         nn::Layout::uniform(batch_, source_length_, mask_), context_);
    if (cache_.keep) cache_.visible = at::ones({batch_, past + length}, at::TensorOptions().dtype(at::kBool).device(rows.device()));
    cache_.lengths.assign(static_cast<std::size_t>(batch_), cache_.visible.size(1));
    return made;
  }
  at::Tensor logits(const at::Tensor& states) override { return model_.logits(states, context_); }
  void select_more(const at::Tensor& rows) override {
    const at::Tensor index = nn::beside(rows, cross_.front().front());
    for (auto& layer : cross_)
      for (at::Tensor& one : layer) one = one.view({batch_, source_length_, -1}).index_select(0, index).flatten(0, 1);
    if (mask_.defined()) mask_ = mask_.index_select(0, index);
  }

  const T5& model_;
  nn::Context context_;
  std::vector<std::vector<at::Tensor>> cross_;
  at::Tensor mask_;
  std::int64_t source_length_ = 0;
};

std::unique_ptr<CachedDecoder> T5::decoder(const at::Tensor& encoded, const nn::Layout& layout, const nn::Context& context) const {
  return std::make_unique<T5Decoder>(*this, encoded, layout, context);
}

T5::Encoded T5::encode_inputs(const ModelInputs& inputs, const nn::Context& context) const {
  const at::Tensor rows = inputs.inputs_embeds.defined() ? inputs.inputs_embeds : embed(inputs.input_ids);
  const nn::Layout& given = inputs.text_layout;
  if (given.is_uniform()) return {encode(rows, given, context), given};
  // Biases by distance want one length: texts are padded for them.
  const std::int64_t longest = *std::max_element(given.lengths().begin(), given.lengths().end());
  std::vector<at::Tensor> padded, masks;
  for (const at::Tensor& one : rows.split_with_sizes(given.lengths(), 0)) {
    padded.push_back(at::constant_pad_nd(one, {0, 0, 0, longest - one.size(0)}));
    masks.push_back(at::arange(longest, rows.options().dtype(at::kLong)) < one.size(0));
  }
  const nn::Layout layout = nn::Layout::uniform(given.batch(), longest, at::stack(masks));
  return {encode(at::cat(padded), layout, context), layout};
}

ModelOutputs T5::forward(const ModelInputs& inputs, const nn::Context& context) {
  const Encoded made = encode_inputs(inputs, context);
  if (inputs.text_layout.is_uniform()) return {.last_hidden_state = made.rows, .layout = made.layout};
  return {.last_hidden_state = made.rows.index_select(0, made.layout.key_mask().flatten().nonzero().flatten()),
          .layout = inputs.text_layout};
}

TensorMap T5::forward_named(const TensorMap& inputs, const nn::Context& context) {
  TensorMap source, target;
  for (const auto& [name, tensor] : inputs) {
    constexpr std::string_view decoder = "decoder_";
    if (name.starts_with(decoder)) {
      target[name.substr(decoder.size())] = tensor;
    } else {
      source[name] = tensor;
    }
  }
  constexpr std::int64_t unlimited = 1 << 20;
  const ModelInputs read = text_inputs(source, shape_.vocabulary, 1, unlimited, shape_.width);
  const nn::Layout& layout = read.text_layout;
  const at::Tensor encoded = forward(read, context).last_hidden_state;
  TensorMap result{{"encoder_last_hidden_state", encoded.view({layout.batch(), -1, shape_.width})}};
  if (target.empty()) return result;
  const ModelInputs words = text_inputs(target, shape_.vocabulary, 1, unlimited, shape_.width);
  if (!words.input_ids.defined()) throw Error({.what = "input is missing", .where = "decoder_input_ids"});
  const std::int64_t batch = words.text_layout.batch();
  if (batch != layout.batch()) throw Error({.what = "encoder and decoder inputs differ in their number", .where = "decoder_input_ids"});
  const at::Tensor states = decode(words.input_ids.view({batch, -1}), words.text_layout.key_mask(), encoded, layout, context);
  result["last_hidden_state"] = states.view({batch, -1, shape_.width});
  result["logits"] = logits(states, context).view({batch, -1, shape_.vocabulary});
  return result;
}

std::int64_t T5::macs(std::int64_t tokens, bool) const {
  const std::int64_t inner = shape_.heads * shape_.head_width;
  return shape_.encoder_layers *
         (4 * tokens * shape_.width * inner + 2 * tokens * tokens * inner + (shape_.gated ? 3 : 2) * tokens * shape_.width * shape_.inner);
}

std::int64_t T5::decoder_macs(std::int64_t tokens, std::int64_t source) const {
  const std::int64_t inner = shape_.heads * shape_.head_width;
  const std::int64_t layer = 6 * tokens * shape_.width * inner + 2 * source * shape_.width * inner +
                             2 * tokens * (tokens + source) * inner + (shape_.gated ? 3 : 2) * tokens * shape_.width * shape_.inner;
  return shape_.decoder_layers * layer + tokens * shape_.width * shape_.vocabulary;
}

Architecture t5_architecture() {
  return {"t5", {""}, "encoder.final_layer_norm.weight", [](const Config& config, const nn::Weights& w) -> std::unique_ptr<Backbone> {
            auto model = std::make_unique<T5>(config, w, w.top() / "lm_head");
            model->finish(w);
            return model;
          }};
}

}  // namespace mmtune::backbones
