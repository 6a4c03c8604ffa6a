#include "train/inputs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "vision/video.h"

namespace mmtune::train {

namespace {

using backbones::Modality;

at::Tensor to_tensor(const std::vector<std::int64_t>& values) {
  at::Tensor out = at::empty({static_cast<std::int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), out.data_ptr<std::int64_t>());
  return out;
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

/// All rows behind each other, without padding.
void collate_packed(std::span<const InputReader::Item* const> items, TowerBatch& batch) {
  std::vector<std::int64_t> lengths, ids, types;
  for (const InputReader::Item* item : items) {
    lengths.push_back(static_cast<std::int64_t>(item->ids.size()));
    ids.insert(ids.end(), item->ids.begin(), item->ids.end());
    types.insert(types.end(), item->type_ids.begin(), item->type_ids.end());
  }
  batch.tokens = lengths;
  batch.inputs.text_layout = nn::Layout::packed(std::move(lengths));
  batch.inputs.input_ids = to_tensor(ids);
  batch.inputs.token_type_ids = to_tensor(types);
}

/// Every row padded on the right to the longest.
void collate_padded(std::span<const InputReader::Item* const> items, const text::Tokenizer& tokenizer, TowerBatch& batch) {
  std::size_t longest = 0;
  for (const InputReader::Item* item : items) longest = std::max(longest, item->ids.size());
  const auto width = static_cast<std::int64_t>(longest);
  const auto count = static_cast<std::int64_t>(items.size());
  batch.inputs.input_ids = at::full({count, width}, tokenizer.padding_id(), at::kLong);
  batch.inputs.token_type_ids = at::full({count, width}, tokenizer.padding_type_id(), at::kLong);
  at::Tensor mask = at::zeros({count, width}, at::kBool);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i), length = static_cast<std::int64_t>(items[i]->ids.size());
    std::copy(items[i]->ids.begin(), items[i]->ids.end(), batch.inputs.input_ids.data_ptr<std::int64_t>() + row * width);
    std::copy(items[i]->type_ids.begin(), items[i]->type_ids.end(), batch.inputs.token_type_ids.data_ptr<std::int64_t>() + row * width);
    mask.select(0, row).slice(0, 0, length).fill_(true);
  }
  batch.inputs.input_ids = batch.inputs.input_ids.flatten();
  batch.inputs.token_type_ids = batch.inputs.token_type_ids.flatten();
  batch.inputs.text_layout = nn::Layout::uniform(count, width, mask);
  batch.tokens.assign(items.size(), width);
}

/// Pictures of any size, each in the upper left corner of what the largest height and width take.
void collate_any_pictures(std::span<const InputReader::Item* const> items, const backbones::BackboneInfo& info, bool pinned,
                          TowerBatch& batch) {
  std::int64_t height = 0, width = 0;
  bool alike = true;
  for (const InputReader::Item* item : items) {
    height = std::max(height, item->pixels.height);
    width = std::max(width, item->pixels.width);
  }
  const auto count = static_cast<std::int64_t>(items.size());
  if (height == 0) return;  // nobody has one
  batch.inputs.pixel_values = at::empty({count, 3, height, width}, at::TensorOptions(at::kFloat).pinned_memory(pinned));
  for (std::int64_t i = 0; i < count; ++i) {
    const vision::PixelValues& pixels = items[static_cast<std::size_t>(i)]->pixels;
    if (pixels.height == 0) {
      batch.inputs.pixel_values.select(0, i).zero_();
      batch.inputs.picture_sizes.emplace_back(0, 0);
      batch.patches.push_back(0);
      alike = false;
      continue;
    }
    const at::Tensor source = at::from_blob(const_cast<float*>(pixels.values.data()), {3, pixels.height, pixels.width}, at::kFloat);
    const at::Tensor target = batch.inputs.pixel_values.select(0, i);
    const bool fills = pixels.height == height && pixels.width == width;
    alike = alike && fills;
    if (!fills) target.zero_();
    target.slice(1, 0, pixels.height).slice(2, 0, pixels.width).copy_(source);
    batch.inputs.picture_sizes.emplace_back(pixels.height, pixels.width);
    std::int64_t patches = pixels.height / info.patch_height * (pixels.width / info.patch_width);
    if (info.max_patches > 0) patches = std::min(patches, info.max_patches);
    batch.patches.push_back(patches);
    batch.tokens[static_cast<std::size_t>(i)] += patches + (info.has_class_token ? 1 : 0);
  }
  if (alike) batch.inputs.picture_sizes.clear();
}

void collate_pictures(std::span<const InputReader::Item* const> items, const backbones::BackboneInfo& info, std::int64_t frames,
                      bool pinned, TowerBatch& batch) {
  const vision::PixelValues& first = items.front()->pixels;
  const std::int64_t pictures = static_cast<std::int64_t>(items.size()) * frames;
  batch.inputs.pixel_values = at::empty({pictures, 3, first.height, first.width}, at::TensorOptions(at::kFloat).pinned_memory(pinned));
  auto* out = batch.inputs.pixel_values.data_ptr<float>();
  for (const InputReader::Item* item : items) out = std::copy(item->pixels.values.begin(), item->pixels.values.end(), out);
  if (info.modality == Modality::image) batch.tokens.assign(static_cast<std::size_t>(pictures), info.max_length);
}

/// Packed: every sound as it would be alone, behind each other. Padded: as transformers pads them, with its mask where it gives one.
void collate_sounds(std::span<const InputReader::Item* const> items, const audio::FeatureExtractor& extractor, Packing packing,
                    TowerBatch& batch) {
  std::vector<audio::FeatureExtractor::Waveform> waveforms;
  for (const InputReader::Item* item : items) waveforms.emplace_back(item->samples);
  backbones::ModelInputs& inputs = batch.inputs;
  if (packing == Packing::packed) {
    std::vector<std::int64_t> lengths;
    for (const auto& waveform : waveforms) lengths.push_back(static_cast<std::int64_t>(waveform.size()));
    inputs.audio_layout = nn::Layout::packed(lengths);
    inputs.input_values = at::empty({inputs.audio_layout.rows()}, at::kFloat);
    auto* out = inputs.input_values.data_ptr<float>();
    for (const auto& waveform : waveforms) {
      const audio::Features features = extractor(std::span(&waveform, 1));
      out = std::copy(features.values.begin(), features.values.end(), out);
    }
    batch.tokens = std::move(lengths);
    return;
  }
  const audio::Features features = extractor(waveforms);
  const std::int64_t count = features.shape[0], width = features.shape[1];
  inputs.input_values = at::empty({count * width}, at::kFloat);
  std::copy(features.values.begin(), features.values.end(), inputs.input_values.data_ptr<float>());
  at::Tensor mask;
  if (!features.mask.empty()) mask = to_tensor(features.mask).view({count, width}).ne(0);
  inputs.audio_layout = nn::Layout::uniform(count, width, mask);
  batch.tokens.assign(items.size(), width);
}

/// A video that was taken apart.
bool is_frame_folder(const data::MediaRef& media) {
  std::error_code ignored;
  return media.member.empty() && media.size == 0 && std::filesystem::is_directory(media.file, ignored);
}

std::vector<data::MediaRef> chosen_frames(const data::MediaRef& folder, std::int64_t wanted) {
  const std::vector<std::filesystem::path> files = vision::frame_files(folder.file);
  std::vector<data::MediaRef> chosen;
  for (const std::int64_t number : vision::spread_frames(static_cast<std::int64_t>(files.size()), wanted))
    chosen.push_back({.file = files[static_cast<std::size_t>(number)]});
  return chosen;
}

}  // namespace

std::optional<Modality> modality_of(InputField field) {
  switch (field) {
    case InputField::text:
    case InputField::text_pair:
      return Modality::text;
    case InputField::image:
    case InputField::image_pair:
    case InputField::video:
      return Modality::image;
    case InputField::audio:
      return Modality::audio;
    case InputField::automatic:
      break;
  }
  return std::nullopt;
}

void refuse_lacking(const data::Example& example, const std::string& tower) {
  throw Error({.what = "lacks what the tower \"" + tower + "\" reads, and nothing is learned that stands in for it",
               .where = "example " + printable(example.id),
               .hint = "train with head.absent = \"learned\", or map the file's fields with data.columns"});
}

InputReader::InputReader(const io::Checkpoint& checkpoint, const backbones::BackboneInfo& info, const ReaderOptions& options)
    : info_(info), options_(options) {
  const Modality asked = modality_of(options_.field).value_or(info.modality);
  if (info.modality == Modality::text_image && options_.field != InputField::automatic && options_.field != InputField::image_pair)
    throw UsageError({.what = "the backbone reads a text and a picture at once",
                      .where = checkpoint.folder().string(),
                      .expected = "no input field",
                      .got = std::string(backbones::name_of(asked))});
  if (asked != info.modality && info.modality != Modality::text_image)
    throw UsageError({.what = "the input field does not fit the backbone",
                      .where = checkpoint.folder().string(),
                      .expected = std::string(backbones::name_of(info.modality)),
                      .got = std::string(backbones::name_of(asked))});
  if (options_.field == InputField::automatic && info.modality == Modality::image) options_.field = InputField::image;
  if (info.modality == Modality::text_image) {
    processor_ = vision::ImageProcessor::open(checkpoint.folder());
    open_tokenizer(checkpoint.folder());
  } else if (info.modality == Modality::image) {
    processor_ = vision::ImageProcessor::open(checkpoint.folder());
  } else if (info.modality == Modality::audio) {
    options_.field = InputField::audio;
    extractor_ = audio::FeatureExtractor::open(checkpoint.folder());
    if (!extractor_->gives_waveforms())
      throw Error({.what = "the feature extractor does not fit the backbone, which takes samples",
                   .where = checkpoint.folder().string(),
                   .expected = "Wav2Vec2FeatureExtractor",
                   .got = extractor_->describe()});
  } else {
    open_tokenizer(checkpoint.folder());
  }
}

void InputReader::open_tokenizer(const std::filesystem::path& folder) {
  tokenizer_ = text::Tokenizer::open(folder);
  max_length_ = info_.max_length;
  if (const auto limit = tokenizer_->model_max_length()) max_length_ = std::min(max_length_, *limit);
  if (options_.max_length) {
    if (*options_.max_length > info_.max_length)
      throw UsageError({.what = "longer than the backbone has positions for",
                        .where = "backbone.max_length",
                        .expected = "at most " + std::to_string(info_.max_length) + " (" + folder.string() + ")",
                        .got = std::to_string(*options_.max_length)});
    max_length_ = *options_.max_length;
  }
}

const data::MediaRef* InputReader::media(const data::Example& example) const {
  if (info_.modality == Modality::text) return nullptr;
  const auto& ref = extractor_                                 ? example.audio
                    : reads_video()                            ? example.video
                    : options_.field == InputField::image_pair ? example.image_pair
                                                               : example.image;
  return ref ? &*ref : nullptr;
}

bool InputReader::has(const data::Example& example) const {
  if (source_) return !processor_ || info_.any_image_size || media(example) != nullptr;
  if (info_.modality != Modality::text && media(example) == nullptr) return false;
  if (!reads_text()) return true;
  return options_.field == InputField::text_pair ? example.text_pair.has_value() : example.text.has_value();
}

std::string InputReader::key(const data::Example& example) const {
  std::string key;
  if (const data::MediaRef* const found = media(example)) {
    const data::MediaRef& ref = *found;
    key = ref.file.string() + '\0' + ref.member + '\0' + std::to_string(ref.offset) + '\0' + std::to_string(ref.size);
    if (const std::string variant = ref.variant(); !variant.empty()) key += '\0' + variant;
  }
  if (!reads_text()) return key;
  return info_.modality == Modality::text ? text_key(example) : key + '\0' + text_key(example);
}

std::string InputReader::text_key(const data::Example& example) const {
  if (source_) return source_(example);
  if (options_.field == InputField::text_pair) return *example.text_pair;
  if (options_.field == InputField::automatic && example.text_pair) return *example.text + '\0' + *example.text_pair;
  return *example.text;
}

void InputReader::add_content(const data::Example& example, Fingerprint& fingerprint) const {
  if (const data::MediaRef* const ref = media(example)) {
    if (is_frame_folder(*ref)) {
      for (const data::MediaRef& frame : chosen_frames(*ref, options_.frames)) fingerprint.add_field(data::read_media(frame));
    } else {
      fingerprint.add_field(data::read_media(*ref));
      if (const std::string variant = ref->variant(); !variant.empty()) fingerprint.add_field(variant);
    }
    if (!reads_text()) return;
  }
  Item item;
  read_text(example, item);
  for (const std::vector<std::int64_t>* const numbers : {&item.ids, &item.type_ids}) {
    fingerprint.add_field(static_cast<std::int64_t>(numbers->size()));
    for (const std::int64_t number : *numbers) fingerprint.add_field(number);
  }
}

InputReader::Item InputReader::read(const data::Example& example) const try {
  if (extractor_) return read_sound(*media(example));
  if (reads_video()) return read_video(*media(example));
  Item item;
  if (processor_ && (!source_ || media(example) != nullptr)) read_picture(*media(example), item);
  if (tokenizer_) read_text(example, item);
  return item;
} catch (const Error& error) {
  throw Error({.what = error.what(), .where = "example " + printable(example.id)});
}

std::int64_t InputReader::text_tokens(const data::Example& example) const try {
  if (!tokenizer_ || !has(example)) return 0;
  Item item;
  read_text(example, item);
  return static_cast<std::int64_t>(item.ids.size());
} catch (const Error&) {
  return 0;
}

void InputReader::read_picture(const data::MediaRef& ref, Item& item) const {
  item.pixels = process(data::read_picture(ref), ref.display());
}

void InputReader::read_text(const data::Example& example, Item& item) const {
  const text::EncodeOptions options{.max_length = max_length_, .with_offsets = false};
  text::Encoding encoding;
  if (words_) {
    words_(source_(example), item);
    const auto count = static_cast<std::int64_t>(item.ids.size());
    if (count > max_length_)
      throw Error({.what = "the question is longer than the model reads",
                   .where = "generate.instruction",
                   .expected = "at most " + std::to_string(max_length_) + " tokens",
                   .got = std::to_string(count)});
    if (count == 0) throw Error({.what = "the question has no tokens", .where = "generate.instruction"});
    return;
  }
  if (source_) {
    encoding = tokenizer_->encode(source_(example), options);
  } else if (options_.field == InputField::text_pair) {
    encoding = tokenizer_->encode(*example.text_pair, options);
  } else if (options_.field == InputField::automatic && example.text_pair) {
    encoding = tokenizer_->encode_pair(*example.text, *example.text_pair, options);
  } else {
    encoding = tokenizer_->encode(*example.text, options);
  }
  if (encoding.ids.empty()) throw Error({.what = "the text has no tokens", .where = "text"});
  item.ids = std::move(encoding.ids);
  item.type_ids = std::move(encoding.type_ids);
}

vision::PixelValues InputReader::process(const vision::Image& image, const std::string& where) const {
  vision::PixelValues pixels = (*processor_)(image);
  if (info_.any_image_size) {
    if (pixels.height >= info_.patch_height && pixels.width >= info_.patch_width) return pixels;
    throw Error({.what = "the picture is smaller than a patch once it is resized",
                 .where = where,
                 .expected = "at least " + std::to_string(info_.patch_width) + "x" + std::to_string(info_.patch_height),
                 .got = std::to_string(pixels.width) + "x" + std::to_string(pixels.height)});
  }
  if (pixels.height == info_.image_height && pixels.width == info_.image_width) return pixels;
  throw Error({.what = "the processor makes pictures of another size than the backbone takes",
               .where = where,
               .expected = std::to_string(info_.image_height) + "x" + std::to_string(info_.image_width),
               .got = std::to_string(pixels.height) + "x" + std::to_string(pixels.width),
               .hint = "see preprocessor_config.json"});
}

InputReader::Item InputReader::read_video(const data::MediaRef& media) const {
  Item item;
  const auto add = [&](const vision::Image& frame, const std::string& where) {
    vision::PixelValues pixels = process(frame, where);
    item.pixels.height = pixels.height;
    item.pixels.width = pixels.width;
    item.pixels.values.insert(item.pixels.values.end(), pixels.values.begin(), pixels.values.end());
  };
  if (is_frame_folder(media)) {
    for (const data::MediaRef& frame : chosen_frames(media, options_.frames)) {
      const std::string bytes = data::read_media(frame), where = frame.display();
      add(vision::decode_image(bytes_of(bytes), where), where);
    }
    return item;
  }
  const std::string bytes = data::read_media(media), where = media.display();
  vision::decode_video(bytes_of(bytes), where, options_.frames, [&](vision::Image&& frame) { add(frame, where); });
  return item;
}

InputReader::Item InputReader::read_sound(const data::MediaRef& media) const {
  const std::string bytes = data::read_media(media), where = media.display();
  audio::Sound sound = audio::at_rate(audio::decode_sound(bytes_of(bytes), where), extractor_->rate(), options_.other_rates, where);
  if (options_.max_seconds) {
    const double most = std::max(1.0, *options_.max_seconds * static_cast<double>(sound.rate));
    if (static_cast<double>(sound.samples.size()) > most) sound.samples.resize(static_cast<std::size_t>(most));
  }
  if (static_cast<std::int64_t>(sound.samples.size()) < info_.least_length)
    throw Error({.what = "the sound is too short for the model",
                 .where = where,
                 .expected = "at least " + std::to_string(info_.least_length) + " samples at " + std::to_string(sound.rate) + " Hz",
                 .got = std::to_string(sound.samples.size())});
  return {.samples = std::move(sound.samples)};
}

TowerBatch InputReader::collate(std::span<const Item> items) const {
  std::vector<const Item*> pointers;
  for (const Item& item : items) pointers.push_back(&item);
  return collate(pointers);
}

TowerBatch InputReader::collate(std::span<const Item* const> items) const {
  TowerBatch batch;
  batch.rows = static_cast<std::int64_t>(items.size());
  if (items.empty()) return batch;
  if (extractor_) {
    collate_sounds(items, *extractor_, options_.packing, batch);
  } else if (reads_text() && options_.packing == Packing::packed) {
    collate_packed(items, batch);
  } else if (reads_text()) {
    collate_padded(items, *tokenizer_, batch);
  }
  // A model that reads both halves of a pair gives the second picture a type of its own.
  if (info_.modality == Modality::text_image && options_.field == InputField::image_pair) batch.inputs.image_type = 2;
  if (processor_ && info_.any_image_size) {
    collate_any_pictures(items, info_, pinned_, batch);
  } else if (processor_) {
    collate_pictures(items, info_, frames(), pinned_, batch);
  }
  return batch;
}

std::string InputReader::describe() const {
  const std::string frames = reads_video() ? ", largest of " + std::to_string(options_.frames) + " frames of a video" : "";
  std::string picture = processor_ ? processor_->describe() + frames : "";
  if (processor_ && !reads_text()) return picture;
  if (extractor_)
    return extractor_->describe() + (options_.max_seconds ? ", at most " + std::to_string(*options_.max_seconds) + " s" : "") +
           (options_.packing == Packing::packed ? ", packed" : ", padded");
  return picture + (picture.empty() ? "" : ", ") + "text of at most " + std::to_string(max_length_) + " tokens, field " +
         std::to_string(static_cast<int>(options_.field)) + (options_.packing == Packing::packed ? ", packed" : ", padded");
}

}  // namespace mmtune::train
