// mmtune preprocess MODEL: exactly the tensors that the model would get.

#include <algorithm>
#include <memory>
#include <span>

#include "arguments.h"
#include "audio/feature_extractor.h"
#include "commands.h"
#include "core/error.h"
#include "core/files.h"
#include "data/dataset.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "tensor_file.h"
#include "text/tokenizer.h"
#include "vision/image.h"
#include "vision/processor.h"

namespace mmtune::cli {

namespace {

struct Options {
  std::string model;
  std::vector<std::string> texts, pairs, images, sounds;
  std::string corrupt;
  bool no_resample = false;
  std::string data;
  std::int64_t limit = 0;
  std::optional<std::int64_t> max_length;
  std::string out;
  bool json = false;
};

/// Tensors in the making, with the buffers that hold their bytes.
class Outputs {
 public:
  template <class T>
  void add(const std::string& name, io::DType dtype, std::vector<std::int64_t> shape, const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    buffers_.push_back(std::make_unique<std::vector<std::byte>>(bytes.begin(), bytes.end()));
    tensors_.push_back({name, dtype, std::move(shape), *buffers_.back()});
  }
  const std::vector<io::TensorEntry>& tensors() const { return tensors_; }

 private:
  std::vector<std::unique_ptr<std::vector<std::byte>>> buffers_;
  std::vector<io::TensorEntry> tensors_;
};

/// What is to be preprocessed, wherever it came from.
struct Inputs {
  std::vector<std::string> texts;
  std::vector<std::optional<std::string>> pairs;
  std::vector<data::MediaRef> images, sounds;
};

Inputs gather(const Options& options) {
  Inputs inputs;
  std::optional<vision::Corruption> corruption;
  if (!options.corrupt.empty()) corruption = vision::parse_corruption(options.corrupt, "--corrupt");
  if (options.data.empty()) {
    if (options.texts.empty() && options.images.empty() && options.sounds.empty()) {
      throw UsageError({.what = "nothing to preprocess", .expected = "--text, --image, --audio or --data"});
    }
    if (!options.pairs.empty() && options.pairs.size() != options.texts.size()) {
      throw UsageError({.what = "--text-pair",
                        .expected = "as many as --text (" + std::to_string(options.texts.size()) + ")",
                        .got = std::to_string(options.pairs.size())});
    }
    inputs.texts = options.texts;
    for (std::size_t i = 0; i < options.texts.size(); ++i) {
      inputs.pairs.push_back(options.pairs.empty() ? std::nullopt : std::optional(options.pairs[i]));
    }
    for (const std::string& image : options.images) {
      data::MediaRef picture{.file = image, .member = {}};
      if (corruption) picture = data::corrupted(std::move(picture), *corruption, image);
      inputs.images.push_back(std::move(picture));
    }
    for (const std::string& sound : options.sounds) inputs.sounds.push_back({.file = sound, .member = {}});
    return inputs;
  }
  if (!options.texts.empty() || !options.pairs.empty() || !options.images.empty() || !options.sounds.empty()) {
    throw UsageError({.what = "--data", .expected = "to stand without --text, --text-pair, --image and --audio"});
  }
  const data::Dataset dataset = data::read_dataset({.path = options.data, .limit = options.limit, .corruption = corruption});
  for (const data::Example& example : dataset.examples) {
    if (example.text) {
      inputs.texts.push_back(*example.text);
      inputs.pairs.push_back(example.text_pair);
    }
    if (example.image) inputs.images.push_back(*example.image);
    if (example.audio) inputs.sounds.push_back(*example.audio);
  }
  return inputs;
}

void add_texts(const Options& options, const std::filesystem::path& model, const Inputs& inputs, Outputs& outputs) {
  const auto tokenizer = text::Tokenizer::open(model);
  const text::EncodeOptions encode{.max_length = options.max_length ? options.max_length : tokenizer->model_max_length(),
                                   .with_offsets = false};
  std::vector<text::Encoding> encodings;
  for (std::size_t i = 0; i < inputs.texts.size(); ++i) {
    encodings.push_back(inputs.pairs[i] ? tokenizer->encode_pair(inputs.texts[i], *inputs.pairs[i], encode)
                                        : tokenizer->encode(inputs.texts[i], encode));
  }
  text::pad(encodings, *tokenizer);
  std::vector<std::int64_t> ids, types, mask;
  for (const text::Encoding& encoding : encodings) {
    ids.insert(ids.end(), encoding.ids.begin(), encoding.ids.end());
    types.insert(types.end(), encoding.type_ids.begin(), encoding.type_ids.end());
    mask.insert(mask.end(), encoding.attention_mask.begin(), encoding.attention_mask.end());
  }
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(encodings.size()),
                                           static_cast<std::int64_t>(encodings.front().ids.size())};
  outputs.add("input_ids", io::DType::i64, shape, ids);
  outputs.add("token_type_ids", io::DType::i64, shape, types);
  outputs.add("attention_mask", io::DType::i64, shape, mask);
}

void add_images(const std::filesystem::path& model, const Inputs& inputs, Outputs& outputs) {
  const auto processor = vision::ImageProcessor::open(model);
  std::vector<vision::PixelValues> pictures;
  std::int64_t height = 0, width = 0;
  for (const data::MediaRef& reference : inputs.images) {
    pictures.push_back((*processor)(data::read_picture(reference)));
    const vision::PixelValues& pixels = pictures.back();
    if (pictures.size() == 1 || processor->pads()) {
      height = std::max(height, pixels.height);
      width = std::max(width, pixels.width);
    } else if (pixels.height != height || pixels.width != width) {
      throw Error({.what = "the model's processor keeps the pictures' own sizes, so that they make no batch",
                   .where = reference.display(),
                   .expected = std::to_string(width) + "×" + std::to_string(height),
                   .got = std::to_string(pixels.width) + "×" + std::to_string(pixels.height)});
    }
  }
  const auto count = static_cast<std::int64_t>(pictures.size());
  const auto plane = static_cast<std::size_t>(height * width);
  std::vector<float> values(pictures.size() * 3 * plane);
  std::vector<std::int64_t> mask(pictures.size() * plane);
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const vision::PixelValues& pixels = pictures[i];
    const auto rows = static_cast<std::size_t>(pixels.height), columns = static_cast<std::size_t>(pixels.width);
    const auto across = static_cast<std::size_t>(width);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t channel = 0; channel < 3; ++channel)
        std::copy_n(pixels.values.begin() + static_cast<std::ptrdiff_t>((channel * rows + row) * columns), columns,
                    values.begin() + static_cast<std::ptrdiff_t>((i * 3 + channel) * plane + row * across));
      std::fill_n(mask.begin() + static_cast<std::ptrdiff_t>(i * plane + row * across), columns, 1);
    }
  }
  outputs.add("pixel_values", io::DType::f32, {count, 3, height, width}, values);
  if (processor->pads()) outputs.add("pixel_mask", io::DType::i64, {count, height, width}, mask);
}

void add_sounds(const Options& options, const std::filesystem::path& model, const Inputs& inputs, Outputs& outputs) {
  const auto extractor = audio::FeatureExtractor::open(model);
  const auto other_rates = options.no_resample ? audio::OtherRates::refuse : audio::OtherRates::resample;
  std::vector<audio::Sound> sounds;
  for (const data::MediaRef& reference : inputs.sounds) {
    const std::string bytes = data::read_media(reference);
    audio::Sound sound = audio::decode_sound(std::as_bytes(std::span(bytes)), reference.display());
    sounds.push_back(audio::at_rate(std::move(sound), extractor->rate(), other_rates, reference.display()));
  }
  std::vector<audio::FeatureExtractor::Waveform> waveforms;
  for (const audio::Sound& sound : sounds) waveforms.emplace_back(sound.samples);
  const audio::Features features = (*extractor)(waveforms);
  outputs.add(std::string(extractor->input_name()), io::DType::f32, features.shape, features.values);
  const auto count = static_cast<std::int64_t>(sounds.size());
  if (!features.mask.empty()) outputs.add("attention_mask", io::DType::i64, {count, features.mask_length}, features.mask);
  if (!features.sound_longer.empty()) outputs.add("is_longer", io::DType::boolean, {count, 1}, features.sound_longer);
}

/// A data set may have modalities that the model does not read; what the user names on the command line must be read.
bool reads_texts(const std::filesystem::path& model) {
  std::error_code error;
  const auto has = [&](const char* name) { return std::filesystem::exists(model / name, error); };
  return has("tokenizer.json") || has("vocab.txt") || has("vocab.json") || has("tokenizer.model") || has("spiece.model");
}
bool reads_images(const std::filesystem::path& model) {
  std::error_code error;
  return std::filesystem::exists(model / "preprocessor_config.json", error) && !audio::FeatureExtractor::is_in(model);
}

int run(const Options& options) {
  const Inputs inputs = gather(options);
  const std::filesystem::path model = io::resolve_model(options.model);
  Outputs outputs;
  if (!inputs.texts.empty() && (options.data.empty() || reads_texts(model))) add_texts(options, model, inputs, outputs);
  if (!inputs.images.empty() && (options.data.empty() || reads_images(model))) add_images(model, inputs, outputs);
  if (!inputs.sounds.empty() && (options.data.empty() || audio::FeatureExtractor::is_in(model)))
    add_sounds(options, model, inputs, outputs);
  if (outputs.tensors().empty()) {
    throw Error({.what = "the model has neither tokenizer nor processor for this data", .where = model.string()});
  }
  write_tensor_file(options.out, outputs.tensors(), options.json);
  return 0;
}

}  // namespace

Command preprocess_command() {
  return {.name = "preprocess",
          .summary = "write exactly the tensors that a model would get, for comparing with other tools",
          .example =
              "mmtune preprocess bert-base-uncased --text 'a red circle' --text 'is it blue?' --out x.safetensors\n"
              "mmtune preprocess google/vit-base-patch16-224 --image cat.jpg --out x.safetensors\n"
              "mmtune preprocess facebook/wav2vec2-base --audio word.wav --out x.safetensors",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("MODEL", &options->model,
                                 {.help = "a model folder, or the name of a bundled or cached model", .required = true});
            arguments.option("--text", &options->texts,
                             {.help = "a text; given several times, a batch padded to the longest", .value = "TEXT"});
            arguments.option("--text-pair", &options->pairs, {.help = "the second text of a pair, one for each --text", .value = "TEXT"});
            arguments.option("--image", &options->images, {.help = "a JPEG, PNG or WebP file; several make a batch", .value = "FILE"});
            arguments.option("--corrupt", &options->corrupt,
                             {.help = "make every picture worse first, as eval does", .value = "NAME:SEVERITY"});
            arguments.option("--audio", &options->sounds, {.help = "a WAV, FLAC or Ogg file; several make a batch", .value = "FILE"});
            arguments.flag("--no-resample", options->no_resample, "refuse sounds of another sample rate than the model's");
            arguments.option("--data", &options->data,
                             {.help = "the texts, images and sounds of a data set in place of the above", .value = "DATA"});
            arguments.option("--limit", &options->limit, {.help = "only the first N rows of --data", .value = "N", .min = 0});
            arguments.option("--max-length", &options->max_length,
                             {.help = "truncate to N tokens (default: what the model's tokenizer says)", .value = "N", .min = 1});
            arguments.option("-o,--out", &options->out, {.help = "the safetensors file to write", .required = true, .value = "FILE"});
            arguments.flag("--json", options->json, "print names, dtypes and shapes as JSON");
            return [options](const Session&) { return run(*options); };
          }};
}

}  // namespace mmtune::cli
