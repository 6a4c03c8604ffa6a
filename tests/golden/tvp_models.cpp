// Cases of TVP's whole objective on tiny multimodal models: every intermediate, the four losses, their gradients by each sample's prompt,
// the next prompt, and three steps.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>

#include "core/error.h"
#include "methods/prompt_optimiser.h"
#include "methods/tvp_losses.h"
#include "tvp_multimodal.h"
#include "tvp_support.h"

namespace mmtune::golden {

namespace {

using at::Tensor;
using backbones::TokenIds;
using experts::PixelPrompt;

constexpr Case::Limit three_steps{.absolute = 5e-4};

/// The rows of a batch as HuggingFace's modules see them in training: ids, −1 for a visual token, padded on the right.
struct Rows {
  std::vector<TokenIds> ids;
  std::vector<std::int64_t> prompt;  ///< tokens before the answer
  std::int64_t longest = 0;
};

Rows rows_of(const GoldenModel& golden, const std::vector<TokenIds>& answers) {
  const backbones::PromptPieces& pieces = golden.lm->format().training;
  Rows rows;
  for (const TokenIds& answer : answers) {
    TokenIds row = pieces.before;
    row.insert(row.end(), static_cast<std::size_t>(golden.lm->multimodal().visual_tokens), -1);
    for (const TokenIds* part : {&pieces.behind, &golden.instruction.words, &pieces.tail})
      row.insert(row.end(), part->begin(), part->end());
    rows.prompt.push_back(static_cast<std::int64_t>(row.size()));
    if (!golden.lm->multimodal().encoder_decoder) row.insert(row.end(), answer.begin(), answer.end());
    rows.longest = std::max(rows.longest, static_cast<std::int64_t>(row.size()));
    rows.ids.push_back(std::move(row));
  }
  return rows;
}

/// Embeddings [B, T, D] and mask [B, T] of such rows.
std::pair<Tensor, Tensor> embedded(const GoldenModel& golden, const Rows& rows, const Tensor& visual) {
  backbones::MultimodalModel& model = golden.model();
  std::vector<Tensor> all;
  Tensor mask = at::zeros({visual.size(0), rows.longest}, at::kLong);
  for (std::int64_t b = 0; b < visual.size(0); ++b) {
    TokenIds ids = rows.ids[static_cast<std::size_t>(b)];
    mask[b].narrow(0, 0, static_cast<std::int64_t>(ids.size())).fill_(1);
    ids.resize(static_cast<std::size_t>(rows.longest), golden.padding);
    const Tensor row = at::tensor(ids, at::kLong), places = row.eq(-1);
    const Tensor words = row.clamp_min(0);
    Tensor x = (model.causal() != nullptr ? model.causal()->embed(words) : model.encoder_decoder()->embed(words)).clone();
    x.index_put_({places}, visual[b]);
    all.push_back(x);
  }
  return {at::stack(all), mask};
}

/// The same with the model's own placeholders.
void compare_ids(Case& golden, const GoldenModel& made, const Rows& rows) {
  if (!golden.has("ids.input_ids")) return;
  std::vector<Tensor> all;
  for (TokenIds ids : rows.ids) {
    for (std::int64_t& id : ids)
      if (id < 0) id = golden.config("image_token_id");
    ids.resize(static_cast<std::size_t>(rows.longest), made.padding);
    all.push_back(at::tensor(ids, at::kLong));
  }
  golden.compare("ids.input_ids", at::stack(all));
}

/// What our rows say where the case's do not mean anything.
Tensor where_there(const Tensor& mask, const Tensor& ours, const Tensor& reference) {
  return at::where(mask.to(at::kBool).unsqueeze(2), ours, reference);
}

/// The forward pass by the language model's own steps, as the case's modules have it.
void compare_language(Case& golden, const GoldenModel& made, const std::vector<TokenIds>& answers, const Tensor& visual) {
  backbones::MultimodalModel& model = made.model();
  const Rows rows = rows_of(made, answers);
  const auto [embeds, mask] = embedded(made, rows, visual);
  const std::int64_t batch = embeds.size(0), length = embeds.size(1);
  golden.compare("int.inputs_embeds", embeds, tvp_forward);
  compare_ids(golden, made, rows);
  for (const char* name : {"int.attention_mask", "ids.attention_mask"}) golden.compare(name, mask);
  const nn::Layout layout = nn::Layout::uniform(batch, length, mask.to(at::kBool));
  if (model.causal() != nullptr) {
    Tensor labels = at::full({batch, length}, -100, at::kLong);
    for (std::int64_t b = 0; b < batch; ++b) {
      const TokenIds& answer = answers[static_cast<std::size_t>(b)];
      labels[b]
          .narrow(0, rows.prompt[static_cast<std::size_t>(b)], static_cast<std::int64_t>(answer.size()))
          .copy_(at::tensor(answer, at::kLong));
    }
    for (const char* name : {"int.labels", "ids.labels"}) golden.compare(name, labels);
    const Tensor states = model.causal()->states({embeds.view({batch * length, -1}), layout, {}}, nullptr, {}, {});
    golden.compare("int.logits", where_there(mask, model.causal()->logits(states, {}).view({batch, length, -1}), golden.take("int.logits")),
                   tvp_forward);
    return;
  }
  backbones::T5& t5 = *model.encoder_decoder();
  const Tensor encoded = t5.encode(embeds.view({batch * length, -1}), layout, {});
  golden.compare("int.encoder_out", encoded.view({batch, length, -1}), tvp_forward);
  std::int64_t longest = 0;
  for (const TokenIds& answer : answers) longest = std::max(longest, static_cast<std::int64_t>(answer.size()));
  Tensor labels = at::full({batch, longest}, -100, at::kLong), words = at::full({batch, longest}, t5.shape().padding, at::kLong);
  for (std::int64_t b = 0; b < batch; ++b) {
    const Tensor answer = at::tensor(answers[static_cast<std::size_t>(b)], at::kLong);
    labels[b].narrow(0, 0, answer.size(0)).copy_(answer);
    words[b][0] = t5.shape().start;
    words[b].narrow(0, 1, answer.size(0) - 1).copy_(answer.narrow(0, 0, answer.size(0) - 1));
  }
  golden.compare("ids.labels", labels);
  const Tensor spoken = labels.ne(-100).to(at::kLong);
  golden.compare("ids.decoder_attention_mask", spoken);
  const Tensor logits = t5.logits(t5.decode(words, {}, encoded, layout, {}), {}).view({batch, longest, -1});
  golden.compare("int.logits", where_there(spoken, logits, golden.take("int.logits")), tvp_forward);
}

/// A picture's way, where the case shows it.
void compare_vision(Case& golden, const GoldenModel& made, const Tensor& clean, const Tensor& prompted) {
  const at::NoGradGuard no_grad;
  backbones::MultimodalModel& model = made.model();
  const std::span<const backbones::Instruction> instructions(&made.instruction, 1);
  const std::int64_t batch = clean.size(0);
  const bool reads = made.lm->multimodal().reads_instruction;
  const backbones::QFormerText text = reads ? model.words_for_q_former(instructions) : backbones::QFormerText{};
  const auto rows = [&](const Tensor& x) { return x.defined() ? x.view({batch, -1, x.size(-1)}) : x; };
  const backbones::VisualEncoder::Steps with = model.vision().steps(prompted, reads ? &text : nullptr, {});
  const backbones::VisualEncoder::Steps without = model.vision().steps(clean, reads ? &text : nullptr, {});
  golden.compare("int.vit", rows(with.encoder), tvp_forward);
  golden.compare("int.vit_clean", rows(without.encoder), tvp_forward);
  golden.compare("int.image_embeds", rows(with.encoder_normed), tvp_forward);
  golden.compare("int.qformer", with.queries, tvp_forward);
  const std::vector<Tensor> features = made.lm->encode(prompted, instructions, {}).features;
  golden.compare("int.patch_features", features.back(), tvp_forward);
  golden.compare("int.selected_features", features.front(), tvp_forward);
}

struct Losses {
  Tensor main, consistency, semantics, total;
};

Losses losses_of(Case& golden, const GoldenModel& made, const GoldenClip& clip, const Tensor& captions,
                 const std::vector<TokenIds>& answers, const Tensor& clean, const Tensor& prompted, Tensor* visual, Tensor* clean_visual) {
  const std::span<const backbones::Instruction> instructions(&made.instruction, 1);
  Losses losses;
  const Tensor tokens = made.lm->encode(prompted, instructions, {}).tokens;
  Tensor reference;
  {
    const at::NoGradGuard no_grad;
    reference = made.lm->encode(clean, instructions, {}).tokens;
  }
  losses.main = made.lm->task_loss(tokens, instructions, answers, {}).mean();
  losses.consistency = methods::feature_consistency(tokens, reference);
  losses.semantics = (*clip.model)(prompted, captions);
  losses.total =
      losses.main + golden.config_number("lambda1_fca") * losses.consistency - golden.config_number("lambda2_tse") * losses.semantics;
  if (visual != nullptr) *visual = tokens;
  if (clean_visual != nullptr) *clean_visual = reference;
  return losses;
}

/// Captions of all classes [C, T]. The case tells those of its own examples; both of its toy tokenizers number a class' words alike, so
/// that the others follow from the answers.
Tensor class_captions(Case& golden, const Tensor& captions, const Tensor& labels) {
  const Json &json = golden.json(), &config = json.at("config");
  const std::int64_t end = config.at("clip").at("text").at("eos");
  const auto words = [&](std::int64_t label) {
    TokenIds ids = ids_of(json.at("answer_ids").at(config.at("classes").at(static_cast<std::size_t>(label)).get<std::string>()));
    ids.pop_back();
    return ids;
  };
  TokenIds prefix;
  std::int64_t apart = 0;
  for (std::int64_t b = 0; b < labels.size(0); ++b) {
    const TokenIds row = ids_of(captions[b]), own = words(labels[b].item<std::int64_t>());
    const auto last = std::find(row.begin(), row.end(), end);
    const TokenIds before(row.begin(), last - static_cast<std::ptrdiff_t>(own.size()));
    const std::int64_t between = row[before.size()] - own.front();
    if (b > 0 && (between != apart || before != prefix)) throw Error({.what = "the captions follow no rule", .where = golden.name()});
    prefix = before;
    apart = between;
  }
  Tensor all = at::full({static_cast<std::int64_t>(config.at("classes").size()), captions.size(1)},
                        config.at("clip").at("text").at("pad").get<std::int64_t>(), at::kLong);
  for (std::int64_t c = 0; c < all.size(0); ++c) {
    TokenIds row = prefix;
    for (const std::int64_t word : words(c)) row.push_back(word + apart);
    row.push_back(end);
    all[c].narrow(0, 0, static_cast<std::int64_t>(row.size())).copy_(at::tensor(row, at::kLong));
  }
  return all;
}

/// The case's CLIP, and the captions' embeddings of its examples and of all its classes.
struct Captions {
  GoldenClip clip;
  Tensor own, classes;
};

Captions captions_of(Case& golden, const Tensor& labels) {
  const Tensor ids = golden.take("clip.caption_ids");
  Captions made{.clip = golden_clip(golden, "clip_w.", at::cat({ids, class_captions(golden, ids, labels)})), .own = {}, .classes = {}};
  made.own = made.clip.captions.narrow(0, 0, ids.size(0));
  made.classes = made.clip.captions.slice(0, ids.size(0));
  return made;
}

void compare_captions(Case& golden, const Captions& captions, const Tensor& pixels) {
  const at::NoGradGuard no_grad;
  const Tensor e = captions.clip.model->embed_pictures(pixels), u = captions.own;
  golden.compare("clip.image_features", e, tvp_forward);
  golden.compare("clip.text_features", u, tvp_forward);
  const Tensor cosines = (e / e.norm(2, {-1}, true)).matmul((u / u.norm(2, {-1}, true)).t());
  golden.compare("clip.similarity", cosines * captions.clip.model->log_scale().exp(), tvp_similarity);
}

void run_objective(Case& golden) {
  GoldenModel made = golden_model(golden);
  const Tensor pictures = picture_values(golden.take("image_u8")), labels = golden.take("labels");
  const Captions captions = captions_of(golden, labels);
  const GoldenClip& clip = captions.clip;
  const std::int64_t frame = golden.config("frame"), side = made.lm->multimodal().image_height;
  const PixelPrompt prompt = border_prompt(golden.take("delta"), golden.config("border"), pictures.size(-1));
  golden.compare("mask", prompt.masks().front());
  const Tensor padded = experts::framed(pictures, frame);
  golden.compare("padded", padded);
  const Tensor clean = experts::clean_input(padded, experts::clip_norm, side);
  golden.compare("normalized_clean", clean, tvp_forward);
  const std::vector<TokenIds> answers = made.answers(golden, labels);

  const Tensor noisy = padded.clone().requires_grad_(true);  // its gradient is each sample's noise's
  const Tensor prompted = prompt.input(noisy, experts::clip_norm, side);
  golden.compare("normalized", prompted, tvp_forward);
  Tensor visual, clean_visual;
  const Losses losses = losses_of(golden, made, clip, captions.own, answers, clean, prompted, &visual, &clean_visual);
  golden.compare("feat_prompted", visual, tvp_forward);
  golden.compare("feat_clean", clean_visual, tvp_forward);
  compare_vision(golden, made, clean, prompted.detach());
  {
    const at::NoGradGuard no_grad;
    compare_language(golden, made, answers, visual.detach());
  }
  compare_captions(golden, captions, prompted.detach());
  golden.compare("loss.main", losses.main, tvp_forward);
  golden.compare("loss.fca", losses.consistency, tvp_forward);
  golden.compare("loss.tse", losses.semantics, tvp_similarity);
  golden.compare("loss.total", losses.total, tvp_forward);
  const auto gradient = [&](const Tensor& loss) { return torch::autograd::grad({loss}, {noisy}, {}, true).front(); };
  golden.compare("grad_noise.main", gradient(losses.main), tvp_gradient);
  golden.compare("grad_noise.fca", gradient(losses.consistency), tvp_gradient);
  golden.compare("grad_noise.tse", gradient(losses.semantics), tvp_gradient);
  const Tensor total = gradient(losses.total);
  golden.compare("grad_noise.total", total, tvp_gradient);
  golden.compare("grad_mean", total.mean(0), tvp_gradient);

  nn::Parameters parameters;
  for (const nn::NamedTensor& one : prompt.tensors()) parameters.add(one.name, one.tensor);
  parameters.flatten();
  methods::PromptOptimiser optimiser({}, parameters, prompt.masks());
  parameters.gradients().copy_(total.sum(0).flatten());
  const double rate = golden.config_number("lr");
  golden.compare("grad_norm", at::scalar_tensor(optimiser.step(0, rate, pictures.size(0)), at::kFloat), tvp_gradient);
  golden.compare("delta_next", prompt.tensors().front().tensor, tvp_delta);

  std::vector<Tensor> seen = {losses.total.detach()};
  for (std::int64_t step = 1; golden.has("traj.image_u8." + std::to_string(step)); ++step) {
    const Tensor more = picture_values(golden.take("traj.image_u8." + std::to_string(step)));
    const Tensor classes = golden.take("traj.labels." + std::to_string(step));
    clip.model->clamp_scale();
    parameters.gradients().zero_();
    const Tensor x = experts::framed(more, frame);
    const Losses now =
        losses_of(golden, made, clip, captions.classes.index_select(0, classes), made.answers(golden, classes),
                  experts::clean_input(x, experts::clip_norm, side), prompt.input(x, experts::clip_norm, side), nullptr, nullptr);
    now.total.backward();
    optimiser.step(step, rate, more.size(0));
    seen.push_back(now.total.detach());
  }
  golden.compare("traj.losses", at::stack(seen), Case::Limit{.absolute = 1e-4, .relative = 2e-5});
  golden.compare("traj.delta_final", prompt.tensors().front().tensor, three_steps);
}

/// The case of the same set that holds a model's weights.
Case beside(const Case& golden, const std::string& name) {
  return Case(golden.folder() / (name + ".json"));
}

void run_scores(Case& golden) {
  const std::string name = golden.json().at("case").get<std::string>();
  Case with_weights = beside(golden, "tvp_" + name.substr(name.find('_') + 1));
  GoldenModel made = golden_model(with_weights);
  const Tensor pixels = golden.take("normalized");
  const Json& json = golden.json();
  std::vector<TokenIds> candidates;
  for (const Json& one : json.at("candidates")) candidates.push_back(ids_of(json.at("candidate_ids").at(one.get<std::string>())));
  if (json.contains("text_prompt_ids")) golden.check("instruction", made.instruction.words, json.at("text_prompt_ids"));
  const std::span<const backbones::Instruction> instructions(&made.instruction, 1);
  const at::NoGradGuard no_grad;
  const Tensor visual = made.lm->encode(pixels, instructions, {}).tokens;
  const auto scores = [&](backbones::ScoreReduction reduction) {
    return made.lm->candidate_scores(visual, instructions, candidates, {.reduction = reduction}, {});
  };
  const Tensor mean = scores(backbones::ScoreReduction::mean);
  golden.compare("score_mean", mean, tvp_forward);
  golden.compare("score_sum", scores(backbones::ScoreReduction::sum), tvp_forward);
  golden.compare("pred", mean.argmax(1));
  const Tensor labels = golden.take("labels");
  if (!golden.has("ragged.score_mean")) return;
  std::vector<backbones::Instruction> questions;
  for (std::size_t i = 0; i < json.at("ragged_question_ids").size(); ++i) {
    backbones::Instruction one{.words = ids_of(json.at("ragged_question_ids")[i]), .qformer = {}};
    if (json.contains("ragged_qformer_ids")) {
      one.qformer = ids_of(json.at("ragged_qformer_ids")[i]);
      while (one.qformer.back() == 0) one.qformer.pop_back();
    }
    questions.push_back(std::move(one));
  }
  const std::vector<TokenIds> answers = {ids_of(json.at("candidate_ids").at("no")), ids_of(json.at("candidate_ids").at("yes"))};
  const Tensor asked = made.lm->encode(pixels, questions, {}).tokens;
  golden.compare("ragged.score_mean", made.lm->candidate_scores(asked, questions, answers, {}, {}), tvp_forward);
}

void run_ensemble(Case& golden) {
  const Tensor pictures = picture_values(golden.take("image_u8")), labels = golden.take("labels");
  const std::vector<std::string> sources = {"minigpt4", "instructblip"};
  Case captioned = beside(golden, "tvp_minigpt4");
  const Captions captions = captions_of(captioned, captioned.take("labels"));
  const PixelPrompt prompt = border_prompt(golden.take("delta"), golden.config("border"), pictures.size(-1));
  golden.compare("mask", prompt.masks().front());
  const std::int64_t frame = golden.config("frame");
  const Tensor noisy = experts::framed(pictures, frame).requires_grad_(true), padded = noisy.detach();
  const Tensor prompted = prompt.input(noisy, experts::clip_norm, frame), clean = experts::clean_input(padded, experts::clip_norm, frame);
  const auto gradient = [&](const Tensor& loss) { return torch::autograd::grad({loss}, {noisy}, {}, true).front(); };
  Tensor total = at::zeros({}), sum = at::zeros_like(padded);
  const double count = static_cast<double>(sources.size());
  for (const std::string& source : sources) {
    Case with_weights = beside(golden, "tvp_" + source);
    GoldenModel made = golden_model(with_weights);
    const std::span<const backbones::Instruction> instructions(&made.instruction, 1);
    const Tensor visual = made.lm->encode(prompted, instructions, {}).tokens;
    const Tensor reference = made.lm->encode(clean, instructions, {}).tokens.detach();
    const Tensor main = made.lm->task_loss(visual, instructions, made.answers(with_weights, labels), {}).mean();
    const Tensor consistency = methods::feature_consistency(visual, reference);
    golden.compare(source + ".loss.main", main, tvp_forward);
    golden.compare(source + ".loss.fca", consistency, tvp_forward);
    golden.compare(source + ".grad_noise.main", gradient(main), tvp_gradient);
    golden.compare(source + ".grad_noise.fca", gradient(consistency), tvp_gradient);
    const Tensor own = (main + golden.config_number("lambda1_fca") * consistency) / count;
    total = total + own.detach();
    sum = sum + gradient(own);  // one model after the other: exact
  }
  const Tensor semantics = (*captions.clip.model)(prompted, captions.classes.index_select(0, labels));
  golden.compare("loss.tse", semantics, tvp_similarity);
  golden.compare("grad_noise.tse", gradient(semantics), tvp_gradient);
  const double weight = golden.config_number("lambda2_tse");
  golden.compare("loss.total", total - weight * semantics, tvp_forward);
  sum = sum - weight * gradient(semantics);
  golden.compare("grad_noise.total", sum, tvp_gradient);
  nn::Parameters parameters;
  for (const nn::NamedTensor& one : prompt.tensors()) parameters.add(one.name, one.tensor);
  parameters.flatten();
  methods::PromptOptimiser optimiser({}, parameters, prompt.masks());
  parameters.gradients().copy_(sum.sum(0).flatten());
  const double norm = optimiser.step(0, golden.config_number("lr"), pictures.size(0));
  golden.compare("grad_norm", at::scalar_tensor(norm, at::kFloat), tvp_gradient);
  golden.compare("delta_next", prompt.tensors().front().tensor, tvp_delta);
}

bool begins(const Case& one, const std::string& text) {
  return one.json().value("case", "").starts_with(text);
}

}  // namespace

std::vector<Kind> tvp_model_kinds() {
  return {{"tvp: several sources", [](const Case& one) { return begins(one, "tvp_ensemble"); }, run_ensemble},
          {"tvp: objective", [](const Case& one) { return begins(one, "tvp_"); }, run_objective},
          {"tvp: candidate scores", [](const Case& one) { return begins(one, "score_"); }, run_scores}};
}

}  // namespace mmtune::golden
