// Prompts on disk: an expert's folder, the released tensor, and what is refused.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cctype>

#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "experts/kinds.h"
#include "experts/visual_prompt.h"
#include "io/pickle.h"
#include "io/safetensors.h"
#include "io/torch_archive.h"
#include "nn/weights.h"

namespace mmtune::experts {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view peft_prefix = "base_model.model.";

using Tensors = std::vector<nn::NamedTensor>;

const at::Tensor* find(const Tensors& tensors, std::string_view name) {
  for (const nn::NamedTensor& one : tensors)
    if (one.name == name) return &one.tensor;
  return nullptr;
}

std::string shape_of(const at::Tensor& tensor) {
  std::string text;
  for (const std::int64_t size : tensor.sizes()) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

/// What the tensors alone say; nothing where they are no prompt.
std::optional<PromptShape> told_shape(const Tensors& tensors, const std::string& where) {
  if (const at::Tensor* delta = find(tensors, "perturbation")) {
    if (delta->dim() != 3 || delta->size(0) != 3 || delta->size(1) != delta->size(2) || delta->size(1) < 1)
      throw Error(
          {.what = "the tensor \"perturbation\" is no visual prompt", .where = where, .expected = "[3, F, F]", .got = shape_of(*delta)});
    const std::int64_t frame = delta->size(1);
    const std::optional<std::int64_t> width = border_width_of(*delta);
    if (!width) {
      log_warning(where + ": the prompt is 0 throughout; its border is taken for 30/224 of the frame");
      return PromptShape::usual(PromptForm::border, frame);
    }
    if (2 * *width >= frame) return PromptShape{.form = PromptForm::full, .frame = frame, .width = 0, .image = frame};
    return PromptShape{.form = PromptForm::border, .frame = frame, .width = *width, .image = frame - 2 * *width};
  }
  if (const at::Tensor* up = find(tensors, "pad_up"); up != nullptr && up->dim() == 4)
    return PromptShape{.form = PromptForm::vp_padding, .frame = up->size(3), .width = up->size(2), .image = up->size(3)};
  return std::nullopt;
}

PixelPrompt filled(const PromptShape& shape, const Tensors& tensors, const std::string& where) {
  PixelPrompt prompt(shape, at::detail::createCPUGenerator(0));
  const at::NoGradGuard no_grad;
  for (const nn::NamedTensor& one : prompt.tensors()) {
    const at::Tensor* given = find(tensors, one.name);
    if (given == nullptr) throw Error({.what = "the prompt lacks the tensor \"" + one.name + "\"", .where = where});
    if (given->sizes() != one.tensor.sizes())
      throw Error({.what = "the tensor \"" + one.name + "\" is of another shape",
                   .where = where,
                   .expected = shape_of(one.tensor),
                   .got = shape_of(*given)});
    if (!at::isfinite(*given).all().item<bool>())
      throw Error({.what = "the tensor \"" + one.name + "\" holds NaN or infinite numbers", .where = where});
    at::Tensor target = one.tensor;
    target.copy_(*given);
  }
  return prompt;
}

Tensors read_tensors(const io::SafetensorsFile& file) {
  Tensors tensors;
  for (const io::TensorEntry& entry : file.tensors()) {
    std::string name = entry.name;
    if (name.starts_with(peft_prefix)) name = name.substr(peft_prefix.size());
    tensors.push_back({name, nn::to_tensor(entry, file.mapping())});
  }
  return tensors;
}

[[noreturn]] void refuse_tensors(const std::string& where) {
  throw Error({.what = "no visual prompt in this file", .where = where, .expected = "a tensor \"perturbation\" [3, F, F]"});
}

StoredPrompt load_file(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const char* picture : {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
    if (extension == picture)
      throw Error({.what = "a picture of 8 bits cannot hold a visual prompt: half of a prompt's numbers lie outside its range",
                   .where = path.string(),
                   .expected = "an expert's folder, or a .safetensors file with the tensor \"perturbation\""});
  if (extension == ".pth" || extension == ".pt" || extension == ".ckpt" || extension == ".bin")
    throw Error({.what = "a pickle can run code when it is loaded",
                 .where = path.string(),
                 .expected = "an expert's folder, or a .safetensors file",
                 .hint = "take its tensors out once, running nothing: mmtune import " + path.string() + " --out PROMPT"});
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  const Tensors tensors = read_tensors(file);
  const std::optional<PromptShape> shape = told_shape(tensors, path.string());
  if (!shape) refuse_tensors(path.string());
  check(*shape, path.string() + ": ");
  return {filled(*shape, tensors, path.string()), Json(), path.string()};
}

StoredPrompt load_folder(const fs::path& folder) {
  const std::string config_path = (folder / "adapter_config.json").string();
  const Json config = read_json_file(config_path, std::size_t{16} << 20);
  std::string type;
  if (config.is_object()) read(config, config_path, "peft_type", type);
  if (type != "MMTUNE_VISUAL_PROMPT")
    throw Error({.what = "the expert is no visual prompt",
                 .where = config_path,
                 .expected = "peft_type MMTUNE_VISUAL_PROMPT",
                 .got = "\"" + printable(type) + "\""});
  std::string form = "border";
  read(config, config_path, "form", form);
  PromptShape shape = PromptShape::usual(prompt_form_named(form, config_path), 224);
  read(config, config_path, "frame", shape.frame);
  read(config, config_path, "width", shape.width);
  read(config, config_path, "image_size", shape.image);
  try {
    check(shape, "");
  } catch (const UsageError& error) {
    throw Error({.what = error.what(), .where = config_path});
  }
  const io::SafetensorsFile file = io::SafetensorsFile::open(folder / "adapter_model.safetensors");
  const Tensors tensors = read_tensors(file);
  StoredPrompt stored{filled(shape, tensors, file.where()), Json(), file.where()};
  const auto told = shape.form == PromptForm::border ? border_width_of(*find(tensors, "perturbation")) : std::nullopt;
  if (told && *told != shape.width)
    log_warning(file.where() + ": the zeros say a border of " + std::to_string(*told) + ", " + config_path + " says " +
                std::to_string(shape.width));
  if (const auto text = file.metadata().find("mmtune"); text != file.metadata().end())
    stored.metadata = parse_json(text->second, file.where() + " (metadata \"mmtune\")");
  return stored;
}

}  // namespace

StoredPrompt load_prompt(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    if (fs::exists(path / "adapter_config.json", ignored)) return load_folder(path);
    if (fs::exists(path / "expert" / "adapter_config.json", ignored)) return load_folder(path / "expert");
    throw Error({.what = "the folder holds no visual prompt",
                 .where = path.string(),
                 .expected = "adapter_config.json and adapter_model.safetensors, or a run with expert/"});
  }
  if (!fs::exists(path, ignored)) throw Error({.what = "no such prompt", .where = path.string()});
  return load_file(path);
}

std::optional<StoredPrompt> load_pickled_prompt(const fs::path& path) {
  const io::TorchArchive archive = io::TorchArchive::open(path);
  Tensors tensors;
  for (const io::TensorEntry& entry : archive.tensors()) tensors.push_back({entry.name, nn::to_tensor_exact(entry).to(at::kFloat)});
  const std::optional<PromptShape> shape = told_shape(tensors, path.string());
  if (!shape) return std::nullopt;
  check(*shape, path.string() + ": ");
  return StoredPrompt{filled(*shape, tensors, path.string()), Json(), path.string()};
}

void save_prompt(const PixelPrompt& prompt, const fs::path& folder, const Json& metadata) {
  save_expert(VisualPrompt(prompt, clip_norm, nullptr, 0), folder, metadata);
}

}  // namespace mmtune::experts
