#include "train/batch_reader.h"

#include <algorithm>

#include "core/error.h"

namespace mmtune::train {

Batch BatchReader::read(const data::Dataset& dataset, std::span<const std::int64_t> indices) const {
  Batch batch;
  struct Rows {
    std::unordered_map<std::string, std::int64_t> row_of;
    std::vector<InputReader::Item> items;
    std::vector<std::int64_t> stored, row;
  };
  std::vector<Rows> rows(sources_.size());
  std::vector<Taught> lessons;
  for (const std::int64_t index : indices) {
    const data::Example& example = dataset.examples[static_cast<std::size_t>(index)];
    std::vector<std::int64_t> row(sources_.size(), -1);
    try {
      bool any = false;
      std::optional<Taught> lesson;
      if (teacher_) lesson = teacher_->teach(example);
      for (std::size_t t = 0; t < sources_.size(); ++t) {
        const Source& source = sources_[t];
        if (!source.reader->has(example)) {
          if (source.required) refuse_lacking(example, source.tower);
          continue;
        }
        any = true;
        const std::string key = source.reader->key(example);
        const auto found = rows[t].row_of.find(key);
        if (found != rows[t].row_of.end()) {
          row[t] = found->second;
          continue;
        }
        if (source.store != nullptr) {
          const auto stored = source.store->row_of.find(key);
          if (stored == source.store->row_of.end())
            throw Error({.what = "an input could not be read when features were made", .where = "example " + printable(example.id)});
          rows[t].stored.push_back(stored->second);
        } else {
          rows[t].items.push_back(source.reader->read(example));
        }
        row[t] = static_cast<std::int64_t>(rows[t].row_of.size());
        rows[t].row_of.emplace(key, row[t]);
      }
      if (!any)
        throw Error({.what = "has nothing that a tower could read",
                     .where = "example " + printable(example.id),
                     .hint = "map the file's fields with data.columns"});
      if (lesson) lessons.push_back(*std::move(lesson));
    } catch (const Error& error) {
      if (on_error_ == OnError::stop) throw;
      batch.skipped.emplace_back(error.what());
      continue;
    }
    batch.examples.push_back(index);
    for (std::size_t t = 0; t < sources_.size(); ++t) rows[t].row.push_back(row[t]);
  }
  for (std::size_t t = 0; t < sources_.size(); ++t) {
    std::vector<const InputReader::Item*> items;
    if (sources_[t].by_example) {
      for (std::int64_t& row : rows[t].row) {
        if (row < 0) continue;
        items.push_back(&rows[t].items[static_cast<std::size_t>(row)]);
        row = static_cast<std::int64_t>(items.size()) - 1;
      }
    } else {
      for (const InputReader::Item& item : rows[t].items) items.push_back(&item);
    }
    TowerBatch tower = sources_[t].reader->collate(items);
    tower.row = std::move(rows[t].row);
    tower.stored = std::move(rows[t].stored);
    if (sources_[t].store != nullptr) tower.rows = static_cast<std::int64_t>(tower.stored.size());
    batch.towers.push_back(std::move(tower));
  }
  if (lessons.empty()) return batch;
  std::size_t longest = 0;
  for (const Taught& lesson : lessons) longest = std::max(longest, lesson.said.size());
  const auto count = static_cast<std::int64_t>(lessons.size()), width = static_cast<std::int64_t>(longest);
  batch.said = at::full({count, width}, teacher_->padding, at::kLong);
  batch.learned = at::zeros({count, width}, at::kBool);
  for (std::size_t i = 0; i < lessons.size(); ++i) {
    MMTUNE_ASSERT(lessons[i].said.size() == lessons[i].wanted.size());
    std::copy(lessons[i].said.begin(), lessons[i].said.end(), batch.said.data_ptr<std::int64_t>() + static_cast<std::int64_t>(i) * width);
    for (std::size_t t = 0; t < lessons[i].wanted.size(); ++t)
      batch.learned.data_ptr<bool>()[static_cast<std::int64_t>(i) * width + static_cast<std::int64_t>(t)] = lessons[i].wanted[t] >= 0;
  }
  return batch;
}

std::int64_t BatchReader::text_tokens(const data::Example& example) const {
  std::int64_t tokens = 0;
  for (const Source& source : sources_) tokens += source.reader->text_tokens(example);
  return tokens;
}

}  // namespace mmtune::train
