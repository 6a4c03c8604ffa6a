#include "backbones/named_inputs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "core/listed.h"

namespace mmtune::backbones {

namespace {

void check_range(const at::Tensor& ids, const std::string& name, std::int64_t end) {
  if (!ids.defined() || ids.numel() == 0) return;
  const std::int64_t low = ids.min().item<std::int64_t>(), high = ids.max().item<std::int64_t>();
  if (low < 0 || high >= end)
    throw Error({.what = "input is out of range",
                 .where = name,
                 .expected = "0 to " + std::to_string(end - 1),
                 .got = std::to_string(low) + " to " + std::to_string(high)});
}

at::Tensor integers(const TensorMap& inputs, const std::string& name, at::IntArrayRef shape) {
  at::Tensor tensor = optional_input(inputs, name, 2);
  if (!tensor.defined()) return {};
  if (!at::isIntegralType(tensor.scalar_type(), true))
    throw Error(
        {.what = "input has the wrong dtype", .where = name, .expected = "an integer type", .got = at::toString(tensor.scalar_type())});
  if (!shape.empty() && tensor.sizes() != shape) {
    std::ostringstream expected;
    expected << shape;
    throw Error({.what = "input has the wrong shape", .where = name, .expected = expected.str(), .got = shape_text(tensor.sizes())});
  }
  return tensor.to(at::kLong);
}

}  // namespace

void refuse_unknown_inputs(const TensorMap& inputs, std::initializer_list<std::string_view> known) {
  for (const auto& [name, tensor] : inputs) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    std::string list;
    for (const std::string_view one : known) list += (list.empty() ? "" : ", ") + std::string(one);
    throw Error({.what = "the model has no such input", .where = printable(name), .expected = "one of " + list});
  }
}

at::Tensor optional_input(const TensorMap& inputs, const std::string& name, std::int64_t rank) {
  const auto found = inputs.find(name);
  if (found == inputs.end()) return {};
  if (found->second.dim() != rank)
    throw Error({.what = "input has the wrong rank",
                 .where = name,
                 .expected = std::to_string(rank) + " axes",
                 .got = shape_text(found->second.sizes())});
  if (std::any_of(found->second.sizes().begin(), found->second.sizes().end(), [](std::int64_t size) { return size == 0; }))
    throw Error({.what = "input is empty", .where = name, .got = shape_text(found->second.sizes())});
  return found->second;
}

ModelInputs text_inputs(const TensorMap& inputs, std::int64_t vocabulary, std::int64_t types, std::int64_t positions, std::int64_t width,
                        std::optional<std::int64_t> longest) {
  refuse_unknown_inputs(inputs, {"input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds"});
  const at::Tensor ids = integers(inputs, "input_ids", {});
  const at::Tensor embeds = optional_input(inputs, "inputs_embeds", 3);
  if (ids.defined() == embeds.defined()) throw Error({.what = "exactly one of input_ids and inputs_embeds is needed", .where = "inputs"});
  const at::Tensor& given = ids.defined() ? ids : embeds;
  const std::int64_t batch = given.size(0), length = given.size(1);
  if (const std::int64_t most = longest.value_or(positions); length > most)
    throw Error({.what = "sequence is longer than the position table",
                 .where = "inputs",
                 .expected = "at most " + std::to_string(most),
                 .got = std::to_string(length)});
  if (embeds.defined() && (embeds.size(2) != width || embeds.scalar_type() != at::kFloat))
    throw Error({.what = "input has the wrong width or dtype",
                 .where = "inputs_embeds",
                 .expected = "float32 [B, T, " + std::to_string(width) + "]",
                 .got = shape_text(embeds.sizes())});
  check_range(ids, "input_ids", vocabulary);
  ModelInputs result;
  at::Tensor mask = integers(inputs, "attention_mask", {batch, length});
  if (mask.defined()) mask = mask.ne(0);
  if (mask.defined() && mask.all().item<bool>()) mask = at::Tensor();
  result.text_layout = nn::Layout::uniform(batch, length, mask);
  if (ids.defined()) result.input_ids = ids.reshape({-1});
  if (embeds.defined()) result.inputs_embeds = embeds.reshape({-1, width});
  const at::Tensor type_ids = integers(inputs, "token_type_ids", {batch, length});
  check_range(type_ids, "token_type_ids", types);
  if (type_ids.defined()) result.token_type_ids = type_ids.reshape({-1});
  const auto position_ids = inputs.find("position_ids");
  if (position_ids != inputs.end()) {
    const at::Tensor table = optional_input(inputs, "position_ids", 2);
    if (table.size(1) != length || (table.size(0) != 1 && table.size(0) != batch))
      throw Error({.what = "input has the wrong shape", .where = "position_ids", .got = shape_text(table.sizes())});
    check_range(table, "position_ids", positions);
    result.position_ids = table.to(at::kLong).expand({batch, length}).reshape({-1});
  }
  return result;
}

at::Tensor picture_input(const TensorMap& inputs, std::int64_t channels, std::int64_t height, std::int64_t width) {
  at::Tensor pixels = optional_input(inputs, "pixel_values", 4);
  if (!pixels.defined()) throw Error({.what = "input is missing", .where = "pixel_values"});
  if (pixels.scalar_type() != at::kFloat)
    throw Error(
        {.what = "input has the wrong dtype", .where = "pixel_values", .expected = "float32", .got = at::toString(pixels.scalar_type())});
  const bool fits = pixels.size(1) == channels && (height == 0 || (pixels.size(2) == height && pixels.size(3) == width));
  const auto side = [](std::int64_t size, const char* any) { return size == 0 ? std::string(any) : std::to_string(size); };
  if (!fits)
    throw Error({.what = "input has the wrong shape",
                 .where = "pixel_values",
                 .expected = "[B, " + std::to_string(channels) + ", " + side(height, "H") + ", " + side(width, "W") + "]",
                 .got = shape_text(pixels.sizes())});
  return pixels;
}

ModelInputs sound_inputs(const TensorMap& inputs) {
  refuse_unknown_inputs(inputs, {"input_values", "attention_mask"});
  const at::Tensor values = optional_input(inputs, "input_values", 2);
  if (!values.defined()) throw Error({.what = "input is missing", .where = "input_values"});
  if (values.scalar_type() != at::kFloat)
    throw Error(
        {.what = "input has the wrong dtype", .where = "input_values", .expected = "float32", .got = at::toString(values.scalar_type())});
  at::Tensor mask = integers(inputs, "attention_mask", values.sizes());
  if (mask.defined()) mask = mask.ne(0);
  ModelInputs result;
  result.audio_layout = nn::Layout::uniform(values.size(0), values.size(1), mask);
  result.input_values = values.reshape({-1});
  return result;
}

}  // namespace mmtune::backbones
