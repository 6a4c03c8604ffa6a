#include "train/recipe.h"

#include <algorithm>
#include <filesystem>

#include "core/recipe.h"
#include "train/precision_options.h"

namespace mmtune::train {

namespace {

using backbones::Pooling;

const std::vector<Choice<Pooling>>& poolings() {
  static const std::vector<Choice<Pooling>> choices = {
      {"automatic", Pooling::automatic, "first for pictures, mean for text and sound; CLIP, ViLT, METER: pooler, Swin: mean"},
      {"first", Pooling::first, "the class token"},
      {"mean", Pooling::mean, "the mean over the real tokens"},
      {"pooler", Pooling::pooler, "the checkpoint's own pooler"},
      {"patches", Pooling::patches, "the mean over all but the class token (pictures only)"},
      {"projection", Pooling::projection, "the pooled token projected into the space that CLIP's towers share"},
      {"all", Pooling::all, "every token, one behind the other: keeps where things are (pictures only)"}};
  return choices;
}

const std::vector<Choice<InputField>>& inputs() {
  static const std::vector<Choice<InputField>> choices = {{"automatic", InputField::automatic, "by the backbone's modality"},
                                                          {"text", InputField::text, "text alone"},
                                                          {"text_pair", InputField::text_pair, "text_pair alone"},
                                                          {"image", InputField::image, "image"},
                                                          {"image_pair", InputField::image_pair, "image_pair"},
                                                          {"audio", InputField::audio, "audio"},
                                                          {"video", InputField::video, "video, by a picture tower: frame by frame"}};
  return choices;
}

void make_absolute(std::string& path) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::exists(path, ignored)) return;
  path = std::filesystem::canonical(path).string();
}

}  // namespace

void declare(OptionVisitor& v, FurtherTower& s) {
  v.field("model", s.model, {.help = "as backbone.main", .required = true});
  v.choice("pooling", s.pooling, poolings(), {.help = "as backbone.main_pooling"});
  v.choice("input", s.input, inputs(), {.help = "as backbone.main_input"});
}

void declare(OptionVisitor& v, BackboneSection& s) {
  v.field("main", s.main, {.help = "model folder, bundled model or name in the HuggingFace cache", .required = true});
  v.field("condition", s.condition, {.help = "a second tower, for the other modality", .unset = "one tower"});
  v.choice("main_pooling", s.main_pooling, poolings(), {.help = "how the main tower's tokens become one feature"});
  v.choice("condition_pooling", s.condition_pooling, poolings(), {.help = "the same for the second tower"});
  v.choice("main_input", s.main_input, inputs(), {.help = "the field of an example that the main tower reads"});
  v.choice("condition_input", s.condition_input, inputs(), {.help = "the same for the second tower"});
  v.tables("further", s.further,
           {.help = "towers beside these two, for a third modality and more; the expert's combine joins their features"});
  v.field("frames", s.frames, {.help = "pictures of a video that are read, spread evenly over it", .min = 1, .max = 1024});
  v.field("max_length", s.max_length,
          {.help = "longest text in tokens, special tokens included; longer ones are cut",
           .min = 3,
           .unset = "what the tokenizer and the backbone allow"});
  v.field("max_seconds", s.max_seconds, {.help = "longest sound; longer ones are cut", .above = 0, .unset = "no limit"});
  v.choice("weights", s.weights, weight_storages(),
           {.help = "how the frozen weights lie in memory; each is made float32 just before it is multiplied with"});
  v.choice("matmul_precision", s.matmul_precision, matmul_precisions(),
           {.help = "how products with frozen weights are computed, as PyTorch's float32_matmul_precision"});
}

ExpertSection::ExpertSection() {
  for (const std::string& kind : experts::known_kinds()) kinds.emplace(kind, experts::expert_recipe(kind));
}

const experts::ExpertRecipe& ExpertSection::recipe() const {
  return *kinds.at(method);
}

void declare(OptionVisitor& v, ExpertSection& s) {
  std::vector<Variant> variants;
  for (auto& [kind, recipe] : s.kinds) {
    variants.push_back(
        {kind, std::string(recipe->summary()), [expert = recipe.get()](OptionVisitor& visitor) { expert->declare(visitor); }});
  }
  v.variants("method", s.method, variants, {.help = "kind of the expert"});
  v.choice("tower", s.tower,
           {{"all", ExpertTower::all, "one on every tower"},
            {"main", ExpertTower::main},
            {"condition", ExpertTower::condition, "one on every tower but the main one"}},
           {.help = "which tower the expert attaches to"});
}

void declare(OptionVisitor& v, HeadSection& s) {
  v.choice("kind", s.kind,
           {{"linear", HeadKind::linear},
            {"mlp", HeadKind::mlp, "one hidden layer"},
            {"zero_shot", HeadKind::zero_shot, "linear, begun as CLIP's comparison of pictures with class prompts"},
            {"mlp_norm", HeadKind::mlp_norm, "one hidden layer with a norm before the activation: the published heads of ViLT and METER"},
            {"similarity", HeadKind::similarity, "task retrieve with two towers: the cosine of their features times a learned number"}},
           {.help = "what turns features into logits"});
  v.choice("fusion", s.fusion,
           {{"automatic", Fusion::automatic, "main where an expert conditions the main tower (mope), else concat"},
            {"concat", Fusion::concat, "one head over all towers' features"},
            {"mean_logits", Fusion::mean_logits, "one head a tower, the mean over the towers that an example has"},
            {"main", Fusion::main, "one head over the main tower's feature"}},
           {.help = "how several towers become one answer"});
  v.field(
      "hidden", s.hidden,
      {.help =
           "width of the hidden layer of kinds mlp and mlp_norm, and of the space that kind similarity projects features into which do not "
           "come projected",
       .min = 1,
       .max = 65536});
  v.field("activation", s.activation,
          {.help = "of the hidden layer", .choices = {"gelu", "gelu_new", "quick_gelu", "relu", "silu", "tanh"}});
  v.field("dropout", s.dropout, {.help = "dropout on the features (linear) or on the hidden layer (mlp)", .min = 0, .below = 1});
  v.field("normalise", s.normalise, {.help = "scale every tower's feature to length sqrt(width) first"});
  v.choice("absent", s.absent,
           {{"automatic", Absent::automatic, "learned where the training data lacks a modality"},
            {"learned", Absent::learned, "always learn a stand-in feature for every tower"},
            {"error", Absent::error, "an example that lacks a modality is an error"}},
           {.help = "what stands in for a modality that an example lacks"});
  v.field("templates", s.templates,
          {.help = "kind zero_shot: prompts with {} for the class's name; the embeddings of all are averaged", .min_items = 1});
  v.field("names", s.names, {.help = "kind zero_shot: class = its name in the prompts, where it is another"});
  const bool have_places = std::ranges::all_of(s.templates, [](const std::string& text) { return text.find("{}") != std::string::npos; });
  v.require("templates", have_places, "texts with {} where the class's name goes");
}

void declare(OptionVisitor& v, LossSection& s) {
  v.field("label_smoothing", s.label_smoothing, {.help = "share of the target spread over all classes", .min = 0, .below = 1});
  v.field("class_weights", s.class_weights, {.help = "one weight a class, in the order of the classes", .min = 0, .unset = "all 1"});
  v.field("balanced", s.balanced, {.help = "weight classes by the inverse of their frequency in the training data"});
  v.require("balanced", !(s.balanced && !s.class_weights.empty()), "either class_weights or balanced");
}

void declare(OptionVisitor& v, VqaSection& s) {
  v.field("min_count", s.min_count,
          {.help = "an answer is learned if it is the most common one of this many training examples; data.classes lists answers instead",
           .min = 1});
  v.field(
      "normalise", s.normalise,
      {.help = "look annotators' answers up in the normal form of VQA's evaluation; the released code of ViLT looks them up as written"});
  v.choice("loss", s.loss,
           {{"binary", VqaLoss::binary, "the sum over answers of binary cross-entropies against soft scores"},
            {"softmax", VqaLoss::softmax, "one cross-entropy, for data with one answer a question"}},
           {.help = "what is minimised"});
}

void declare(OptionVisitor& v, RetrieveSection& s) {
  v.field("negatives", s.negatives,
          {.help = "false texts that a picture and its text are ranked against, for a backbone that reads both together; two towers are "
                   "ranked against the rest of the batch",
           .min = 1,
           .max = 4096});
  v.field(
      "matching", s.matching,
      {.help = "weight of a second loss, of telling true pairs from false ones by an output of its own (METER's runs: 1); for a backbone "
               "that reads both together",
       .min = 0,
       .max = 1000});
}

void declare(OptionVisitor& v, SequenceSection& s) {
  v.field("instruction", s.instruction,
          {.help = "what the model is asked; {text} and {text_pair} are an example's own",
           .unset = "caption: what does the image describe?; ground: which region does the text \" {text} \" describe?; generate: {text}"});
  v.field("clean", s.clean,
          {.help = "texts and answers in lower case, without marks in front, with spaces for hyphens and slashes, as OFA was trained"});
  v.field("max_words", s.max_words, {.help = "most words of a text", .min = 1});
  v.choice("readout", s.readout,
           {{"automatic", Readout::automatic, "rank where there are labels, write elsewhere"},
            {"write", Readout::write, "beam search"},
            {"rank", Readout::rank, "all answers of the list are scored in one pass"}},
           {.help = "how the answer is found"});
  v.choice(
      "answer_prompt", s.answer_prompt,
      {{"nothing", AnswerPrompt::nothing}, {"source", AnswerPrompt::source, "the question again (upstream's prompt type prev_output)"}},
      {.help = "what the decoder reads before it answers"});
  v.field("names", s.names, {.help = "class = the words that stand for it, where they are others"});
  v.field("within_list", s.within_list, {.help = "readout write: only answers of the list can be written"});
  v.field("mean_score", s.mean_score, {.help = "readout rank: divide an answer's score by the number of its tokens"});
  v.field("mask_loss", s.mask_loss, {.help = "learn among the tokens that may follow in an answer of the list, not among all"});
  v.field("confidence", s.confidence,
          {.help = "answers of several annotators: log-probabilities times the score of the answer that is learned"});
  v.field("drop_worst", s.drop_worst,
          {.help = "share of a batch's tokens with the largest losses that are left out", .min = 0, .below = 1});
  v.field("beams", s.beams, {.help = "of the beam search; 1: greedy", .min = 1, .max = 1024});
  v.field("max_tokens", s.max_tokens, {.help = "most tokens of an answer, its end not counted", .min = 1});
  v.field("min_tokens", s.min_tokens, {.help = "fewest tokens of an answer", .min = 0});
  v.field("no_repeat_ngram", s.no_repeat_ngram, {.help = "no sequence of as many tokens is written twice; 0: anything may be", .min = 0});
  v.field("length_penalty", s.length_penalty,
          {.help = "a beam's score is its log-probability over its length to this power", .min = -100, .max = 100});
  v.field("repetition_penalty", s.repetition_penalty, {.help = "against tokens that were written before; 1: none", .above = 0});
  v.field("dropout", s.dropout, {.help = "of the backbone's own states while the expert learns", .min = 0, .below = 1});
  v.field("drop_path", s.drop_path,
          {.help = "share of examples that a sublayer is left out for while the expert learns, growing from 0 to this over each stack",
           .min = 0,
           .below = 1});
  v.require("min_tokens", s.min_tokens <= s.max_tokens, "at most max_tokens");
}

void declare(OptionVisitor& v, DataSection& s) {
  v.field("train", s.train,
          {.help = "training data: manifest (.jsonl), list (.json), .csv, .tsv, or a folder with a subfolder a class", .required = true});
  v.field("valid", s.valid,
          {.help = "validation data", .unset = "the training file where valid_where or valid_fraction is given, else none"});
  v.field("valid_fraction", s.valid_fraction,
          {.help = "share of the training data held out for validation by seed; examples with the same picture stay together",
           .min = 0,
           .below = 1});
  v.field("columns", s.columns, {.help = "our field = the file's field"});
  v.field("join", s.join, {.help = "a second file whose rows complete those of the first"});
  v.field("join_key", s.join_key, {.help = "the field that joins them"});
  v.field("join_other_key", s.join_other_key, {.help = "its name in the second file", .unset = "the same"});
  v.field("where", s.where, {.help = "keep rows whose field passes: split = \"train\", size = \">=32\""});
  v.field("train_where", s.train_where, {.help = "the same, for training only"});
  v.field("valid_where", s.valid_where, {.help = "the same, for validation only"});
  v.field("join_where", s.join_where, {.help = "the same for the rows of the second file"});
  v.field("classes", s.classes, {.help = "label names in order", .unset = "those of the training data, sorted"});
  v.field("classes_file", s.classes_file, {.help = "file with a label name a line"});
  v.field("multi_label", s.multi_label, {.help = "an example has any number of labels"});
  v.field("label_separator", s.label_separator, {.help = "between the labels of a CSV cell"});
  v.field("quotes", s.quotes, {.help = "CSV and TSV: quoted cells as in RFC 4180"});
  v.field("train_fraction", s.train_fraction,
          {.help = "share of the training examples that is used; those of one picture or sound stay together", .max = 1, .above = 0});
  v.field("shots", s.shots, {.help = "few-shot: this many training examples a class; 0: all", .min = 0});
  v.field("shot_seed", s.shot_seed, {.help = "which ones, of train_fraction too; a smaller part is a subset of a larger one", .min = 0});
  v.field("limit", s.limit, {.help = "first n examples of every split; 0: all", .min = 0});
  v.choice("on_error", s.on_error,
           {{"stop", OnError::stop, "a bad example ends the run"}, {"skip", OnError::skip, "bad examples are left out and counted"}},
           {.help = "what an unreadable picture or sound, or a bad row, does"});
  v.choice(
      "other_rates", s.other_rates,
      {{"resample", audio::OtherRates::resample, "by a windowed sinc"}, {"refuse", audio::OtherRates::refuse, "such a sound is an error"}},
      {.help = "what becomes of a sound of another sample rate than the model's"});
  v.field("workers", s.workers, {.help = "threads that decode and tokenise ahead; 0: none", .min = 0, .max = 256});
  v.field(
      "cache_mb", s.cache_mb,
      {.help = "features of towers that do not change are computed once, when they fit into this many MiB; 0: in every step", .min = 0});
  v.field("feature_cache", s.feature_cache,
          {.help = "keep such features on disk for the next run, cache_mb of them in all; the results are the same without"});
  v.require("classes_file", s.classes.empty() || s.classes_file.empty(), "either classes or classes_file");
  v.require("join_key", s.join.empty() == s.join_key.empty(), "join and join_key together");
  v.require("valid_fraction", s.valid_fraction == 0 || (s.valid.empty() && s.valid_where.empty()),
            "either valid or valid_where, or valid_fraction");
}

void declare(OptionVisitor& v, GroupSection& s) {
  v.field("pattern", s.pattern, {.help = "names of trainable tensors: the end of a name, or a glob with *", .required = true});
  v.field("lr_scale", s.lr_scale, {.help = "factor on the learning rate", .min = 0});
  v.field("weight_decay", s.weight_decay, {.help = "weight decay of the group", .min = 0, .unset = "train.weight_decay"});
}

void declare(OptionVisitor& v, TrainSection& s) {
  v.field("epochs", s.epochs, {.help = "passes over the training data", .min = 1});
  v.field("steps", s.steps, {.help = "optimiser steps, instead of epochs; 0: by epochs", .min = 0});
  v.field("batch", s.batch, {.help = "examples of a forward pass", .min = 1});
  v.field("accumulate", s.accumulate, {.help = "forward passes a step; the gradient is that of one batch of all their examples", .min = 1});
  v.field("lr", s.lr, {.help = "peak learning rate", .min = 0});
  v.field("weight_decay", s.weight_decay, {.help = "decoupled for adamw, L2 for sgd; never on one-dimensional tensors", .min = 0});
  v.choice("optimizer", s.optimizer,
           {{"adamw", OptimiserKind::adamw},
            {"sgd", OptimiserKind::sgd},
            {"adamw_late_decay", OptimiserKind::adamw_late_decay,
             "AdamW of older transformers: values decay behind the update, and eps is not corrected for the first steps"}},
           {.help = "optimiser"});
  v.field("momentum", s.momentum, {.help = "of sgd", .min = 0, .below = 1});
  v.field("beta1", s.beta1, {.help = "of adamw", .min = 0, .below = 1});
  v.field("beta2", s.beta2, {.help = "of adamw", .min = 0, .below = 1});
  v.field("eps", s.eps, {.help = "of adamw", .above = 0});
  v.choice("schedule", s.schedule,
           {{"constant", ScheduleKind::constant},
            {"linear", ScheduleKind::linear, "to min_lr_scale at the last step"},
            {"cosine", ScheduleKind::cosine, "half a wave to min_lr_scale"},
            {"step", ScheduleKind::step, "times step_gamma every step_every epochs"}},
           {.help = "learning rate over time, after the warm-up"});
  v.field("warmup", s.warmup, {.help = "linear warm-up: steps, or a share of all steps if below 1", .min = 0});
  v.field("min_lr_scale", s.min_lr_scale, {.help = "where linear and cosine end, as a share of lr", .min = 0, .max = 1});
  v.field("step_gamma", s.step_gamma, {.help = "factor of schedule step", .max = 1, .above = 0});
  v.field("step_every", s.step_every, {.help = "epochs between two drops of schedule step", .above = 0});
  v.field("clip", s.clip, {.help = "largest norm of the whole gradient; 0: no clipping", .min = 0});
  v.tables("groups", s.groups, {.help = "tensors with a learning rate and decay of their own; the first match counts"});
  v.field("seed", s.seed, {.help = "of everything random", .min = 0});
  v.field("threads", s.threads, {.help = "CPU threads; 0: one a core", .min = 0, .max = 4096});
  v.field("eval_every", s.eval_every, {.help = "validate every n eval_units; 0: only at the end", .min = 0});
  v.choice("eval_unit", s.eval_unit, {{"epochs", Unit::epochs}, {"steps", Unit::steps}}, {.help = "unit of eval_every"});
  v.field("eval_batch", s.eval_batch, {.help = "examples of a forward pass in validation; 0: as in training", .min = 0});
  v.field(
      "metric", s.metric,
      {.help = "what best and early stopping go by", .unset = "accuracy; macro_f1 for multi-label data; vqa_accuracy; r1; caption: cider"});
  v.field("patience", s.patience, {.help = "stop after this many validations without a better metric; 0: never", .min = 0});
  v.field("checkpoint_every", s.checkpoint_every,
          {.help = "save the state every n steps; 0: at every validation, and when five minutes have passed", .min = 0});
  v.field("log_every", s.log_every, {.help = "a line in metrics.jsonl every n steps", .min = 1});
  v.choice("packing", s.packing,
           {{"packed", Packing::packed, "texts follow each other, no padding is computed"},
            {"padded", Packing::padded, "texts are padded to the longest of the batch"}},
           {.help = "how texts make a batch"});
  v.choice("group_by", s.group_by,
           {{"nothing", GroupBy::nothing, "every example on its own"},
            {"main", GroupBy::main, "examples with the same input of the main tower stay together"},
            {"condition", GroupBy::condition, "examples with the same input of the second tower stay together"}},
           {.help = "which examples follow each other in the shuffled order, so that a batch computes what they share once"});
  v.field("checkpointing", s.checkpointing,
          {.help = "gradient checkpointing: keep only the blocks' inputs and compute each block again in the backward pass; less memory, "
                   "about a third more time, the same gradients"});
  v.field("device", s.device, {.help = "where the model computes: cpu, cuda or cuda:N"});
}

void declare(OptionVisitor& v, EvalSection& s) {
  v.field("threshold", s.threshold, {.help = "multi-label: a label is given where its probability reaches this", .above = 0, .below = 1});
  v.field("bootstrap", s.bootstrap, {.help = "resamples of the confidence interval; 0: none", .min = 0, .max = 1000000});
}

void declare(OptionVisitor& v, Recipe& r) {
  v.field("task", r.task, {.help = "what is learned", .choices = {"classify", "vqa", "pair", "retrieve", "caption", "ground", "generate"}});
  v.table("backbone", r.backbone, {.help = "the frozen model: one tower, or a main and a conditioning one", .required = true});
  v.tables("expert", r.experts, {.help = "what is trained; several [[expert]] tables for several", .required = true});
  v.table("head", r.head, {.help = "from features to logits"});
  v.table("loss", r.loss, {.help = "what is minimised"});
  v.table("vqa", r.vqa, {.help = "task vqa: which answers there are"});
  v.table("retrieve", r.retrieve, {.help = "task retrieve: how pictures and texts are ranked"});
  v.table("generate", r.generate, {.help = "tasks caption, ground and generate: what the model is asked and how it answers"});
  v.table("data", r.data, {.help = "what is read", .required = true});
  v.table("train", r.train, {.help = "how it is learned"});
  v.table("eval", r.eval, {.help = "how it is measured"});
}

Recipe read_recipe_file(const std::filesystem::path& path, std::span<const std::string> assignments) {
  Recipe recipe = mmtune::read_recipe<Recipe>(path, assignments);
  for (const ExpertSection& expert : recipe.experts) {
    if (expert.tower == ExpertTower::condition && recipe.backbone.condition.empty())
      throw UsageError({.what = "tower = \"condition\" without a second tower",
                        .where = path.string() + ": expert.tower",
                        .expected = "\"main\" or \"all\"",
                        .hint = "name the second tower in backbone.condition"});
  }
  if (!recipe.backbone.further.empty() && recipe.backbone.condition.empty())
    throw UsageError({.what = "further towers without a second one",
                      .where = path.string() + ": backbone.further",
                      .hint = "name the second tower in backbone.condition"});
  for (FurtherTower& one : recipe.backbone.further) make_absolute(one.model);
  for (std::string* file : {&recipe.data.train, &recipe.data.valid, &recipe.data.join, &recipe.data.classes_file, &recipe.backbone.main,
                            &recipe.backbone.condition})
    make_absolute(*file);
  for (ExpertSection& expert : recipe.experts)
    for (std::string* path : expert.kinds.at(expert.method)->paths()) make_absolute(*path);
  return recipe;
}

std::string describe_recipe() {
  return options_as_help(document_options<Recipe>());
}

std::string to_toml(Recipe& recipe) {
  return write_toml([&](OptionVisitor& visitor) { declare(visitor, recipe); });
}

data::ReadOptions read_options_of(const DataSection& section, Split split, std::vector<std::string> classes) {
  data::ReadOptions options;
  const bool training = split == Split::train;
  options.path = training || section.valid.empty() ? section.train : section.valid;
  options.columns = section.columns;
  options.join_path = section.join;
  options.join_key = section.join_key;
  options.join_other_key = section.join_other_key;
  options.where = section.where;
  for (const auto& [key, value] : training ? section.train_where : section.valid_where) options.where[key] = value;
  options.join_where = section.join_where;
  options.classes = std::move(classes);
  options.multi_label = section.multi_label;
  options.label_separator = section.label_separator;
  options.require_labels = true;
  options.quotes = section.quotes;
  if (training) options.shots = section.shots;
  options.shot_seed = static_cast<std::uint64_t>(section.shot_seed);
  options.limit = section.limit;
  options.skip_bad = section.on_error == OnError::skip;
  return options;
}

}  // namespace mmtune::train
