#include "methods/task_graph.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "core/files.h"
#include "methods/similarity_kernel.h"
#include "nn/weights.h"

namespace mmtune::methods {
namespace {

namespace fs = std::filesystem;

class Graph : public testing::Test {
 public:
  Graph() : folder_(fs::temp_directory_path() / ("mmtune_graph_" + std::to_string(getpid()))) { fs::create_directories(folder_); }
  ~Graph() override { fs::remove_all(folder_); }

 protected:
  TaskEmbedding embedding(const std::string& task, const std::vector<at::Tensor>& tensors, const std::string& backbone = "b1",
                          const std::string& options = "sample") {
    EmbeddingInfo info{.task = task,
                       .run = "/runs/" + task,
                       .expert = task,
                       .kind = "lora",
                       .modality = "text",
                       .backbones = {backbone},
                       .backbone_names = {"model-" + backbone},
                       .options = options,
                       .examples = 4,
                       .batch = 2,
                       .mean_loss = 0.5,
                       .looped = ""};
    std::vector<io::TensorEntry> entries;
    for (std::size_t i = 0; i < tensors.size(); ++i)
      entries.push_back(nn::to_entry("main.encoder.layer." + std::to_string(i) + ".query.lora_A.weight", tensors[i]));
    const fs::path path = folder_ / (task + ".safetensors");
    io::write_safetensors(path, entries, {{"mmtune", to_json(info).dump()}});
    return TaskEmbedding::open(path);
  }
  static at::Tensor numbers(std::uint64_t seed, at::IntArrayRef shape = {5, 7}) {
    return at::empty(shape).normal_(0, 1e-3, at::detail::createCPUGenerator(seed)).square();
  }

  fs::path folder_;
};

void add(TaskGraph& graph, TaskEmbedding embedding, const std::string& name) {
  std::vector<TaskEmbedding> one;
  one.push_back(std::move(embedding));
  graph.add(one, {name});
}

std::string message(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

double reference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble).flatten(), y = b.to(at::kDouble).flatten(), sum = x + y + 1e-6;
  const at::Tensor u = x / sum, v = y / sum;
  return (u.dot(v) / (u.norm() * v.norm())).item<double>();
}

TEST(Similarity, KernelEqualsTheFormula) {
  for (const std::int64_t count : {1, 7, 16, 513, 3000}) {
    const at::Tensor a = at::rand({count}) * 1e-4, b = at::rand({count}) * 1e-5;
    const SimilaritySums sums = similarity_sums(a.const_data_ptr<float>(), b.const_data_ptr<float>(), count, 1e-6F);
    EXPECT_NEAR(sums.uv / std::sqrt(sums.uu * sums.vv), reference(a, b), 1e-6);
    const double cosine = (a.to(at::kDouble).dot(b.to(at::kDouble)) / (a.to(at::kDouble).norm() * b.to(at::kDouble).norm())).item<double>();
    EXPECT_NEAR(sums.ab / std::sqrt(sums.aa * sums.bb), cosine, 1e-12);
  }
}

TEST_F(Graph, MeansOverTensorsWithEqualWeight) {
  const at::Tensor a0 = numbers(1), b0 = numbers(2), a1 = numbers(3, {3}), b1 = numbers(4, {3});
  const PairSimilarity pair = compare(embedding("a", {a0, a1}), embedding("b", {b0, b1}));
  EXPECT_NEAR(pair.similarity, (reference(a0, b0) + reference(a1, b1)) / 2, 1e-6);
  EXPECT_EQ(pair.skipped, 0);
  // Proportional embeddings are the same in every tensor.
  EXPECT_NEAR(compare(embedding("a", {a0, a1}), embedding("c", {a0 * 3, a1 * 0.5})).similarity, 1.0, 1e-5);
}

TEST_F(Graph, ZeroTensorsAreLeftOutAndCounted) {
  const at::Tensor a0 = numbers(1), b0 = numbers(2);
  const PairSimilarity pair = compare(embedding("a", {a0, at::zeros({3})}), embedding("b", {b0, numbers(4, {3})}));
  EXPECT_EQ(pair.skipped, 1);
  EXPECT_NEAR(pair.similarity, reference(a0, b0), 1e-6);
  const TaskEmbedding first = embedding("x", {a0, at::zeros({3})}), second = embedding("y", {at::zeros({5, 7}), numbers(3, {3})});
  EXPECT_NE(message([&] { compare(first, second); }).find("no tensor is other than zero in both"), std::string::npos);
}

TEST_F(Graph, RefusesWhatCannotBeCompared) {
  const TaskEmbedding a = embedding("a", {numbers(1)});
  EXPECT_NE(message([&] { compare(a, embedding("b", {numbers(2)}, "b2")); }).find("different backbones"), std::string::npos);
  const std::string shapes = message([&] { compare(a, embedding("longer", {numbers(2, {9, 7})})); });
  EXPECT_NE(shapes.find("different shapes"), std::string::npos) << shapes;
  EXPECT_NE(shapes.find("\"longer\" beside \"a\""), std::string::npos) << shapes;
  EXPECT_NE(shapes.find("[9, 7]"), std::string::npos) << shapes;
  EXPECT_NE(message([&] { compare(a, embedding("c", {numbers(2), numbers(3)})); }).find("different sites"), std::string::npos);
  EXPECT_NE(message([&] { compare(a, embedding("d", {numbers(2)}, "b1", "token")); }).find("different ways"), std::string::npos);
}

TEST_F(Graph, RefusesZeroAndInfiniteEmbeddings) {
  EXPECT_NE(message([&] { embedding("z", {at::zeros({2, 2})}); }).find("zero throughout"), std::string::npos);
  EXPECT_NE(message([&] { embedding("i", {at::full({2, 2}, INFINITY)}); }).find("infinite"), std::string::npos);
  EXPECT_NE(message([&] { embedding("n", {at::full({2, 2}, -1.0)}); }).find("negative"), std::string::npos);
}

TEST_F(Graph, AddingEqualsBuilding) {
  const std::vector<at::Tensor> all = {numbers(1), numbers(2), numbers(3)};
  TaskGraph whole, grown;
  for (std::size_t i = 0; i < 3; ++i) add(whole, embedding("t" + std::to_string(i), {all[i]}), "t" + std::to_string(i));
  for (std::size_t i = 0; i < 2; ++i) add(grown, embedding("t" + std::to_string(i), {all[i]}), "t" + std::to_string(i));
  const fs::path file = folder_ / "graph.json";
  grown.save(file);
  TaskGraph again = TaskGraph::open(file);
  add(again, embedding("t2", {all[2]}), "t2");
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j) {
      EXPECT_EQ(again.similarity(i, j), whole.similarity(i, j));
      EXPECT_EQ(again.similarity(i, j), again.similarity(j, i));
      EXPECT_EQ(again.by_layer(i, j).size(), i == j ? 0U : 1U);
      EXPECT_EQ(again.similarity(i, j) == 1.0, i == j);
    }
  EXPECT_EQ(again.layers(), std::vector<std::string>{"main: layer 0"});
  EXPECT_NE(message([&] { add(again, embedding("t1", {all[1]}), "t1"); }).find("same name"), std::string::npos);
  fs::remove(folder_ / "t0.safetensors");
  EXPECT_NE(message([&] { add(again, embedding("t3", {all[1]}), "t3"); }).find("is gone"), std::string::npos);
}

/// Many at once are chunks of coordinates: components longer than one, and shorter ones.
TEST_F(Graph, AllAtOnceIsOneByOneAndTheFormula) {
  constexpr std::size_t count = 70;
  constexpr std::int64_t length = 9001;  // 70 embeddings share chunks of 7,168 numbers
  std::vector<TaskEmbedding> embeddings;
  std::vector<std::string> names;
  std::vector<std::vector<at::Tensor>> tensors;
  for (std::size_t i = 0; i < count; ++i) {
    tensors.push_back({numbers(3 * i, {length}), numbers(3 * i + 1, {4, 3}), i % 5 == 0 ? at::zeros({40}) : numbers(3 * i + 2, {40})});
    names.push_back("t" + std::to_string(i));
    embeddings.push_back(embedding(names.back(), tensors.back()));
  }
  EXPECT_EQ(chunk_count(embeddings.front(), count), 4);
  TaskGraph whole, grown;
  double share = 0;
  whole.add(embeddings, names, [&](double now) {
    EXPECT_GT(now, share);
    share = now;
  });
  EXPECT_DOUBLE_EQ(share, 1.0);
  for (std::size_t i = 0; i < 3; ++i) add(grown, embedding(names[i], tensors[i]), names[i]);
  for (const auto& [i, j] : {std::pair<std::size_t, std::size_t>{0, 1}, {1, 2}, {3, 69}, {5, 10}, {64, 66}, {31, 68}}) {
    double sum = 0;
    std::int64_t compared = 0;
    std::vector<at::Tensor> a, b;
    for (std::size_t c = 0; c < 3; ++c) {
      a.push_back(tensors[i][c].flatten().to(at::kDouble));
      b.push_back(tensors[j][c].flatten().to(at::kDouble));
      if (c == 2 && (i % 5 == 0 || j % 5 == 0)) continue;
      sum += reference(tensors[i][c], tensors[j][c]);
      ++compared;
    }
    EXPECT_EQ(whole.skipped(i, j), 3 - compared);
    EXPECT_NEAR(whole.similarity(i, j), sum / static_cast<double>(compared), 1e-6);
    EXPECT_EQ(whole.by_layer(i, j).size(), 3U);
    EXPECT_EQ(std::isnan(whole.by_layer(i, j)[2]), compared == 2);
    EXPECT_NEAR(whole.by_layer(i, j)[0], reference(tensors[i][0], tensors[j][0]), 1e-6);
    const at::Tensor x = at::cat(a), y = at::cat(b);
    EXPECT_NEAR(whole.cosine(i, j), (x.dot(y) / (x.norm() * y.norm())).item<double>(), 1e-9);
    const PairSimilarity alone = compare(embeddings[i], embeddings[j]);
    EXPECT_EQ(whole.similarity(i, j), alone.similarity);
    EXPECT_NEAR(whole.cosine(i, j), alone.cosine, 1e-12);
    if (j < 3) {
      EXPECT_EQ(whole.similarity(i, j), grown.similarity(i, j));
      EXPECT_NEAR(whole.cosine(i, j), grown.cosine(i, j), 1e-12);
    }
  }
  // One that does not fit leaves the graph as it was.
  std::vector<TaskEmbedding> more;
  more.push_back(embedding("good", tensors[0]));
  more.push_back(embedding("bad", {numbers(1)}));
  EXPECT_NE(message([&] { grown.add(more, {"good", "bad"}); }).find("different"), std::string::npos);
  EXPECT_EQ(grown.size(), 3U);
}

TEST_F(Graph, NeighboursAndTies) {
  TaskGraph graph;
  const at::Tensor same = numbers(1);
  add(graph, embedding("a", {numbers(5)}), "a");
  add(graph, embedding("b", {same}), "b");
  add(graph, embedding("c", {same.clone()}), "c");
  add(graph, embedding("d", {same.clone()}), "d");
  EXPECT_EQ(graph.neighbours(3, 3), (std::vector<std::size_t>{1, 2, 0}));
  EXPECT_EQ(graph.neighbours(0, 2), (std::vector<std::size_t>{1, 2}));  // equal ones: the lower index first
  EXPECT_EQ(graph.strangers(3, 1), (std::vector<std::size_t>{0}));
  EXPECT_NE(message([&] { graph.neighbours(0, 4); }).find("too few tasks"), std::string::npos);
  EXPECT_NE(message([&] { graph.index_of("e"); }).find("no such task"), std::string::npos);
  EXPECT_EQ(graph.index_of("/runs/c"), 2U);
  const std::vector<std::size_t> order = graph.clustered();
  EXPECT_EQ(order.size(), 4U);
  EXPECT_TRUE(order.front() == 0 || order.back() == 0);
  TaskGraph lonely;
  add(lonely, embedding("only", {same}), "only");
  EXPECT_NE(message([&] { lonely.neighbours(0, 1); }).find("a graph of two tasks and more"), std::string::npos);
}

TEST_F(Graph, DamagedFilesAreRefused) {
  TaskGraph graph;
  add(graph, embedding("a", {numbers(5)}), "a");
  add(graph, embedding("b", {numbers(6)}), "b");
  const fs::path file = folder_ / "graph.json";
  graph.save(file);
  Json json = read_json_file(file);
  const auto refused = [&](const Json& changed) {
    write_file_atomically(file, changed.dump());
    return message([&] { TaskGraph::open(file); });
  };
  Json other = json;
  other["similarity"][0][1] = 7;
  EXPECT_NE(refused(other).find("out of range"), std::string::npos);
  other = json;
  other["similarity"][0][1] = 0.5;
  EXPECT_NE(refused(other).find("symmetric"), std::string::npos);
  other = json;
  other.erase("tasks");
  EXPECT_NE(refused(other).find("damaged"), std::string::npos);
  EXPECT_NE(refused(Json::array()).find("not a task graph"), std::string::npos);
}

TEST(TaskGraph, LayersByTheirNames) {
  EXPECT_EQ(layer_of_component("main.lora.encoder.layer.3.attention.self.query.lora_A.weight"), "main: layer 3");
  EXPECT_EQ(layer_of_component("main.lora.encoder.layers.1.blocks.0.attention.self.query.lora_A.weight"), "main: stage 1, block 0");
  EXPECT_EQ(layer_of_component("main.prefix.prompt_embeddings"), "main: outside the blocks");
  EXPECT_EQ(layer_of_component("main.adapter.decoder.layers.2.x"), "main: decoder layer 2");
}

}  // namespace
}  // namespace mmtune::methods
