#include "train/pretrain/pairs_recipe.h"

namespace mmtune::train {

void declare(OptionVisitor& v, PairsModelSection& s) {
  declare(v, static_cast<PretrainModelSection&>(s));
  v.field("positions", s.positions, {.help = "longest text in tokens", .min = 4, .max = 512});
  v.field("vocabulary", s.vocabulary, {.help = "word pieces that are kept of the text model's", .min = 100, .max = 1000000});
  v.field(
      "words", s.words,
      {.help = "model folder or name of a BERT whose word pieces are taken, and whose embeddings the words begin with", .required = true});
  v.require("image_size", s.image_size >= 16, "at least 16");
}

void declare(OptionVisitor& v, ScenesSection& s) {
  v.field("whole", s.whole, {.help = "share of the scenes that are a single picture in full size", .min = 0, .max = 1});
  v.field("most", s.most, {.help = "pictures in a scene at most", .min = 1, .max = 4});
  v.field("repeat", s.repeat, {.help = "chance that a picture in a scene shows what the one before it shows", .min = 0, .max = 1});
  v.field("ground", s.ground, {.help = "share of the captions of composed scenes that tell the ground's colour", .min = 0, .max = 1});
}

void declare(OptionVisitor& v, PairsTaskSection& s) {
  v.field("masked_words", s.masked_words, {.help = "share of a batch whose words are masked; the rest is matched", .min = 0, .max = 1});
  v.field("mask", s.mask, {.help = "share of a text's tokens that are masked", .max = 1, .above = 0});
  v.field("wrong", s.wrong, {.help = "share of the matched texts that say something wrong", .min = 0, .max = 1});
  v.field("word_weight", s.word_weight, {.help = "factor of the masked words' loss", .min = 0});
  v.field("match_weight", s.match_weight, {.help = "factor of the matching's loss", .min = 0});
  v.field("measured", s.measured, {.help = "scenes that the finished model is measured on; 0: none", .min = 0});
}

void declare(OptionVisitor& v, PairsRecipe& r) {
  v.field("task", r.task, {.help = "always pretrain_pairs", .choices = {"pretrain_pairs"}});
  v.table("data", r.data, {.help = "the pictures; those without texts are left out", .required = true});
  v.table("model", r.model, {.help = "the encoder that is made", .required = true});
  v.table("scenes", r.scenes, {.help = "the scenes that are composed of the pictures"});
  v.table("tasks", r.tasks, {.help = "masked words and matching"});
  v.table("train", r.train, {.help = "the training"});
}

}  // namespace mmtune::train
