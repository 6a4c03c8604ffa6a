// Cases of TVP's data: the image path, and the metrics of answers.

#include <ATen/ATen.h>

#include "golden.h"
#include "report/answers.h"
#include "vision/frame.h"

namespace mmtune::golden {

namespace {

using at::Tensor;

vision::Image picture(const Tensor& tensor) {
  const Tensor bytes = tensor.contiguous();
  const auto* data = bytes.const_data_ptr<std::uint8_t>();
  return {bytes.size(1), bytes.size(0), {data, data + bytes.numel()}};
}

void preprocess(Case& golden) {
  for (const std::string& name : golden.names("")) {
    if (!name.ends_with(".input")) continue;
    const std::string stem = name.substr(0, name.size() - 6);
    const Json& says = golden.json().at("config").at(stem);
    const vision::Image image = picture(golden.take(name));
    const auto side = says.at("size").get<std::int64_t>();
    const vision::Size size = vision::shorter_side_size({image.width, image.height}, side);
    golden.check(stem + " resized", Json{size.height, size.width}, says.at("resized_hw"));
    const vision::Offset offset = vision::centre_offset(size, side);
    golden.check(stem + " crop", Json{offset.top, offset.left}, Json{says.at("crop_top"), says.at("crop_left")});
    const vision::Image fitted = vision::fit_square(image, side);
    const Tensor expected = golden.take(stem + ".output").contiguous();
    const auto* bytes = expected.const_data_ptr<std::uint8_t>();
    golden.check(stem + " pixels are Pillow's", fitted.pixels == std::vector<std::uint8_t>(bytes, bytes + expected.numel()), true);
  }
  const auto frame = golden.config("frame"), side = golden.config("image_size");
  golden.check("border", (frame - side) / 2, golden.config("border"));
}

report::Scores scores_of(const Tensor& scores, const Tensor& labels) {
  report::Scores made{.examples = static_cast<std::size_t>(scores.size(0)),
                      .classes = static_cast<std::size_t>(scores.size(1)),
                      .scores = {},
                      .truth = {},
                      .truth_bits = {},
                      .losses = {}};
  const Tensor values = scores.to(at::kDouble).contiguous(), truth = labels.to(at::kLong).contiguous();
  made.scores.assign(values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel());
  made.truth.assign(truth.const_data_ptr<std::int64_t>(), truth.const_data_ptr<std::int64_t>() + truth.numel());
  return made;
}

void check_near(Case& golden, const std::string& what, double got, const Json& expected) {
  const bool near = std::abs(got - expected.get<double>()) <= 1e-6;
  golden.check(what, near ? expected : Json(got), expected);
}

void metrics(Case& golden) {
  const Json& expected = golden.json().at("expected");
  const report::Scores scores = scores_of(golden.take("scores"), golden.take("labels"));
  const report::CandidateSummary summary = report::summarise_candidates(scores);
  check_near(golden, "top1", summary.top1, expected.at("top1_mean"));
  if (summary.top5) check_near(golden, "top5", *summary.top5, expected.at("top5_mean"));
  const Tensor top1 = golden.take("top1"), top5 = golden.take("top5");
  for (std::size_t i = 0; i < scores.examples; ++i) {
    const auto row = scores.row(i);
    const report::Scores one{.examples = 1,
                             .classes = scores.classes,
                             .scores = {row.begin(), row.end()},
                             .truth = {scores.truth[i]},
                             .truth_bits = {},
                             .losses = {}};
    const report::CandidateSummary own = report::summarise_candidates(one);
    const auto at = static_cast<std::int64_t>(i);
    golden.check("top1 of " + std::to_string(i), own.top1 > 0, top1[at].item<std::int64_t>() != 0);
    golden.check("top5 of " + std::to_string(i), own.top5.value_or(1) > 0, top5[at].item<std::int64_t>() != 0);
  }

  const report::Scores binary = scores_of(golden.take("binary_scores"), golden.take("binary_labels"));
  std::vector<std::uint8_t> answered, truth;
  std::vector<double> differences;
  for (std::size_t i = 0; i < binary.examples; ++i) {
    differences.push_back(binary.row(i)[1] - binary.row(i)[0]);
    answered.push_back(differences.back() > 0 ? 1 : 0);
    truth.push_back(binary.truth[i] != 0 ? 1 : 0);
  }
  const report::YesNo counts = report::summarise_yes_no(answered, truth);
  const Json& says = expected.at("binary");
  golden.check("tp", counts.true_yes, says.at("tp"));
  golden.check("fp", counts.false_yes, says.at("fp"));
  golden.check("fn", counts.false_no, says.at("fn"));
  golden.check("tn", counts.true_no, says.at("tn"));
  check_near(golden, "accuracy", counts.accuracy, says.at("accuracy"));
  check_near(golden, "precision", counts.precision, says.at("precision"));
  check_near(golden, "recall", counts.recall, says.at("recall"));
  check_near(golden, "f1", counts.f1, says.at("f1"));
  check_near(golden, "yes_ratio", counts.yes_ratio, says.at("yes_ratio"));
  check_near(golden, "auc", report::yes_no_auc(differences, truth), says.at("auc"));

  const Json& counting = golden.json().at("clevr_counting");
  double hits = 0;
  for (const Json& example : counting.at("examples")) {
    const auto answer = example.at("answer").get<std::string>();
    golden.check(answer, report::counting_answer(answer), example.at("normalised"));
    const bool hit = report::counts_right(answer, example.at("truth").get<std::string>());
    golden.check(answer + " hits", hit, example.at("hit"));
    hits += hit ? 1 : 0;
  }
  check_near(golden, "counting accuracy", 100 * hits / static_cast<double>(counting.at("examples").size()),
             counting.at("accuracy_percent"));
}

}  // namespace

std::vector<Kind> tvp_data_kinds() {
  const auto says = [](const char* key) { return [key](const Case& golden) { return golden.json().contains(key); }; };
  const auto is_path = [](const Case& golden) {
    return golden.json().contains("config") && golden.json().at("config").contains("shorter_side_rule");
  };
  return {{"tvp: image path", is_path, preprocess}, {"tvp: metrics", says("clevr_counting"), metrics}};
}

}  // namespace mmtune::golden
