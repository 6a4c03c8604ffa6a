#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "core/nearest.h"
#include "core/recipe.h"

namespace sample {

using mmtune::OptionVisitor;

enum class Schedule { constant, cosine };

struct Train {
  std::int64_t epochs = 3;
  double lr = 1e-3;
  std::optional<double> clip;
  Schedule schedule = Schedule::cosine;
  std::vector<double> betas = {0.9, 0.999};
  bool shuffle = true;
};
void declare(OptionVisitor& v, Train& o) {
  v.field("epochs", o.epochs, {.help = "passes over the data", .min = 1});
  v.field("lr", o.lr, {.help = "peak learning rate", .above = 0, .below = 10});
  v.field("clip", o.clip, {.help = "largest gradient norm", .above = 0, .unset = "no clipping"});
  v.choice("schedule", o.schedule, {{"constant", Schedule::constant, "stays"}, {"cosine", Schedule::cosine, "falls to zero"}},
           {.help = "course of the learning rate"});
  v.field("betas", o.betas, {.help = "decay of the moments", .min = 0, .below = 1, .min_items = 2});
  v.field("shuffle", o.shuffle, {.help = "a new order every epoch"});
  v.require("lr", o.lr < 1 || o.epochs == 1, "below 1 when there is more than one epoch");
}

struct Lora {
  std::int64_t rank = 8;
  double alpha = 16;
};
void declare(OptionVisitor& v, Lora& o) {
  v.field("rank", o.rank, {.help = "rank of the update", .min = 1});
  v.field("alpha", o.alpha, {.help = "scale of the update"});
}

struct Prompt {
  std::int64_t length = 10;
};
void declare(OptionVisitor& v, Prompt& o) {
  v.field("length", o.length, {.help = "number of tokens", .min = 1, .max = 512});
}

struct Expert {
  std::string method = "lora";
  std::string name;
  Lora lora;
  Prompt prompt;
};
void declare(OptionVisitor& v, Expert& o) {
  v.field("name", o.name, {.help = "label in tables"});
  v.variants("method", o.method,
             {{"lora", "low-rank update", [&](OptionVisitor& inner) { declare(inner, o.lora); }},
              {"prompt", "learned tokens", [&](OptionVisitor& inner) { declare(inner, o.prompt); }}},
             {.help = "kind of expert"});
}

struct Data {
  std::string train;
  std::vector<std::string> classes;
  std::map<std::string, std::string> columns;
  std::vector<std::int64_t> shots;
};
void declare(OptionVisitor& v, Data& o) {
  v.field("train", o.train, {.help = "manifest", .required = true});
  v.field("classes", o.classes, {.help = "label names in order"});
  v.field("columns", o.columns, {.help = "our field to the file's"});
  v.field("shots", o.shots, {.help = "examples a class", .min = 1});
}

struct Stop {
  std::string metric = "accuracy";
};
void declare(OptionVisitor& v, Stop& o) {
  v.field("metric", o.metric, {.help = "what to watch", .choices = {"accuracy", "loss"}});
}

struct Recipe {
  std::string task = "classify";
  Data data;
  Train train;
  std::vector<Expert> experts;
  std::optional<Stop> stop;
};
void declare(OptionVisitor& v, Recipe& o) {
  v.field("task", o.task, {.help = "what is learned", .choices = {"classify", "retrieve"}});
  v.table("data", o.data, {.help = "the examples"});
  v.table("train", o.train, {.help = "the loop"});
  v.tables("expert", o.experts, {.help = "what is trained"});
  v.table("stop", o.stop, {.help = "early stopping"});
}

}  // namespace sample

namespace mmtune {
namespace {

constexpr const char* minimal = "[data]\ntrain = \"t.jsonl\"\n";

sample::Recipe read(const std::string& text, const std::vector<std::string>& assignments = {}) {
  TomlValue root = parse_toml(text, "r.toml");
  for (const std::string& assignment : assignments) apply_assignment(root, assignment);
  return read_options<sample::Recipe>(root);
}

std::string failure(const std::string& text, const std::vector<std::string>& assignments = {}) {
  try {
    read(text, assignments);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Options, DefaultsComeFromTheStruct) {
  const sample::Recipe recipe = read(minimal);
  EXPECT_EQ(recipe.data.train, "t.jsonl");
  EXPECT_EQ(recipe.train.epochs, 3);
  EXPECT_EQ(recipe.train.schedule, sample::Schedule::cosine);
  EXPECT_FALSE(recipe.stop.has_value());
  EXPECT_TRUE(recipe.experts.empty());
}

TEST(Options, ReadsEveryType) {
  const sample::Recipe recipe = read(R"(
    task = "retrieve"
    [data]
    train = 'a.jsonl'
    classes = ["x", "y"]
    columns = {image = "picture", "odd name" = "b"}
    shots = [1, 2]
    [train]
    lr = 1          # an integer where a number is wanted
    epochs = 1
    clip = 0.5
    schedule = "constant"
    betas = [0, 0.5]
    shuffle = false
    [[expert]]
    rank = 4
    [[expert]]
    method = "prompt"
    length = 7
    [stop]
  )");
  EXPECT_EQ(recipe.task, "retrieve");
  EXPECT_EQ(recipe.data.classes, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(recipe.data.columns.at("odd name"), "b");
  EXPECT_EQ(recipe.data.shots, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(recipe.train.lr, 1.0);
  EXPECT_EQ(recipe.train.clip, 0.5);
  EXPECT_EQ(recipe.train.schedule, sample::Schedule::constant);
  EXPECT_FALSE(recipe.train.shuffle);
  ASSERT_EQ(recipe.experts.size(), 2U);
  EXPECT_EQ(recipe.experts[0].lora.rank, 4);
  EXPECT_EQ(recipe.experts[1].method, "prompt");
  EXPECT_EQ(recipe.experts[1].prompt.length, 7);
  ASSERT_TRUE(recipe.stop.has_value());
  EXPECT_EQ(recipe.stop->metric, "accuracy");
}

TEST(Options, UnknownKeysNameTheNearestOne) {
  EXPECT_EQ(failure(std::string(minimal) + "[train]\nepoch = 3\n"), "r.toml:4:1: unknown key 'train.epoch' (did you mean 'train.epochs'?)");
  EXPECT_EQ(failure(std::string("taks = 'classify'\n") + minimal), "r.toml:1:1: unknown key 'taks' (did you mean 'task'?)");
  EXPECT_EQ(failure(std::string(minimal) + "[stop]\nzzz = 1\n"), "r.toml:4:1: unknown key 'stop.zzz' (known here: metric)");
}

TEST(Options, KeysOfAnotherVariantAreExplained) {
  EXPECT_EQ(failure(std::string(minimal) + "[expert]\nmethod = 'prompt'\nrank = 3\n"),
            "r.toml:5:1: unknown key 'expert.rank' (it is a key of method = \"lora\", not of \"prompt\")");
  EXPECT_EQ(failure(std::string(minimal) + "[expert]\nmethod = 'promt'\nlength = 3\n"),
            "r.toml:4:10: expert.method: expected one of lora, prompt, got \"promt\" (did you mean \"prompt\"?)");
}

TEST(Options, TypesAndRangesAreChecked) {
  EXPECT_EQ(failure(std::string(minimal) + "[train]\nepochs = 0\n"), "r.toml:4:10: train.epochs: expected an integer >= 1, got 0");
  EXPECT_EQ(failure(std::string(minimal) + "[train]\nepochs = 1.5\n"), "r.toml:4:10: train.epochs: expected an integer >= 1, got 1.5");
  EXPECT_EQ(failure(std::string(minimal) + "[train]\nlr = \"1\"\n"), "r.toml:4:6: train.lr: expected a number > 0 and < 10, got \"1\"");
  EXPECT_EQ(failure(std::string(minimal) + "[train]\nlr = nan\n"), "r.toml:4:6: train.lr: expected a number > 0 and < 10, got nan");
  EXPECT_EQ(failure(std::string(minimal) + "[train]\nbetas = [0.9, 1.0]\n"),
            "r.toml:4:15: train.betas[1]: expected a number >= 0 and < 1, got 1.0");
  EXPECT_EQ(failure(std::string(minimal) + "[train]\nbetas = [0.9]\n"),
            "r.toml:4:9: train.betas: expected a list of at least 2 numbers >= 0 and < 1, got a list of 1");
  EXPECT_EQ(failure("[data]\ntrain = ''\n"), "r.toml:2:9: data.train: expected a string that is not empty, got \"\"");
  EXPECT_EQ(failure(std::string(minimal) + "columns = {a = 'x', \"b c\" = 3}\n"),
            "r.toml:3:29: data.columns.\"b c\": expected a string, got 3");
  EXPECT_EQ(failure("data = 3\n"), "r.toml:1:8: data: expected a table, got 3");
  EXPECT_EQ(failure("[data]\ntrain = 2020-01-01\n"), "r.toml:2:9: data.train: expected a string that is not empty, got a date or time");
  EXPECT_EQ(failure(std::string(minimal) + "classes = \"a\"\n"), "r.toml:3:11: data.classes: expected a list of strings, got \"a\"");
}

TEST(Options, MissingKeysAndConditionsComeAfterWrongOnes) {
  EXPECT_EQ(failure("[train]\nepochs = 2\n"), "r.toml: missing key 'data.train': expected a string that is not empty: manifest");
  EXPECT_EQ(failure("[data]\nclasses = []\n"), "r.toml:1:1: missing key 'data.train': expected a string that is not empty: manifest");
  EXPECT_EQ(failure("[data]\ntrian = 'x'\n"), "r.toml:2:1: unknown key 'data.trian' (did you mean 'data.train'?; and 1 more mistake)");
  EXPECT_EQ(failure(std::string(minimal) + "[train]\nlr = 2\nepochs = 2\n"),
            "r.toml:4:6: train.lr: expected below 1 when there is more than one epoch, got 2");
}

TEST(Options, SyntaxErrorsHavePositions) {
  const std::string line = failure("[data]\ntrain = \n");
  EXPECT_TRUE(line.starts_with("r.toml:2:")) << line;
  EXPECT_EQ(failure("a = 1\na = 2\n"), "r.toml:2:5: key-value pair: cannot redefine existing integer 'a'");
  EXPECT_NE(failure("a = \"\xff\"\n"), "no error");
}

TEST(Options, DeepNestingIsRefused) {
  EXPECT_EQ(failure("x = " + std::string(100000, '[')), "r.toml:1: nesting of brackets is too deep: expected at most 16 levels");
  std::string dotted = "a";
  for (int i = 0; i < 100000; ++i) dotted += ".a";
  EXPECT_EQ(failure(dotted + " = 1"), "r.toml:1: dotted key is too deep: expected at most 16 levels");
  const std::string text = "task = \"" + std::string(100, '[') + "\"\n# " + std::string(100, '{') + "\n" + minimal;
  EXPECT_TRUE(failure(text).starts_with("r.toml:1:8: task: expected one of")) << failure(text);
}

TEST(Options, AssignmentsChangeTheRecipe) {
  const std::string text = std::string(minimal) + "[train]\nepochs = 9\n[[expert]]\n[[expert]]\nmethod = 'prompt'\n";
  const sample::Recipe recipe =
      read(text, {"train.lr=.5", "train.epochs=2", "data.train=dir/a=b.jsonl", "data.classes=one, two", "data.shots=[4,8]",
                  "train.betas=0.1,0.2", "expert.1.length=3", "data.columns.\"a b\"=1", "stop.metric=loss", "train.shuffle=false"});
  EXPECT_EQ(recipe.train.lr, 0.5);
  EXPECT_EQ(recipe.train.epochs, 2);
  EXPECT_EQ(recipe.data.train, "dir/a=b.jsonl");
  EXPECT_EQ(recipe.data.classes, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(recipe.data.shots, (std::vector<std::int64_t>{4, 8}));
  EXPECT_EQ(recipe.train.betas, (std::vector<double>{0.1, 0.2}));
  EXPECT_EQ(recipe.experts[1].prompt.length, 3);
  EXPECT_EQ(recipe.data.columns.at("a b"), "1");
  EXPECT_EQ(recipe.stop->metric, "loss");
  EXPECT_FALSE(recipe.train.shuffle);
}

TEST(Options, AssignmentsReachASingleListedTableDirectly) {
  EXPECT_EQ(read(std::string(minimal) + "[[expert]]\n", {"expert.rank=2"}).experts.at(0).lora.rank, 2);
  EXPECT_EQ(read(minimal, {"expert.rank=2"}).experts.at(0).lora.rank, 2);
}

TEST(Options, BadAssignmentsNameTheArgument) {
  const std::string two = std::string(minimal) + "[[expert]]\n[[expert]]\n";
  EXPECT_EQ(failure(minimal, {"train.epochs=many"}), "argument 'train.epochs=many': train.epochs: expected an integer >= 1, got \"many\"");
  EXPECT_EQ(failure(minimal, {"train.epoch=1"}), "argument 'train.epoch=1': unknown key 'train.epoch' (did you mean 'train.epochs'?)");
  EXPECT_EQ(failure(minimal, {"train"}),
            "argument 'train': cannot be understood: expected key=value with a dotted key, like train.lr=1e-3");
  EXPECT_NE(failure(minimal, {"=3"}), "no error");
  EXPECT_NE(failure(minimal, {"a..b=3"}), "no error");
  EXPECT_EQ(failure(two, {"expert.rank=1"}),
            "argument 'expert.rank=1': cannot be understood: expected the number of one of the 2 tables before 'rank'");
  EXPECT_EQ(failure(two, {"expert.7.rank=1"}), "argument 'expert.7.rank=1': cannot be understood: expected a number below 2 in place of 7");
  EXPECT_EQ(failure(minimal, {"data.train.x=1"}),
            "argument 'data.train.x=1': cannot be understood: expected a table where 'x' is to be set");
}

TEST(Options, WrittenOptionsReadBackExactly) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    sample::Recipe recipe;
    recipe.data.train = "quote \" back \\ tab \t line \n bell \x07 é 漢";
    recipe.data.columns = {{"a b", "1"}, {"", "x"}, {"plain", "\x7f"}};
    recipe.data.classes = {"", "a,b", "[x]"};
    recipe.train.betas = {0.1, 0.25};
    recipe.train.clip = 1e-300;
    do {
      const std::uint64_t bits = random();
      std::memcpy(&recipe.train.lr, &bits, sizeof bits);
    } while (!(recipe.train.lr > 0 && recipe.train.lr < 1));
    recipe.experts.resize(2);
    recipe.experts[1].method = "prompt";
    recipe.experts[1].prompt.length = 5;
    recipe.stop.emplace();
    const std::string text = write_options(recipe);
    const sample::Recipe back = read(text);
    EXPECT_EQ(back.train.lr, recipe.train.lr);
    EXPECT_EQ(back.train.clip, recipe.train.clip);
    EXPECT_EQ(back.data.train, recipe.data.train);
    EXPECT_EQ(back.data.columns, recipe.data.columns);
    EXPECT_EQ(back.data.classes, recipe.data.classes);
    EXPECT_EQ(back.experts[1].prompt.length, 5);
    EXPECT_EQ(write_options(back), text);
  }
}

TEST(Options, WrittenRecipeIsPlainToml) {
  EXPECT_EQ(write_options(sample::Recipe{}), R"(task = "classify"
expert = []

[data]
train = ""
classes = []
shots = []

[data.columns]

[train]
epochs = 3
lr = 0.001
schedule = "cosine"
betas = [0.9, 0.999]
shuffle = true
)");
}

TEST(Options, DocumentationNamesEverything) {
  const auto entries = document_options<sample::Recipe>();
  const std::string page = options_as_markdown(entries);
  EXPECT_NE(page.find("| `lr` | a number > 0 and &lt; 10 | `0.001` | peak learning rate |"), std::string::npos) << page;
  EXPECT_NE(page.find("| `clip` | a number > 0 | no clipping | largest gradient norm |"), std::string::npos) << page;
  EXPECT_NE(page.find("| `train` | a string that is not empty | required | manifest |"), std::string::npos) << page;
  EXPECT_NE(page.find("## `[[expert]]`"), std::string::npos) << page;
  EXPECT_NE(page.find("### `[[expert]]` with `method = \"prompt\"`"), std::string::npos) << page;
  EXPECT_NE(page.find("`cosine`: falls to zero"), std::string::npos) << page;
  const std::string help = options_as_help(entries, 60);
  EXPECT_NE(help.find("  epochs: an integer >= 1 (default 3)\n      passes over the data\n"), std::string::npos) << help;
  std::size_t begin = 0;
  while (begin < help.size()) {
    const std::size_t end = help.find('\n', begin);
    EXPECT_LE(end - begin, 60U) << help.substr(begin, end - begin);
    begin = end + 1;
  }
}

TEST(Nearest, PrefersWhatWasMeant) {
  const std::vector<std::string> keys = {"batch", "epochs", "lr", "seed", "workers"};
  EXPECT_EQ(nearest("bacth", keys), "batch");
  EXPECT_EQ(nearest("epoch", keys), "epochs");
  EXPECT_EQ(nearest("Lr", keys), "lr");
  EXPECT_EQ(nearest("qqqqqq", keys), std::nullopt);
  EXPECT_EQ(nearest("xy", keys), std::nullopt);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("ab", "ba"), 1U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
}

}  // namespace
}  // namespace mmtune
