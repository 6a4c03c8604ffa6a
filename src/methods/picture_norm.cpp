#include "methods/picture_norm.h"

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "vision/processor_fields.h"

namespace mmtune::methods {

experts::ChannelNorm picture_norm_of(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "preprocessor_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return experts::clip_norm;
  Json config = read_json_file(file.string());
  // A processor of several modalities keeps the pictures' part below this key.
  if (config.contains("image_processor") && config["image_processor"].is_object()) config = Json(config["image_processor"]);
  const vision::ProcessorFields fields(config, file.string());
  if (!fields.flag("do_normalize", true)) return {{0, 0, 0}, {1, 1, 1}};
  const experts::ChannelNorm norm{fields.channels("image_mean", experts::clip_norm.mean),
                                  fields.channels("image_std", experts::clip_norm.std)};
  for (const double deviation : norm.std)
    if (!(deviation > 0))
      throw Error(
          {.what = "image_std is not positive", .where = file.string(), .expected = "numbers > 0", .got = std::to_string(deviation)});
  return norm;
}

}  // namespace mmtune::methods
