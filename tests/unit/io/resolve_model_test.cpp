#include <filesystem>

#include "io/checkpoint.h"
#include "support/support.h"

namespace mmtune::io {
namespace {

using test::ScopedVariable;

class ResolveModel : public testing::Test {
 protected:
  test::TempFolder folder_;
  ScopedVariable models_{"MMTUNE_MODELS", (folder_ / "models").c_str()};
  ScopedVariable hub_cache_{"HF_HUB_CACHE", nullptr};
  ScopedVariable hub_home_{"HF_HOME", (folder_ / "hf").c_str()};
};

TEST_F(ResolveModel, AFolderIsItself) {
  EXPECT_EQ(resolve_model(folder_.path().string()), folder_.path());
}

TEST_F(ResolveModel, ABundledModelByName) {
  folder_.write("models/tiny/config.json", "{}");
  EXPECT_EQ(resolve_model("tiny"), folder_ / "models/tiny");
}

TEST_F(ResolveModel, ARepositoryInTheCache) {
  folder_.write("hf/hub/models--google--vit/refs/main", "abc123\n");
  folder_.write("hf/hub/models--google--vit/snapshots/abc123/config.json", "{}");
  EXPECT_EQ(resolve_model("google/vit"), folder_ / "hf/hub/models--google--vit/snapshots/abc123");
  folder_.write("hub/models--bert-base/refs/main", "f00");
  folder_.write("hub/models--bert-base/snapshots/f00/config.json", "{}");
  const ScopedVariable cache("HF_HUB_CACHE", (folder_ / "hub").c_str());
  EXPECT_EQ(resolve_model("bert-base"), folder_ / "hub/models--bert-base/snapshots/f00");
}

TEST_F(ResolveModel, ARevisionCannotStepOutOfTheCache) {
  folder_.write("hf/hub/models--a--b/refs/main", "../../secret");
  folder_.write("hf/hub/secret/config.json", "{}");
  EXPECT_ERROR(resolve_model("a/b"), "a/b: no such model");
}

TEST_F(ResolveModel, SaysWhereItLooked) {
  const std::string message = test::error_of([] { resolve_model("nobody/nothing"); });
  EXPECT_NE(message.find((folder_ / "models/nobody/nothing").string()), std::string::npos) << message;
  EXPECT_NE(message.find((folder_ / "hf/hub/models--nobody--nothing").string()), std::string::npos) << message;
}

TEST_F(ResolveModel, Mistakes) {
  EXPECT_ERROR(resolve_model(""), "no model named");
  EXPECT_ERROR(resolve_model(folder_.write("model.safetensors", "").string()), "a model is a folder, not a file");
  EXPECT_ERROR(resolve_model("no\nsuch\x1bthing"), "no such model");
}

}  // namespace
}  // namespace mmtune::io
