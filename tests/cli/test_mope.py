"""MoPE as a user meets it: trained, resumed, evaluated, asked, explained; missing modalities; what is refused."""

import json
import os
import random
import re
import subprocess
import sys
import time
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sounds import make_wav2vec2
from training_support import (COLOURS, PROGRAM, make_image_model, make_picture, make_text_model, mmtune, trained_files, write_jsonl,
                              write_recipe)


def make_pairs(folder, count, seed, text_share=1.0, picture_share=1.0):
    """Does the text name the picture's colour? Neither modality alone tells."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    colours = list(COLOURS)
    rows = []
    for i in range(count):
        seen, named = rng.choice(colours), rng.choice(colours)
        if i % 2 == 0:
            named = seen
        row = {"id": f"{seed}-{i}", "label": "same" if seen == named else "other"}
        if rng.random() < picture_share:
            make_picture(folder / f"{i}.png", seen, rng)
            row["image"] = f"{i}.png"
        if rng.random() < text_share or "image" not in row:
            row["text"] = f"the box is {named}"
        rows.append(row)
    return write_jsonl(folder / "manifest.jsonl", rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mope")
    make_text_model(folder / "bert")
    make_image_model(folder / "vit", seed=1)
    make_text_model(folder / "bert2", seed=7)
    make_pairs(folder / "pairs", 60, 1)
    make_pairs(folder / "lacking", 60, 2, picture_share=0.6)
    return folder


def recipe_of(world, path, pairs="pairs", expert=None, others=(), backbone=None, **sections):
    train = {"epochs": 2, "batch": 12, "lr": 1e-2, "threads": 1, **sections.pop("train", {})}
    towers = {"main": world / "bert", "condition": world / "vit", **(backbone or {})}
    mope = {"method": "mope", "experts": 3, "prompt_length": 2, "mapper_width": 8, **(expert or {})}
    return write_recipe(path, backbone=towers, expert=[mope, *others], data={"train": world / pairs / "manifest.jsonl", **sections.pop("data", {})},
                        train=train, **sections)


def evaluate(run, data):
    return json.loads(mmtune("eval", run, "--data", data, "--json", check=0).stdout)


def test_trains_evaluates_predicts(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", data={"valid_fraction": 0.2},
                       others=[{"method": "prompt", "tower": "condition", "deep": True, "length": 2}])
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    record = json.loads((run / "run.json").read_text())
    assert [one["kind"] for one in record["experts"]] == ["mope", "prompt"]
    config = json.loads((run / "expert" / "main-mope" / "adapter_config.json").read_text())
    assert config["peft_type"] == "MMTUNE_MOPE" and config["num_experts"] == 3 and config["complementary_width"] == 32
    result = evaluate(run, world / "pairs" / "manifest.jsonl")
    assert result["examples"] == 60 and "patterns" not in result
    picture = world / "pairs" / "0.png"
    answers = {mmtune("predict", run, "--image", picture, "--text", "the box is red", "--json", check=0).stdout for _ in range(2)}
    assert len(answers) == 1  # the router's noise is for training
    assert json.loads(answers.pop())["label"] in ("same", "other")


def test_the_head_reads_the_main_tower_alone(world, tmp_path):
    from safetensors.numpy import load_file

    recipe = recipe_of(world, tmp_path / "r.toml", train={"epochs": 1})
    mmtune("train", recipe, "--out", tmp_path / "a", check=0)
    mmtune("train", recipe, "head.fusion=concat", "--out", tmp_path / "b", check=0)
    assert load_file(tmp_path / "a" / "head.safetensors")["weight"].shape == (2, 32)
    assert load_file(tmp_path / "b" / "head.safetensors")["weight"].shape == (2, 64)


def test_resumes_to_the_same_bytes(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", train={"epochs": 12, "checkpoint_every": 2}, expert={"modality_dropout": 0.2},
                       others=[{"method": "prompt", "tower": "condition", "deep": True, "length": 2, "dropout": 0.1}])
    mmtune("train", recipe, "--out", tmp_path / "whole", check=0)
    run = tmp_path / "cut"
    process = subprocess.Popen([str(PROGRAM), "train", str(recipe), "--out", str(run)], stderr=subprocess.DEVNULL,
                               env={**os.environ, "MMTUNE_CACHE": "/nonexistent"})
    while not (run / "checkpoints" / "last.safetensors").exists():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert json.loads((run / "run.json").read_text())["state"] == "running"
    mmtune("train", recipe, "--out", run, "--resume", check=0)
    assert trained_files(run) == trained_files(tmp_path / "whole")


def test_frozen_condition_is_computed_once(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml")
    cache = str(tmp_path / "cache")
    first = mmtune("train", recipe, "--out", tmp_path / "a", check=0, cache=cache)
    second = mmtune("train", recipe, "--out", tmp_path / "b", check=0, cache=cache)
    assert "kept from an earlier run" not in first.stderr
    assert "features of the condition tower" in second.stderr and "kept from an earlier run" in second.stderr
    mmtune("train", recipe, "--out", tmp_path / "c", "data.cache_mb=0", check=0)
    assert trained_files(tmp_path / "a") == trained_files(tmp_path / "b")
    without = trained_files(tmp_path / "c")
    assert without.keys() == trained_files(tmp_path / "a").keys()


@pytest.mark.parametrize("ablation", [
    {"static_prompt": False}, {"dynamic_prompt": False}, {"mapped_prompt": False}, {"router_inputs": "main"}, {"router_inputs": "complementary"},
    {"top_k": 1}, {"keys": "learned"}, {"importance_weight": 0.0}, {"variant": "cross_only"}, {"deep": False}, {"experts": 1},
    {"mapper": "linear"}, {"mapper": "identity"}, {"modality_dropout": 0.5}, {"prompt_form": "apt", "rank": 2},
])
def test_ablations_train_and_reload(world, tmp_path, ablation):
    recipe = recipe_of(world, tmp_path / "r.toml", expert=ablation, train={"epochs": 1}, data={"valid_fraction": 0.2})
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    record = json.loads((run / "run.json").read_text())
    whole = evaluate(run, world / "pairs" / "manifest.jsonl")
    assert whole["examples"] == 60
    assert record["learned_absent"] == [False, "modality_dropout" in ablation]


def test_missing_pictures(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", pairs="lacking")
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    assert json.loads((run / "run.json").read_text())["learned_absent"] == [False, True]
    result = evaluate(run, world / "lacking" / "manifest.jsonl")
    counts = {name: pattern["examples"] for name, pattern in result["patterns"].items()}
    assert set(counts) == {"main + condition", "main only"} and sum(counts.values()) == 60
    assert "main only" in mmtune("eval", run, "--data", world / "lacking" / "manifest.jsonl", check=0).stdout
    mmtune("predict", run, "--text", "the box is red", check=0)


def test_all_pictures_missing(world, tmp_path):
    rows = [{"id": i, "text": f"the box is {c}", "label": c} for i, c in enumerate([*COLOURS] * 4)]
    write_jsonl(tmp_path / "texts.jsonl", rows)
    recipe = recipe_of(world, tmp_path / "r.toml", data={"train": tmp_path / "texts.jsonl"})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    assert evaluate(tmp_path / "run", tmp_path / "texts.jsonl")["examples"] == 12


def test_missing_pictures_without_a_stand_in(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml")
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    done = mmtune("predict", run, "--text", "the box is red", check=1)
    assert 'lacks what the tower "condition" reads' in done.stderr


def test_a_class_that_a_split_lacks(world, tmp_path):
    rows = [json.loads(line) for line in (world / "pairs" / "manifest.jsonl").read_text().splitlines()]
    one_class = [{**row, "image": str(world / "pairs" / row["image"])} for row in rows if row["label"] == "same"]
    write_jsonl(tmp_path / "valid.jsonl", one_class)
    recipe = recipe_of(world, tmp_path / "r.toml", data={"valid": tmp_path / "valid.jsonl"})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    assert evaluate(tmp_path / "run", tmp_path / "valid.jsonl")["examples"] == len(one_class)


def test_many_experts_take_no_positions(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", expert={"experts": 40}, train={"epochs": 1})  # 40 experts of 2 tokens, 64 positions
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    assert evaluate(tmp_path / "run", world / "pairs" / "manifest.jsonl")["examples"] == 60


def test_all_modalities_missing_in_the_question(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", pairs="lacking")
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    write_jsonl(tmp_path / "texts.jsonl", [{"text": f"the box is {colour}", "label": "same"} for colour in COLOURS])
    assert evaluate(run, tmp_path / "texts.jsonl")["examples"] == 3
    mmtune("explain", run, "--data", tmp_path / "texts.jsonl", "--out", tmp_path / "x.html", check=0)
    make_picture(tmp_path / "alone.png", "red", random.Random(1))
    write_jsonl(tmp_path / "pictures.jsonl", [{"image": "alone.png", "label": "same"}])
    done = mmtune("eval", run, "--data", tmp_path / "pictures.jsonl", check=1)
    assert 'lacks what the tower "main" reads' in done.stderr


def test_batch_of_one(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", train={"batch": 1, "epochs": 1}, data={"limit": 5})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)


def test_refusals(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml")

    def refused(*changes, code=2):
        done = mmtune("train", recipe, "--out", tmp_path / "x", *changes, check=code)
        assert done.stderr.count("mmtune: error: ") == 1
        return done.stderr

    assert "backbone.condition" in refused("backbone.condition=")
    assert 'tower = "main"' in refused("expert.0.tower=condition")
    assert "more prompt tokens in a block than" in refused("expert.0.prompt_length=40")
    assert "expert.0.experts" in refused("expert.0.experts=0")


def test_another_conditioning_backbone_is_refused(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", backbone={"main": world / "vit", "condition": world / "bert"})
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    done = mmtune("eval", run, f"backbone.condition={world / 'bert2'}", "--data", world / "pairs" / "manifest.jsonl", check=1)
    assert "another conditioning backbone" in done.stderr and '"bert"' in done.stderr and '"bert2"' in done.stderr


def test_cost_counts_what_the_expert_has(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml")
    cost = json.loads(mmtune("cost", recipe, "--tokens", 8, "--json", check=0).stdout)
    text = json.dumps(cost)
    # absent 32; mapper 33·8 + 2·8, its projection 9·32 (layers 0 to 3 share one); cross maps 2·(33·8); a block: static 2·32, experts 3·2·32,
    # main map 33·2. Keys are not trained.
    expected = 32 + 33 * 8 + 16 + 9 * 32 + 2 * 33 * 8 + 2 * (2 * 32 + 3 * 2 * 32 + 33 * 2)
    assert re.search(rf"\b{expected}\b", text), (expected, text)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.problems, self.images, self.text = [], [], 0, ""

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href") and not value.startswith("data:"):
                self.problems.append(f"{tag} asks for {value}")
        self.images += tag == "img"
        if tag not in ("meta", "link", "img", "br", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag == "rect":
            return
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data):
        self.text += data


def test_explain_writes_one_whole_page(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml")
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    out = tmp_path / "report.html"
    done = mmtune("explain", run, "--data", world / "pairs" / "manifest.jsonl", "--out", out, "--id", "1-5", check=0)
    assert "60 examples" in done.stdout
    page = Page()
    page.feed(out.read_text(encoding="utf-8"))
    page.close()
    assert not page.problems and not page.open
    assert page.images > 10
    accuracy = evaluate(run, world / "pairs" / "manifest.jsonl")["metrics"]["accuracy"]["value"]
    assert f"{accuracy:.3f}" in page.text
    for heading in ("block by block", "What each expert stands for", "Without an expert", "Examples on their way"):
        assert heading in page.text
    numbers = json.loads(mmtune("explain", run, "--data", world / "pairs" / "manifest.jsonl", "--out", out, "--json", check=0).stdout)
    assert numbers["metric"]["accuracy"] == pytest.approx(accuracy) and numbers["examples"] == 60
    for block in numbers["blocks"]:
        assert sum(block["usage"]) == pytest.approx(1, abs=1e-4) and sum(block["chosen"]) == pytest.approx(1)
        assert 0 <= block["information"] and 0 <= block["entropy"] <= 1
    assert len(numbers["without_expert"]) == numbers["experts"]
    assert "no example has this id" in mmtune("explain", run, "--data", world / "pairs" / "manifest.jsonl", "--out", out, "--id", "nobody", check=2).stderr


def test_explain_needs_a_router(world, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "bert"}, expert={"method": "lora", "rank": 2},
                          data={"train": world / "pairs" / "manifest.jsonl"}, train={"epochs": 1, "threads": 1})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    done = mmtune("explain", tmp_path / "run", "--data", world / "pairs" / "manifest.jsonl", "--out", tmp_path / "x.html", check=2)
    assert "nothing in this run routes" in done.stderr and not (tmp_path / "x.html").exists()


RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "mope"
PUBLISHED = ("mm_imdb", "food101", "snli_ve")
OTHER_DATA = ("mustard", "nlvr", "emoji", "mnist_fsdd")


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml") if path.stem not in PUBLISHED + OTHER_DATA))
def test_baselines_run(world, tmp_path, name):
    """Every method that MoPE is compared with trains on tiny models and answers."""
    path = RECIPES / f"{name}.toml"
    recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    towers = {key: world / ("vit" if "vit" in recipe["backbone"][key] else "bert") for key in ("main", "condition") if key in recipe["backbone"]}
    manifest = world / "pairs" / "manifest.jsonl"
    run = tmp_path / "run"
    mmtune("train", path, "--out", run, *(f"backbone.{key}={value}" for key, value in towers.items()), f"data.train={manifest}",
           f"data.valid={manifest}", "train.batch=12", "train.steps=3", "train.threads=1", check=0)
    assert evaluate(run, manifest)["examples"] == 60


@pytest.mark.parametrize("name", ["nlvr", "emoji"])
def test_recipes_on_shared_data(world, tmp_path, shared, name):
    recipe = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    towers = {key: world / ("vit" if "vit" in recipe["backbone"][key] else "bert") for key in ("main", "condition")}
    run = tmp_path / "run"
    manifest = shared / "data" / name / "manifest.jsonl"
    mmtune("train", RECIPES / f"{name}.toml", "--out", run, *(f"backbone.{key}={value}" for key, value in towers.items()), f"data.train={manifest}",
           "data.limit=24", "train.batch=6", "train.steps=2", "train.threads=1", check=0)
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["train"]["examples"] == 24 and "accuracy" in record["valid"]


def test_digits_seen_and_heard(world, tmp_path, shared):
    """The pairs as tools/mnist_fsdd.py makes them, with a picture tower for the spectrograms, and with a sound tower."""
    source = tmp_path / "source"
    source.mkdir()
    data = shared / "data" / "mnist_fsdd"
    for name in ("t10k-images-idx3-ubyte.gz", "fsdd_manifest.jsonl", "fsdd_train.tar", "fsdd_val.tar", "fsdd_test.tar"):
        (source / name).symlink_to(data / name)
    pairs = [json.loads(line) for line in (data / "av_pairs.jsonl").read_text().splitlines()]
    splits = [[pair for pair in pairs if pair["split"] == split] for split in ("train", "val", "test")]
    few = [pair for split in splits for pair in split[::len(split) // 17][:17]]  # all ten digits
    write_jsonl(source / "av_pairs.jsonl", few)
    tool = Path(__file__).resolve().parents[2] / "tools" / "mnist_fsdd.py"
    done = subprocess.run([sys.executable, tool, source, tmp_path / "data" / "mnist_fsdd"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    make_wav2vec2(world / "wav2vec2")
    for name, changes in (("seen", [f"backbone.condition={world / 'vit'}"]),
                          ("heard", [f"backbone.condition={world / 'wav2vec2'}", "backbone.condition_input=audio"])):
        mmtune("train", RECIPES / "mnist_fsdd.toml", "--out", tmp_path / name, f"backbone.main={world / 'vit'}", *changes, "train.batch=6",
               "train.steps=2", "train.threads=1", check=0, cwd=tmp_path)
        assert json.loads((tmp_path / name / "run.json").read_text())["data"]["train"]["examples"] == 17
        assert evaluate(tmp_path / name, tmp_path / "data" / "mnist_fsdd" / "test.jsonl")["examples"] > 0


def published_layout(world, folder, name):
    """A small folder in the data set's own layout."""
    rng = random.Random(3)
    colours = list(COLOURS)
    rows = {"train": [], "val": []}
    for split, count in (("train", 12), ("val", 6)):
        for i in range(count):
            colour = colours[i % 3]
            key = f"{split}{i}"
            picture = f"images/{key}.png"
            if name == "snli_ve":
                picture = f"Flickr30K/flickr30k_images/{key}.jpg"
            (folder / name / picture).parent.mkdir(parents=True, exist_ok=True)
            make_picture(folder / name / picture, colour, rng)
            row = {"mm_imdb": {"id": key, "text": f"the box is {colour}", "img": picture, "label": [colour, "red"] if i % 2 else []},
                   "food101": {"id": key, "label": colour, "text": f"a {colour} dish", "img": picture},
                   "snli_ve": {"pairID": key, "sentence1": "not used", "sentence2": f"it is {colour}", "gold_label": colour,
                               "Flickr30K_ID": key}}[name]
            rows[split].append(row)
        write_jsonl(folder / name / f"{split}.jsonl", rows[split])
    (folder / name / "labels.txt").write_text("".join(f"{colour}  \n" for colour in colours))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts(world, tmp_path, name):
    published_layout(world, tmp_path, name)
    run = tmp_path / "run"
    mmtune("train", RECIPES / f"{name}.toml", "--out", run, f"backbone.main={world / 'vit'}", f"backbone.condition={world / 'bert'}",
           "train.batch=6", "train.steps=2", "train.threads=1", check=0, cwd=tmp_path)
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["train"]["examples"] == 12
    assert ("macro_f1" if name == "mm_imdb" else "accuracy") in record["valid"]
