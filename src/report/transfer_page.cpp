#include "report/transfer_page.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "report/drawing.h"
#include "report/html.h"
#include "report/metric_json.h"
#include "report/table.h"

namespace mmtune::report {

namespace {

std::string tag(const std::string& name, const std::string& content, const std::string& attributes = {}) {
  return "<" + name + (attributes.empty() ? "" : " " + attributes) + ">" + content + "</" + name + ">";
}

std::string title_of(const TransferBlock& block) {
  return block.data + (block.change.empty() ? "" : ", " + block.change);
}

std::string interval_text(const Interval& interval, int digits) {
  return number(interval.low, digits) + " – " + number(interval.high, digits);
}

/// White words where the ground is dark.
std::string ground(double share) {
  const Colour colour = heat(share);
  const double light = 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue;
  return "style=\"background:" + to_hex(colour) + ";color:" + (light < 130 ? "#fff" : "#111") + ";text-align:center\"";
}

/// Over the cells that are no sources and have a value.
template <typename Value>
std::optional<double> mean_of(const std::vector<TransferCell>& cells, const Value& value) {
  double sum = 0;
  std::size_t count = 0;
  for (const TransferCell& cell : cells) {
    const std::optional<double> one = cell.source ? std::nullopt : value(cell);
    if (!one) continue;
    sum += *one;
    ++count;
  }
  return count > 0 ? std::optional(sum / static_cast<double>(count)) : std::nullopt;
}

std::string with_sign(double gain, int digits) {
  return (gain >= 0 ? "+" : "") + number(gain, digits);
}

/// The last part of a model's path, where that tells the models apart; the whole path shows under the pointer.
std::string heading(const std::vector<std::string>& models, const std::string& model) {
  const auto last = [](const std::string& path) { return std::filesystem::path(path).filename().string(); };
  const bool alone = std::count_if(models.begin(), models.end(), [&](const std::string& one) { return last(one) == last(model); }) == 1;
  return tag("th", escape_html(alone && !last(model).empty() ? last(model) : model), "title=\"" + escape_html(model) + "\"");
}

/// Bold where the interval leaves out 0.
std::string gain_text(double gain, const Interval& interval) {
  const std::string words = with_sign(gain, 3) + " (" + interval_text(interval, 3) + ")";
  return interval.low > 0 || interval.high < 0 ? tag("b", words) : words;
}

std::string block_table(const TransferMatrix& matrix, const TransferBlock& block) {
  double low = 1e300, high = -1e300;
  for (const TransferRow& row : block.rows)
    for (const TransferCell& cell : row.cells)
      if (const Metric* one = cell.find(matrix.metric); one != nullptr && std::isfinite(one->value)) {
        low = std::min(low, one->value);
        high = std::max(high, one->value);
      }
  std::string rows = "<tr><th>prompt</th>";
  for (const std::string& model : matrix.models) rows += heading(matrix.models, model);
  rows += "<th>mean over unseen models</th></tr>";
  for (const TransferRow& row : block.rows) {
    rows += "<tr><th>" + escape_html(row.name) + "</th>";
    for (const TransferCell& cell : row.cells) {
      const Metric* one = cell.find(matrix.metric);
      if (one == nullptr) {
        rows += "<td>–</td>";
        continue;
      }
      std::string words = tag("b", number(one->value)) + (cell.source ? " *" : "");
      std::string notes;
      if (one->interval) notes += "<br>" + interval_text(*one->interval, 3);
      if (cell.gain && cell.gain_interval) notes += "<br>" + gain_text(*cell.gain, *cell.gain_interval);
      words += tag("small", notes, "style=\"color:inherit\"");
      rows += "<td " + ground(high > low ? (one->value - low) / (high - low) : 0.5) + ">" + words + "</td>";
    }
    const std::optional<double> mean = row.mean_over_others(matrix.metric);
    const std::optional<double> gain = row.mean_gain_over_others();
    rows +=
        "<td>" + (mean ? number(*mean) : std::string("–")) + (gain ? "<br><small>" + with_sign(*gain, 3) + "</small>" : "") + "</td></tr>";
  }
  return "<div class=\"wide fit\"><table>" + rows + "</table></div>";
}

}  // namespace

const Metric* TransferCell::find(const std::string& name) const {
  const auto found = std::find_if(metrics.begin(), metrics.end(), [&](const Metric& one) { return one.name == name; });
  return found == metrics.end() ? nullptr : &*found;
}

std::optional<double> TransferRow::mean_over_others(const std::string& metric) const {
  return mean_of(cells, [&](const TransferCell& cell) {
    const Metric* one = cell.find(metric);
    return one == nullptr ? std::nullopt : std::optional(one->value);
  });
}

std::optional<double> TransferRow::mean_gain_over_others() const {
  return mean_of(cells, [](const TransferCell& cell) { return cell.gain; });
}

std::string transfer_page(const TransferMatrix& matrix) {
  std::string body = tag("h1", "Transfer of visual prompts");
  body += tag("p",
              "Each cell: " + escape_html(matrix.metric) +
                  " of a prompt (row) on a model (column) with its 95 % bootstrap interval, and the difference to the same model without a "
                  "prompt in the frame, over the same resamples (bold where its interval leaves out 0). * marks models that the prompt was "
                  "trained through; the last column leaves them out.",
              "class=\"soft\"");
  for (const TransferBlock& block : matrix.blocks) {
    body += tag("h2", escape_html(title_of(block)));
    body += tag("p", std::to_string(block.examples) + " examples", "class=\"soft\"") + block_table(matrix, block);
  }
  return html_page("mmtune: transfer of visual prompts", body);
}

std::string transfer_text(const TransferMatrix& matrix) {
  std::string text;
  for (const TransferBlock& block : matrix.blocks) {
    std::vector<Column> columns = {{"prompt"}};
    for (const std::string& model : matrix.models) columns.push_back({model, Align::right});
    columns.push_back({"unseen", Align::right});
    Table table(std::move(columns));
    for (const TransferRow& row : block.rows) {
      std::vector<Cell> cells = {row.name};
      for (const TransferCell& cell : row.cells) {
        const Metric* one = cell.find(matrix.metric);
        std::string words = one == nullptr ? "—" : fixed(one->value, 3);
        if (one != nullptr && one->interval) words += " (" + fixed(one->interval->low, 3) + "–" + fixed(one->interval->high, 3) + ")";
        cells.emplace_back(words + (cell.source ? "*" : " "));
      }
      const std::optional<double> mean = row.mean_over_others(matrix.metric);
      const std::optional<double> gain = row.mean_gain_over_others();
      cells.emplace_back((mean ? fixed(*mean, 3) : "—") + (gain ? " (" + with_sign(*gain, 3) + ")" : ""));
      table.add(std::move(cells));
    }
    text += title_of(block) + ": " + matrix.metric + ", " + std::to_string(block.examples) + " examples\n" + table.text() + "\n";
  }
  return text + "* a model that the prompt was trained through\n";
}

Json transfer_json(const TransferMatrix& matrix) {
  Json json = {{"metric", matrix.metric}, {"models", matrix.models}, {"blocks", Json::array()}};
  for (const TransferBlock& block : matrix.blocks) {
    Json rows = Json::array();
    for (const TransferRow& row : block.rows) {
      Json cells = Json::array();
      for (std::size_t i = 0; i < row.cells.size(); ++i) {
        const TransferCell& cell = row.cells[i];
        Json one = {{"model", matrix.models[i]}, {"source", cell.source}, {"metrics", metrics_json(cell.metrics)}};
        if (cell.gain) one["gain"] = number_or_null(*cell.gain);
        if (cell.gain_interval) one["gain_interval"] = {number_or_null(cell.gain_interval->low), number_or_null(cell.gain_interval->high)};
        cells.push_back(std::move(one));
      }
      const std::optional<double> mean = row.mean_over_others(matrix.metric);
      const std::optional<double> gain = row.mean_gain_over_others();
      rows.push_back({{"prompt", row.name},
                      {"zero_shot", row.zero_shot},
                      {"cells", cells},
                      {"mean_over_unseen", mean ? Json(*mean) : Json()},
                      {"mean_gain_over_unseen", gain ? Json(*gain) : Json()}});
    }
    json["blocks"].push_back({{"data", block.data}, {"change", block.change}, {"examples", block.examples}, {"rows", rows}});
  }
  return json;
}

}  // namespace mmtune::report
