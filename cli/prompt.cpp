// mmtune prompt apply|show|transfer: use a visual prompt on a picture, look at it, try it on other models.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/recipe.h"
#include "experts/visual_prompt.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "methods/classifier_transfer.h"
#include "methods/picture_norm.h"
#include "methods/prompt_views.h"
#include "methods/tvp_run.h"
#include "methods/tvp_transfer.h"
#include "nn/weights.h"
#include "print.h"
#include "report/table.h"
#include "train/machine.h"
#include "vision/encode_jpeg.h"
#include "vision/encode_png.h"

namespace mmtune::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  std::string action;
  std::vector<std::string> items;
  std::string out;
  std::optional<std::string> model, html, png, svg;
  std::vector<std::string> models, data, corrupt;
  std::int64_t side = 0, batch = 32, seed = 0;
  bool json = false;
};

std::string extension_of(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) { return std::tolower(c); });
  return extension;
}

std::string told(const experts::PromptShape& shape) {
  std::string text = std::string(experts::name_of(shape.form));
  if (shape.form != experts::PromptForm::full) text += " of width " + std::to_string(shape.width);
  return text + ", frame " + std::to_string(shape.frame) + ", picture " + std::to_string(shape.image);
}

void write_bytes(const fs::path& path, const std::vector<std::byte>& bytes) {
  write_file_atomically(path, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

/// The side and the normalisation of the model that the picture is for.
struct Shown {
  std::int64_t side = 0;
  experts::ChannelNorm norm = experts::clip_norm;
};

/// The side of the pictures that a model folder's configuration tells.
std::int64_t picture_side(const Json& config, const std::string& where) {
  const Json& vision = config.contains("vision_config") && config["vision_config"].is_object() ? config["vision_config"] : config;
  const auto found = vision.find("image_size");
  if (found == vision.end() || !found->is_number_integer() || found->get<std::int64_t>() < 1)
    throw Error({.what = "the model does not tell the size of its pictures", .where = where, .expected = "image_size in config.json"});
  return found->get<std::int64_t>();
}

Shown shown_of(const Options& options, std::int64_t frame) {
  Shown shown{.side = options.side > 0 ? options.side : frame};
  if (!options.model) return shown;
  const fs::path folder = io::resolve_model(*options.model);
  const std::string config = (folder / "config.json").string();
  if (options.side == 0) shown.side = picture_side(read_json_file(config), config);
  shown.norm = methods::picture_norm_of(folder);
  return shown;
}

int apply(const Options& options) {
  if (options.items.size() != 2)
    throw UsageError({.what = "prompt apply needs a prompt and a picture",
                      .where = "arguments",
                      .expected = "mmtune prompt apply PROMPT IMAGE -o OUT",
                      .got = std::to_string(options.items.size()) + " of them"});
  if (options.out.empty()) throw UsageError({.what = "no file to write", .where = "prompt apply", .expected = "-o OUT"});
  const std::string extension = extension_of(options.out);
  const bool tensor = extension == ".safetensors", png = extension == ".png", jpeg = extension == ".jpg" || extension == ".jpeg";
  if (!tensor && !png && !jpeg)
    throw UsageError(
        {.what = "no such kind of file", .where = "-o " + options.out, .expected = ".safetensors, or .png or .jpg for people"});
  const experts::StoredPrompt stored = experts::load_prompt(options.items[0]);
  const experts::PromptShape& shape = stored.prompt.shape();
  const Shown shown = shown_of(options, shape.frame);
  if (shown.side != shape.frame)
    log_info("the prompt's frame is " + std::to_string(shape.frame) + ", the model's pictures are " + std::to_string(shown.side) +
             ": the prompted frame is resized (bicubic)");
  data::Example example;
  example.id = options.items[1];
  example.image = data::MediaRef{.file = options.items[1]};
  const at::NoGradGuard no_grad;
  const at::Tensor picture = methods::framed_picture(methods::read_picture(example), shape.image, shape.frame).unsqueeze(0);
  at::Generator places = at::detail::createCPUGenerator(static_cast<std::uint64_t>(options.seed));
  const experts::PatchPlace place = stored.prompt.draw_place(places);
  const at::Tensor prompted = stored.prompt.prompted(picture, shown.norm, place).contiguous();
  if (tensor) {
    const at::Tensor pixels = stored.prompt.input(picture, shown.norm, shown.side, place).contiguous();
    const io::TensorEntry entries[] = {nn::to_entry("pixel_values", pixels), nn::to_entry("prompted", prompted)};
    io::write_safetensors(options.out, entries);
    print(options.out + ": pixel_values " + std::to_string(shown.side) + " x " + std::to_string(shown.side) + ", " + told(shape) + "\n");
    return 0;
  }
  std::int64_t clipped = 0;
  const vision::Image image = methods::to_picture(prompted[0], &clipped);
  write_bytes(options.out, png ? vision::encode_png(image) : vision::encode_jpeg(image, 95));
  const double share = 100.0 * static_cast<double>(clipped) / static_cast<double>(prompted.numel());
  log_warning("8 bits clip " + std::to_string(clipped) + " of " + std::to_string(prompted.numel()) + " values (" + report::fixed(share, 1) +
              " %): a picture for people. Give a model the tensor: -o OUT.safetensors");
  print(options.out + ": " + told(shape) + "\n");
  return 0;
}

/// What a prompt's metadata tell, as rows of the page.
std::vector<std::pair<std::string, std::string>> facts_of(const Json& metadata) {
  std::vector<std::pair<std::string, std::string>> facts;
  if (!metadata.is_object()) return facts;
  if (metadata.contains("sources") && metadata["sources"].is_array())
    for (const Json& source : metadata["sources"])
      if (source.is_object()) facts.emplace_back("trained through", source.value("model", "?") + " (" + source.value("family", "?") + ")");
  if (metadata.contains("step") && metadata["step"].is_number()) facts.emplace_back("step", metadata["step"].dump());
  if (metadata.contains("metric") && metadata["metric"].is_object())
    for (const auto& [name, value] : metadata["metric"].items())
      if (value.is_number()) facts.emplace_back("valid " + name, report::fixed(value.get<double>()));
  if (metadata.contains("classes") && metadata["classes"].is_array()) {
    std::string names;
    for (const Json& name : metadata["classes"])
      if (name.is_string()) names += (names.empty() ? "" : ", ") + name.get<std::string>();
    facts.emplace_back("classes", names);
  }
  return facts;
}

int show(const Options& options) {
  if (options.items.size() != 1)
    throw UsageError({.what = "prompt show needs one prompt", .where = "arguments", .got = std::to_string(options.items.size())});
  const experts::StoredPrompt stored = experts::load_prompt(options.items.front());
  const report::PromptView view = methods::view_of(stored.prompt);
  const auto facts = facts_of(stored.metadata);
  if (options.html) write_file_atomically(*options.html, report::prompt_page(view, options.items.front(), facts));
  if (options.png) write_bytes(*options.png, vision::encode_png(view.stretched));
  if (options.svg) write_file_atomically(*options.svg, report::power_picture(view).svg("power of the channels by frequency"));
  if (options.json) {
    Json json = report::prompt_json(view);
    json["prompt"] = options.items.front();
    json["metadata"] = stored.metadata;
    print_json(json);
    return 0;
  }
  print(stored.source + ": " + told(stored.prompt.shape()) + "\n" + report::human_count(static_cast<double>(view.trained)) +
        " numbers, length " + report::fixed(view.l2, 3) + ", " + report::fixed(100 * view.outside, 1) + " % outside [0, 1]\n");
  for (const auto& [key, value] : facts) print(key + ": " + printable(value, 200) + "\n");
  print("\n" + report::prompt_table(view));
  for (const auto& file : {options.html, options.png, options.svg})
    if (file) print("wrote " + *file + "\n");
  return 0;
}

/// What is asked and how data is read: the first prompt's own recipe, or a plain one, and the changes of the command line.
methods::TvpRecipe question_of(const std::string& first, const std::vector<std::string>& assignments) {
  const auto [run, with_recipe] = [&] {
    for (const fs::path& folder : {fs::path(first), fs::path(first).parent_path()})
      if (methods::is_tvp_run(folder)) return std::pair(folder, true);
    return std::pair(fs::path(), false);
  }();
  if (with_recipe) return methods::read_tvp_recipe(run / "recipe.toml", assignments);
  TomlValue root;
  for (const char* one : {"expert.method=tvp", "source.model=none", "data.train=none"}) apply_assignment(root, one);
  for (const std::string& one : assignments) apply_assignment(root, one);
  return read_options<methods::TvpRecipe>(root);
}

int transfer(const Options& options, const Session& session) {
  std::vector<std::string> prompts, assignments, models, data;
  // Behind --models and --data, which take several, changes of the recipe look like one more of them.
  const auto sort = [&](const std::vector<std::string>& items, std::vector<std::string>& kept) {
    for (const std::string& item : items) {
      std::error_code ignored;
      (item.find('=') != std::string::npos && !fs::exists(item, ignored) ? assignments : kept).push_back(item);
    }
  };
  sort(options.items, prompts);
  sort(options.models, models);
  sort(options.data, data);
  std::vector<vision::Corruption> corruptions;
  for (const std::string& text : options.corrupt) corruptions.push_back(vision::parse_corruption(text, "--corrupt"));
  if (prompts.empty()) throw UsageError({.what = "prompt transfer needs a prompt", .where = "arguments"});
  std::vector<methods::NamedPrompt> named;
  for (const std::string& path : prompts) named.push_back(methods::named_prompt(path));
  const methods::TransferOptions how{
      .models = models, .data = data, .corruptions = corruptions, .assignments = assignments, .batch = options.batch};
  const report::TransferMatrix matrix = [&] {
    if (!models.empty() && methods::is_classifier_run(models.front())) {
      train::set_threads(session.threads > 0
                             ? session.threads
                             : train::read_recipe_file(fs::path(models.front()) / "recipe.toml", assignments).train.threads);
      return methods::classifier_transfer(named, how);
    }
    const methods::TvpRecipe recipe = question_of(prompts.front(), assignments);
    train::set_threads(session.threads > 0 ? session.threads : recipe.train.threads);
    return methods::transfer_matrix(recipe, named, how);
  }();
  if (options.html) write_file_atomically(*options.html, report::transfer_page(matrix));
  if (options.json) {
    print_json(report::transfer_json(matrix));
    return 0;
  }
  print(report::transfer_text(matrix));
  if (options.html) print("wrote " + *options.html + "\n");
  return 0;
}

int run(const Options& options, const Session& session) {
  if (options.action == "transfer") return transfer(options, session);
  for (const std::string& item : options.items)
    if (item.find('=') != std::string::npos && !fs::exists(item))
      throw UsageError({.what = "only prompt transfer takes changes of a recipe", .where = "prompt " + options.action, .got = item});
  return options.action == "apply" ? apply(options) : show(options);
}

}  // namespace

Command prompt_command() {
  return {
      .name = "prompt",
      .summary = "use a visual prompt on a picture, look at it, try it on other models",
      .example =
          "mmtune prompt apply runs/tvp photo.jpg -o prompted.safetensors\n"
          "mmtune prompt apply runs/tvp photo.jpg -o prompted.png\n"
          "mmtune prompt show runs/tvp --html prompt.html\n"
          "mmtune prompt transfer runs/tvp runs/evp --models A B --data eurosat/manifest.jsonl data.where.split=test --html matrix.html",
      .declare = [](Arguments& arguments) -> Action {
        const auto options = std::make_shared<Options>();
        arguments.positional("ACTION", &options->action,
                             {.help = "apply: to a picture; show: how it looks; transfer: the matrix prompts x models",
                              .required = true,
                              .choices = {"apply", "show", "transfer"}});
        arguments.positional("PROMPT", &options->items,
                             {.help = "a run of method tvp, an expert's folder or a .safetensors file; for apply, then the picture; for "
                                      "transfer, several, and KEY=VALUE changes of the recipe",
                              .required = false});
        arguments.option("-o,--out", &options->out, {.help = "apply: .safetensors for a model, .png or .jpg for people", .value = "OUT"});
        arguments.option("--model", &options->model, {.help = "apply: the model that the tensor is for", .value = "MODEL"});
        arguments.option("--size", &options->side, {.help = "apply: the side of the model's pictures", .value = "N", .min = 1});
        arguments.option("--models", &options->models,
                         {.help = "transfer: the models: multimodal language models, or runs of classifiers over pictures",
                          .value = "MODEL",
                          .comma = true,
                          .many = true});
        arguments.option("--data", &options->data,
                         {.help = "transfer: labelled data, read as the recipe's [data] says", .value = "MANIFEST", .many = true});
        arguments.option("--corrupt", &options->corrupt,
                         {.help = "transfer: also with every picture made worse, as mmtune eval --corrupt: gaussian_noise:3,jpeg:5",
                          .value = "NAME:SEVERITY",
                          .comma = true,
                          .many = true});
        arguments.option("--batch", &options->batch, {.help = "transfer: examples of a forward pass", .value = "N", .min = 1});
        arguments.option("--seed", &options->seed, {.help = "of what is drawn: a random patch's place, noise", .value = "N", .min = 0});
        arguments.option("--html", &options->html, {.help = "show, transfer: write a page", .value = "FILE"});
        arguments.option("--png", &options->png, {.help = "show: write the contrast-stretched picture", .value = "FILE"});
        arguments.option("--svg", &options->svg, {.help = "show: write the spectrum", .value = "FILE"});
        arguments.flag("--json", options->json, "print JSON");
        return [options](const Session& session) { return run(*options, session); };
      },
      .engine = true};
}

}  // namespace mmtune::cli
