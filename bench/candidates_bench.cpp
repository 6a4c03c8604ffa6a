// bench/candidates.py: the likelihoods of candidate answers about a picture, as a tree behind one prompt and by one pass a candidate, on a
// LLaVA with random weights.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "backbones/multimodal_lm.h"

namespace {

using namespace mmtune;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 7) {
    std::fprintf(stderr, "usage: candidates_bench ROUNDS THREADS CANDIDATES TOKENS LAYERS VOCABULARY\n");
    return 2;
  }
  const auto number = [&](int i) { return std::atoll(arguments[i]); };
  const std::int64_t rounds = number(1), candidates = number(3), tokens = number(4), layers = number(5), words = number(6);
  at::set_num_threads(static_cast<int>(number(2)));
  const at::NoGradGuard no_grad;
  const Json config = {{"model_type", "llava"},
                       {"image_token_index", 4},
                       {"vision_config",
                        {{"model_type", "clip_vision_model"},
                         {"hidden_size", 768},
                         {"intermediate_size", 3072},
                         {"num_hidden_layers", layers},
                         {"num_attention_heads", 12},
                         {"image_size", 224},
                         {"patch_size", 16}}},
                       {"text_config",
                        {{"model_type", "llama"},
                         {"hidden_size", 768},
                         {"intermediate_size", 2048},
                         {"num_hidden_layers", layers},
                         {"num_attention_heads", 12},
                         {"vocab_size", words},
                         {"max_position_embeddings", 512}}}};
  const auto backbone = backbones::fresh_backbone(config, 1);
  auto& model = dynamic_cast<backbones::MultimodalLm&>(*backbone);
  backbones::PromptFormat format = model.format();
  format.training = {.before = {1, 20, 21, 22}, .behind = {13}, .tail = {23, 24, 25}};
  format.scoring = format.generation = format.training;
  format.answer_end = {2};
  model.set_format(format);
  nn::Context context;
  context.matmul_precision = nn::MatmulPrecision::high;

  const at::Generator generator = at::detail::createCPUGenerator(2);
  const at::Tensor drawn = at::randint(30, words, {candidates, tokens}, generator, at::kLong);
  std::vector<backbones::TokenIds> all;
  for (std::int64_t c = 0; c < candidates; ++c) {
    const at::Tensor one = drawn[c].contiguous();
    all.emplace_back(one.const_data_ptr<std::int64_t>(), one.const_data_ptr<std::int64_t>() + tokens);
  }
  const std::vector<backbones::Instruction> instructions = {{.words = {40, 41, 42, 43, 44, 45}, .qformer = {}}};
  const backbones::ScoreOptions sums{.reduction = backbones::ScoreReduction::sum, .format = backbones::SequenceFormat::consistent};
  std::vector<double> tree, each;
  double difference = 0;
  for (std::int64_t round = 0; round < rounds; ++round) {
    // In both the picture is encoded once.
    const at::Tensor visual = model.encode(at::randn({1, 3, 224, 224}, generator, at::kFloat), instructions, context).tokens;
    auto begin = std::chrono::steady_clock::now();
    const at::Tensor scores = model.candidate_scores(visual, instructions, all, sums, context);
    tree.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    begin = std::chrono::steady_clock::now();
    std::vector<double> by_pass;
    for (const backbones::TokenIds& one : all)
      by_pass.push_back(-model.task_loss(visual, instructions, {&one, 1}, context).sum.item<double>());
    each.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    for (std::int64_t c = 0; c < candidates; ++c)
      difference = std::max(difference, std::abs(by_pass[static_cast<std::size_t>(c)] - scores[0][c].item<double>()));
  }
  std::printf(
      "{\"work\": \"scores of %lld candidates of %lld tokens about a picture, LLaVA of ViT-B/16 and a LLaMA of %lld layers and width "
      "768\", "
      "\"tree_seconds\": %.4f, \"pass_seconds\": %.4f, \"pass_over_tree\": %.2f, \"largest_difference\": %.2e}\n",
      static_cast<long long>(candidates), static_cast<long long>(tokens), static_cast<long long>(layers), median(tree), median(each),
      median(each) / median(tree), difference);
  return 0;
}
