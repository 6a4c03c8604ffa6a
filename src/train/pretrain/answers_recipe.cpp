#include "train/pretrain/answers_recipe.h"

namespace mmtune::train {

void declare(OptionVisitor& v, AnswersDataSection& s) {
  v.field(
      "pictures", s.pictures,
      {.help =
           "JSON lines, one picture a line: image (a file, or shard.tar#member), questions ([[\"question\", \"answer\"], …]) for answer, "
           "texts for contrast, weight, mirror",
       .required = true});
  v.field("workers", s.workers, {.help = "threads that make batches ahead", .min = 0, .max = 64});
}

void declare(OptionVisitor& v, AnswersModelSection& s) {
  v.field("config", s.config,
          {.help = "the model that is made: a config.json of transformers (llava, blip-2, instructblip, clip)", .required = true});
  v.field("tokenizer", s.tokenizer, {.help = "folder with its tokenizer's files, which are copied", .required = true});
}

void declare(OptionVisitor& v, AnswersViewsSection& s) {
  v.field("min_area", s.min_area, {.help = "smallest share of a picture's area that is shown", .max = 1, .above = 0});
  v.field("aspect", s.aspect, {.help = "sides are stretched against each other by up to this factor", .min = 1});
  v.field("whole", s.whole, {.help = "share of the times that the whole picture is shown", .min = 0, .max = 1});
  v.field("colour", s.colour, {.help = "brightness, contrast and saturation change by up to this share", .min = 0, .below = 1});
  v.field("grey", s.grey, {.help = "share of the times without colour", .min = 0, .max = 1});
  v.field("framed", s.framed,
          {.help = "share of the times that the picture stands in the black frame of a visual prompt", .min = 0, .max = 1});
}

void declare(OptionVisitor& v, AnswersRecipe& r) {
  v.choice("task", r.task,
           {{"answer", AnswersTask::answer, "answers to questions about pictures, by a multimodal language model"},
            {"contrast", AnswersTask::contrast, "which text belongs to a picture, by a CLIP"}},
           {.help = "what is learned"});
  v.table("data", r.data, {.help = "the pictures", .required = true});
  v.table("model", r.model, {.help = "the model that is made", .required = true});
  v.table("views", r.views, {.help = "how a picture is changed each time it is seen"});
  v.table("train", r.train, {.help = "the training"});
}

}  // namespace mmtune::train
