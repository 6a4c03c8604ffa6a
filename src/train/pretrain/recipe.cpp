#include "train/pretrain/recipe.h"

namespace mmtune::train {

void declare(OptionVisitor& v, PretrainDataSection& s) {
  v.field("pictures", s.pictures,
          {.help = "JSON lines, one picture a line: image (a file, or shard.tar#member), texts, weight, mirror", .required = true});
  v.field("workers", s.workers, {.help = "threads that decode and augment ahead", .min = 0, .max = 64});
}

void declare(OptionVisitor& v, PretrainModelSection& s) {
  v.field("image_size", s.image_size, {.help = "side of the tower's input in pixels", .min = 8, .max = 1024});
  v.field("patch_size", s.patch_size, {.help = "side of a patch in pixels", .min = 1, .max = 256});
  v.field("width", s.width, {.help = "width of the tokens", .min = 1, .max = 8192});
  v.field("layers", s.layers, {.help = "number of blocks", .min = 1, .max = 128});
  v.field("heads", s.heads, {.help = "attention heads", .min = 1, .max = 128});
  v.field("inner", s.inner, {.help = "width inside the feed-forward maps", .min = 1, .max = 65536});
  v.field(
      "start", s.start,
      {.help = "folder of a tower of this shape to go on from; an encoder of pairs takes the blocks that it has", .unset = "from nothing"});
  v.require("patch_size", s.image_size % s.patch_size == 0, "a divisor of model.image_size");
  v.require("heads", s.width % s.heads == 0, "a divisor of model.width");
}

void declare(OptionVisitor& v, PretrainTextSection& s) {
  v.field("model", s.model, {.help = "the frozen text encoder: a model folder or name", .required = true});
  v.field("weight", s.weight, {.help = "factor of the contrastive loss", .min = 0});
  v.field("temperature", s.temperature, {.help = "the learned temperature begins here", .above = 0});
}

void declare(OptionVisitor& v, PretrainTeacherSection& s) {
  v.field("weights", s.weights, {.help = "safetensors file of an EfficientNet-Lite0", .required = true});
  v.field("weight", s.weight, {.help = "factor of the distillation loss of whole pictures", .min = 0});
  v.field("patch_weight", s.patch_weight, {.help = "factor of the distillation loss of single patches", .min = 0});
  v.field("patch_width", s.patch_width,
          {.help = "width to which the teacher's feature map is projected at random before patches are compared with it",
           .min = 1,
           .max = 1280});
}

void declare(OptionVisitor& v, PretrainViewsSection& s) {
  v.field("count", s.count, {.help = "views drawn of every picture", .min = 1, .max = 1000});
  v.field("size", s.size, {.help = "side of the views that the teacher sees in pixels", .min = 8, .max = 1024});
  v.field("min_area", s.min_area, {.help = "smallest share of a picture's area that a view shows", .max = 1, .above = 0});
  v.field("aspect", s.aspect, {.help = "a view's sides are stretched against each other by up to this factor", .min = 1});
  v.field("whole", s.whole, {.help = "share of the views that show the whole picture", .min = 0, .max = 1});
  v.field("colour", s.colour, {.help = "brightness, contrast and saturation change by up to this share", .min = 0, .below = 1});
  v.field("grey", s.grey, {.help = "share of the views without colour", .min = 0, .max = 1});
}

void declare(OptionVisitor& v, PretrainNoiseSection& s) {
  v.field("shift", s.shift, {.help = "a batch is moved by up to this many pixels", .min = 0, .max = 64});
  v.field("brightness", s.brightness, {.help = "brightness changes by up to this share", .min = 0, .below = 1});
  v.field("erase", s.erase, {.help = "share of the pictures of which a rectangle is painted grey", .min = 0, .max = 1});
  v.field("keep", s.keep, {.help = "share of a picture's patches that the tower is shown, drawn anew each time", .max = 1, .above = 0});
  v.field("whole_from", s.whole_from, {.help = "from this share of the steps on it is shown all of them", .min = 0, .max = 1});
}

void declare(OptionVisitor& v, PretrainLoopSection& s) {
  v.field("steps", s.steps, {.help = "optimiser steps", .min = 1});
  v.field("batch", s.batch, {.help = "pictures or scenes a step", .min = 1});
  v.field("lr", s.lr, {.help = "peak learning rate of AdamW; it falls to 0 along a cosine", .above = 0});
  v.field("weight_decay", s.weight_decay, {.help = "of tensors with more than one dimension", .min = 0});
  v.field("warmup", s.warmup, {.help = "share of the steps in which the learning rate rises", .min = 0, .below = 1});
  v.field("clip", s.clip, {.help = "longest gradient; 0: any", .min = 0});
  v.field("seed", s.seed, {.help = "of the initialisation, the views and the order", .min = 0});
  v.field("threads", s.threads, {.help = "of the tensor operations; 0: one a core", .min = 0, .max = 1024});
  v.field("log_every", s.log_every, {.help = "steps between two lines of metrics.jsonl", .min = 1});
  v.field("checkpoint_minutes", s.checkpoint_minutes, {.help = "minutes between two checkpoints", .above = 0});
  v.choice("precision", s.precision,
           {{"auto", Precision::automatic, "bfloat16 where the CPU has instructions for it (AVX512-BF16, AMX), else float32"},
            {"float32", Precision::float32, "everything in float32"},
            {"bfloat16", Precision::bfloat16, "matrix products in bfloat16, weights and sums in float32"}},
           {.help = "of the matrix products"});
}

void declare(OptionVisitor& v, PretrainRecipe& r) {
  v.field("task", r.task, {.help = "always pretrain", .choices = {"pretrain"}});
  v.table("data", r.data, {.help = "the pictures", .required = true});
  v.table("model", r.model, {.help = "the tower that is made"});
  v.table("text", r.text, {.help = "alignment with the embeddings of a frozen text encoder"});
  v.table("teacher", r.teacher, {.help = "distillation from a frozen network"});
  v.table("views", r.views, {.help = "the views that are drawn of every picture"});
  v.table("noise", r.noise, {.help = "what is done to a view each time it is seen"});
  v.table("train", r.train, {.help = "the training"});
  v.require("text", r.text || r.teacher, "a [text] table, a [teacher] table or both", "without either there is nothing to learn from");
  const std::int64_t side = r.model.image_size / r.model.patch_size, cells = r.views.size / 32;
  v.require("views", !r.teacher || (r.views.size % 32 == 0 && side % cells == 0),
            "views.size a multiple of 32, and views.size / 32 a divisor of the patches along a side");
  v.require("views", r.views.size % r.model.image_size == 0, "views.size a multiple of model.image_size");
}

}  // namespace mmtune::train
