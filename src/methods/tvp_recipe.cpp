#include "methods/tvp_recipe.h"

#include <algorithm>

#include "core/recipe.h"
#include "train/precision_options.h"

namespace mmtune::methods {

namespace {

using backbones::ScoreReduction;
using backbones::SequenceFormat;
using experts::PromptForm;

void make_absolute(std::string& path) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::exists(path, ignored)) return;
  path = std::filesystem::canonical(path).string();
}

}  // namespace

experts::PromptShape TvpExpertSection::shape() const {
  const bool framed = form == PromptForm::border;
  return {.form = form,
          .frame = frame,
          .width = form == PromptForm::full ? 0 : width,
          .image = image_size.value_or(framed ? frame - 2 * width : frame)};
}

void declare(OptionVisitor& v, TvpSource& s) {
  v.field("model", s.model,
          {.help = "a multimodal language model: folder, bundled model or name in the HuggingFace cache", .required = true});
}

void declare(OptionVisitor& v, TvpExpertSection& s) {
  v.field("method", s.method, {.help = "what makes this recipe one of visual prompts", .choices = {"tvp"}});
  v.choice("form", s.form,
           {{"border", PromptForm::border, "a border around the picture, in pixel units (TVP, EVP)"},
            {"full", PromptForm::full, "the whole frame, in pixel units"},
            {"vp_padding", PromptForm::vp_padding, "four strips on the normalised picture (VP)"},
            {"vp_fixed_patch", PromptForm::vp_fixed_patch, "a patch in its upper left corner (VP)"},
            {"vp_random_patch", PromptForm::vp_random_patch, "a patch at a place drawn for every batch (VP)"}},
           {.help = "what is learned"});
  v.field("frame", s.frame,
          {.help = "side of the prompted picture; a model of another size gets it resized (bicubic)", .min = 1, .max = 4096});
  v.field("width", s.width, {.help = "of the border, the strips or the patch", .min = 1, .max = 4096});
  v.field("image_size", s.image_size,
          {.help = "side of the picture in the frame; more than frame - 2 width: the border covers some of it",
           .min = 1,
           .max = 4096,
           .unset = "what the border leaves"});
  v.field("start", s.start,
          {.help = "a prompt to begin with: a run, an expert's folder or a .safetensors file", .unset = "zeros (VP: random)"});
  v.field("fca", s.fca, {.help = "weight of feature consistency (lambda 1; the released recipe: 0.005)", .min = 0});
  v.choice("fca_features", s.fca_features,
           {{"projected", ConsistencyFeatures::projected, "as the language model gets them"},
            {"unprojected", ConsistencyFeatures::unprojected, "before the projection into it"}},
           {.help = "which features feature consistency compares"});
  v.field("tse", s.tse,
          {.help = "weight of task semantics (lambda 2; the released recipe: 0.001), times the cosine and CLIP's factor of 100", .min = 0});
  v.field("caption_model", s.caption_model, {.help = "the CLIP model of task semantics"});
  v.field("caption", s.caption, {.help = "the caption of task semantics; {} stands for the right answer, {text} for the example's text"});
  v.require("caption_model", s.tse == 0 || !s.caption_model.empty(), "a CLIP model where tse is more than 0");
  v.require("caption", s.caption.find("{}") != std::string::npos, "a text with {} where the answer goes");
}

void declare(OptionVisitor& v, TvpQuestionSection& s) {
  v.field(
      "instruction", s.instruction,
      {.help = "what the model is asked; {text} stands for the example's text",
       .unset =
           "by the task: \"This is a photo of a\", \"How many objects are there in this image? Answer with a single number.\", {text}"});
  v.field("names", s.names, {.help = "class = how it is said, where that is another text"});
  v.choice("format", s.format,
           {{"official", SequenceFormat::official, "candidates as the family's released code scores them"},
            {"consistent", SequenceFormat::consistent, "in the very sequence of training, end symbol included"}},
           {.help = "the token sequence that candidates are ranked in"});
  v.choice("reduction", s.reduction,
           {{"mean", ScoreReduction::mean, "of the log-likelihoods of a candidate's tokens"}, {"sum", ScoreReduction::sum}},
           {.help = "how a candidate's tokens make its score"});
}

void declare(OptionVisitor& v, TvpTrainSection& s) {
  v.field("epochs", s.epochs, {.help = "passes over the training data", .min = 1});
  v.field("steps", s.steps, {.help = "steps, instead of epochs; 0: by epochs", .min = 0});
  v.field("batch", s.batch, {.help = "examples of a step", .min = 1});
  v.field("micro_batch", s.micro_batch,
          {.help = "examples of a forward pass; the step is that of the whole batch. 0: all at once", .min = 0});
  v.field("lr", s.lr, {.help = "length of a step (eta) of the normalised rules, else the learning rate", .min = 0});
  v.choice("rule", s.rule,
           {{"normalised", PromptRule::normalised, "along the gradient over its norm, the inside of the frame included (TVP, EVP)"},
            {"normalised_border", PromptRule::normalised_border, "over the norm of the border's part alone"},
            {"adam", PromptRule::adam},
            {"sgd", PromptRule::sgd, "with momentum (VP)"}},
           {.help = "how the prompt learns"});
  v.field("momentum", s.momentum, {.help = "of sgd", .min = 0, .below = 1});
  v.field("weight_decay", s.weight_decay, {.help = "decoupled for adam, L2 for sgd", .min = 0});
  v.field("beta1", s.beta1, {.help = "of adam", .min = 0, .below = 1});
  v.field("beta2", s.beta2, {.help = "of adam", .min = 0, .below = 1});
  v.field("eps", s.eps, {.help = "of adam", .above = 0});
  v.choice("schedule", s.schedule,
           {{"cosine_epoch", PromptSchedule::cosine_epoch, "half a wave over the epochs, constant within each (TVP, EVP)"},
            {"cosine_step", PromptSchedule::cosine_step, "half a wave over the steps behind the warm-up (VP)"},
            {"constant", PromptSchedule::constant}},
           {.help = "the step length over time"});
  v.field("warmup", s.warmup, {.help = "steps of linear warm-up of cosine_step", .min = 0});
  v.field("flip", s.flip, {.help = "training pictures are flipped left to right, half of them"});
  v.field("crop", s.crop, {.help = "the square of a training picture that is none is drawn; else the middle"});
  v.choice("keep", s.keep,
           {{"last", KeptPrompt::last, "as the released code"}, {"best", KeptPrompt::best, "the best on the validation data"}},
           {.help = "which prompt is the run's"});
  v.field("eval_every", s.eval_every, {.help = "validate every n epochs with the first source; 0: only at the end", .min = 0});
  v.field("seed", s.seed, {.help = "of everything random", .min = 0});
  v.field("threads", s.threads, {.help = "CPU threads; 0: one a core", .min = 0, .max = 4096});
  v.field("checkpoint_every", s.checkpoint_every,
          {.help = "save the state every n steps; 0: every epoch, and when five minutes have passed", .min = 0});
  v.field("log_every", s.log_every, {.help = "a line in metrics.jsonl every n steps", .min = 1});
  v.field("checkpointing", s.checkpointing, {.help = "gradient checkpointing: less memory, about a third more time, the same gradients"});
  v.choice("weights", s.weights, train::weight_storages(),
           {.help = "how the sources' frozen weights lie in memory; each is made float32 just before it is multiplied with"});
  v.choice("matmul_precision", s.matmul_precision, train::matmul_precisions(),
           {.help = "how products with frozen weights are computed, as PyTorch's float32_matmul_precision"});
}

void declare(OptionVisitor& v, TvpRecipe& r) {
  v.choice("task", r.task,
           {{"recognise", PromptTask::recognise, "the class of a picture, by ranking the classes' names"},
            {"count", PromptTask::count, "how many there are, by ranking the numbers that occur"},
            {"yes_no", PromptTask::yes_no, "a question with two answers; precision and recall of the second class"},
            {"detect", PromptTask::detect, "the same, judged by the area under the ROC curve"}},
           {.help = "what is asked and how it is judged"});
  v.table("expert", r.expert, {.help = "the prompt and its losses", .required = true});
  v.tables("source", r.sources,
           {.help = "the frozen models that gradients are taken from; several [[source]] tables for several", .required = true});
  v.table("question", r.question, {.help = "what the models are asked, and how their answers are ranked"});
  v.table("data", r.data, {.help = "what is read; the classes are the candidates", .required = true});
  v.table("train", r.train, {.help = "how it is learned"});
  v.table("eval", r.eval, {.help = "how it is measured"});
}

bool is_tvp_recipe(const TomlValue& root) {
  const TomlValue* expert = root.find("expert");
  if (expert != nullptr && expert->kind == TomlValue::Kind::array && expert->items.size() == 1) expert = &expert->items.front();
  const TomlValue* method = expert != nullptr && expert->kind == TomlValue::Kind::table ? expert->find("method") : nullptr;
  if (method == nullptr) return false;
  return method->text == "tvp" || (method->typed && (*method->typed == "tvp" || *method->typed == "\"tvp\""));
}

TvpRecipe read_tvp_recipe(const std::filesystem::path& path, std::span<const std::string> assignments) {
  auto recipe = mmtune::read_recipe<TvpRecipe>(path, assignments);
  experts::check(recipe.expert.shape(), path.string() + ": expert.");
  if (recipe.sources.empty())
    throw UsageError({.what = "no source model", .where = path.string(), .expected = "a [[source]] table with model = \"…\""});
  if (recipe.data.multi_label)
    throw UsageError({.what = "a question with several right answers", .where = path.string() + ": data.multi_label", .expected = "false"});
  for (TvpSource& source : recipe.sources) make_absolute(source.model);
  for (std::string* file : {&recipe.data.train, &recipe.data.valid, &recipe.data.join, &recipe.data.classes_file, &recipe.expert.start,
                            &recipe.expert.caption_model})
    make_absolute(*file);
  return recipe;
}

std::string to_toml(TvpRecipe& recipe) {
  return write_toml([&](OptionVisitor& visitor) { declare(visitor, recipe); });
}

std::string usual_instruction(PromptTask task) {
  if (task == PromptTask::recognise) return "This is a photo of a";
  if (task == PromptTask::count) return "How many objects are there in this image? Answer with a single number.";
  return "{text}";
}

std::string metric_of(PromptTask task) {
  return task == PromptTask::detect ? "auc" : "accuracy";
}

}  // namespace mmtune::methods
