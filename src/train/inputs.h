#pragma once
// From examples to what towers eat: loader threads tokenise and decode here, each distinct text, picture or sound of a batch once.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "audio/feature_extractor.h"
#include "backbones/backbone.h"
#include "core/hash.h"
#include "data/dataset.h"
#include "io/checkpoint.h"
#include "text/tokenizer.h"
#include "train/recipe.h"
#include "vision/processor.h"

namespace mmtune::train {

/// Features of inputs that a frozen tower was already shown, by InputReader::key.
struct FeatureStore {
  at::Tensor features;  ///< [U, D]
  std::unordered_map<std::string, std::int64_t> row_of;
};

/// One tower's share of a batch. Rows are the distinct inputs (or one an example, BatchReader::Source::by_example); `row` says which of
/// them an example has.
struct TowerBatch {
  std::vector<std::int64_t> row;      ///< one an example; -1: the example lacks this modality
  std::int64_t rows = 0;              ///< distinct inputs
  backbones::ModelInputs inputs;      ///< of all rows, unless `stored`
  std::vector<std::int64_t> tokens;   ///< of each row (video: of each frame), as Backbone::macs counts them
  std::vector<std::int64_t> patches;  ///< of each row's picture where pictures differ in size; else empty
  std::vector<std::int64_t> stored;   ///< where all rows lie in the tower's FeatureStore, instead of inputs
};

/// What a field holds; nothing where the backbone decides.
std::optional<backbones::Modality> modality_of(InputField field);

/// Which field a tower reads, and the recipe's limits on it.
struct ReaderOptions {
  InputField field = InputField::automatic;
  std::optional<std::int64_t> max_length;
  std::optional<double> max_seconds;
  audio::OtherRates other_rates = audio::OtherRates::resample;
  std::int64_t frames = 8;  ///< of a video
  Packing packing = Packing::packed;
};

/// Reads one field of examples for one tower: a tokenizer, an image processor or a feature extractor, and the limits that hold. Safe to use
/// from any thread.
class InputReader {
 public:
  /// One input as the loader keeps it until the batch is put together.
  struct Item {
    std::vector<std::int64_t> ids, type_ids;
    vision::PixelValues pixels;  ///< of a video: all frames, one behind the other
    std::vector<float> samples;
  };

  /// Throws Error: no tokenizer or processor in the folder, a field of another modality than the backbone's, a max_length over what the
  /// backbone has positions for.
  InputReader(const io::Checkpoint& checkpoint, const backbones::BackboneInfo& info, const ReaderOptions& options);

  bool has(const data::Example& example) const;
  /// Equal for equal inputs.
  std::string key(const data::Example& example) const;
  /// What decides the example's tensors besides describe(): the bytes of its file, or the ids of its tokens. Throws as read() does.
  void add_content(const data::Example& example, Fingerprint& fingerprint) const;
  /// Throws Error naming the example and the file at fault.
  Item read(const data::Example& example) const;
  /// Tokens of the text that it reads of an example; 0 where there is none, or none that read() would take.
  std::int64_t text_tokens(const data::Example& example) const;
  /// Puts items together as rows in their order; fills rows, inputs and tokens.
  TowerBatch collate(std::span<const Item* const> items) const;
  TowerBatch collate(std::span<const Item> items) const;
  /// From now on it reads the text that `source` makes of an example, and a picture where there is one (where pictures have one size,
  /// there must be). `words` makes tokens and their types of that text; unset: the tokenizer, with its special tokens.
  using Source = std::function<std::string(const data::Example&)>;
  using Words = std::function<void(const std::string&, Item&)>;
  void read_sources(Source source, Words words) {
    source_ = std::move(source);
    words_ = std::move(words);
  }
  /// From now on batches of pictures lie in pinned memory, from which copies to a GPU need no waiting.
  void pin_batches(bool pinned) { pinned_ = pinned; }
  backbones::Modality modality() const { return info_.modality; }
  /// Pictures that make one row of the tower's features: more than 1 where it reads videos.
  std::int64_t frames() const { return reads_video() ? options_.frames : 1; }
  bool reads_video() const { return options_.field == InputField::video; }
  /// Whatever decides the tensors, in one line: for cache keys.
  std::string describe() const;
  /// The picture, sound or video that it reads of an example; null for texts and where there is none.
  const data::MediaRef* media(const data::Example& example) const;

 private:
  void open_tokenizer(const std::filesystem::path& folder);
  bool reads_text() const { return tokenizer_ != nullptr; }
  void read_text(const data::Example& example, Item& item) const;
  void read_picture(const data::MediaRef& ref, Item& item) const;
  std::string text_key(const data::Example& example) const;
  Item read_sound(const data::MediaRef& media) const;
  Item read_video(const data::MediaRef& media) const;
  vision::PixelValues process(const vision::Image& image, const std::string& where) const;

  backbones::BackboneInfo info_;
  ReaderOptions options_;
  std::int64_t max_length_ = 0;
  Source source_;
  Words words_;
  bool pinned_ = false;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::unique_ptr<vision::ImageProcessor> processor_;
  std::unique_ptr<audio::FeatureExtractor> extractor_;
};

/// Throws the Error for an example that lacks an input that the tower needs.
[[noreturn]] void refuse_lacking(const data::Example& example, const std::string& tower);

}  // namespace mmtune::train
