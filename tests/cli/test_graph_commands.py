"""Task embeddings, the task graph and averaged experts as a user meets them: from three trained runs to a merged expert that predicts."""

import json
import math
import random
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from training_support import COLOURS, FILLERS, make_text_model, make_texts, mmtune, sentence, trained_files, write_jsonl, write_recipe


def make_position_texts(path, count, seed):
    """Another task over the same words: does the sentence begin with a colour?"""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        words = rng.choices(FILLERS, k=rng.randint(3, 8))
        words.insert(0 if i % 2 else rng.randint(1, len(words)), rng.choice(list(COLOURS)))
        rows.append({"id": f"p{i}", "text": " ".join(words), "label": "first" if i % 2 else "later"})
    return write_jsonl(path, rows)


def test_one_expert_for_several_tasks(tmp_path, world):
    """The recipe of the multi-task baseline on one manifest with the labels of two tasks; each task is judged by itself."""
    from training_support import ROOT

    rng = random.Random(6)
    others = [word for word in FILLERS if word not in ("lamp", "chair")]
    things = []
    for i in range(60):
        words = rng.choices(others, k=rng.randint(3, 8))
        words.insert(rng.randint(0, len(words)), ("lamp", "chair")[i % 2])
        things.append({"id": f"thing{i}", "text": " ".join(words), "label": ("lamp", "chair")[i % 2]})
    write_jsonl(tmp_path / "things.jsonl", things)
    (tmp_path / "all.jsonl").write_text((world / "colours.jsonl").read_text() + (tmp_path / "things.jsonl").read_text())
    mmtune("train", ROOT / "recipes" / "pi" / "multi_task.toml", f"backbone.main={world / 'bert'}", f"data.train={tmp_path / 'all.jsonl'}",
           "train.epochs=40", "train.batch=12", "train.lr=3e-3", "train.threads=1", 'expert.targets=["query", "value", "dense"]',
           "--out", tmp_path / "run", check=0)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["state"] == "finished" and record["task"]["classes"] == ["blue", "chair", "green", "lamp", "red"]
    for data in (world / "dev.jsonl", tmp_path / "things.jsonl"):  # colours of sentences that it has not seen
        assert json.loads(mmtune("eval", tmp_path / "run", "--data", data, "--json", check=0).stdout)["metrics"]["accuracy"]["value"] > 0.6, data


EXPERTS = {
    "lora": {"method": "lora", "rank": 2, "targets": ["query", "value", "output.dense"]},
    "adapter": {"method": "adapter", "bottleneck": 4},
    "prefix": {"method": "prefix", "length": 3},
    "bitfit": {"method": "bitfit"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph")
    make_text_model(folder / "bert")
    make_text_model(folder / "other", seed=5)
    make_texts(folder / "colours.jsonl", 60, 1)
    make_texts(folder / "colours2.jsonl", 48, 2)
    make_texts(folder / "dev.jsonl", 45, 3)
    make_position_texts(folder / "places.jsonl", 60, 4)
    for task in ("colours", "colours2", "places"):
        train(folder, task, "lora")
    return folder


def recipe_of(folder, path, task, expert, backbone="bert", valid=False, **train_section):
    data = {"train": folder / f"{task}.jsonl"} | ({"valid": folder / "dev.jsonl"} if valid else {})
    section = {"epochs": 3, "batch": 12, "lr": 1e-2, "threads": 1, "seed": 1} | train_section
    return write_recipe(path, backbone={"main": folder / backbone}, expert=expert, data=data, train=section)


def train(folder, task, kind, name=None, **options):
    run = folder / "runs" / (name or f"{task}-{kind}")
    recipe = recipe_of(folder, folder / f"{run.name}.toml", task, options.pop("expert", EXPERTS.get(kind)), **options)
    mmtune("train", recipe, "--out", run, check=0)
    return run


def runs(world, kind="lora"):
    return [world / "runs" / f"{task}-{kind}" for task in ("colours", "colours2", "places")]


def build(world, path, *extra):
    mmtune("graph", "build", *runs(world), "--out", path, *extra, check=0)
    return json.loads(path.read_text())


@pytest.mark.parametrize("kind", list(EXPERTS))
def test_embedding_equals_a_loop_over_examples(world, tmp_path, kind):
    run = world / "runs" / f"colours-{kind}"
    if not run.exists():
        train(world, "colours", kind)
    mmtune("graph", "embed", run, "--out", tmp_path / "fast.safetensors", "--batch", 7, check=0)
    mmtune("graph", "embed", run, "--out", tmp_path / "loop.safetensors", "--granularity", "micro-batch", "--batch", 1, check=0)
    fast, loop = load_file(tmp_path / "fast.safetensors"), load_file(tmp_path / "loop.safetensors")
    assert fast.keys() == loop.keys() and fast
    largest = max(tensor.max() for tensor in loop.values())
    for name, reference in loop.items():
        assert reference.dtype == np.float32
        # Gradients of keys' biases are zero but for rounding: a key's shift changes no softmax.
        np.testing.assert_allclose(fast[name], reference, rtol=1e-4, atol=1e-5 * reference.max() + 1e-9 * largest, err_msg=name)
    assert max(t.max() for t in loop.values()) > 0


def test_options_of_the_embedding_change_it(world, tmp_path):
    run = runs(world)[0]
    made = {}
    for name, options in {
        "plain": [],
        "micro": ["--granularity", "micro-batch", "--batch", 4],
        "reference": ["--profile", "reference"],
        "token": ["--granularity", "token"],
        "sampled": ["--labels", "sampled", "--seed", 3],
        "smooth": ["--smoothing", 0.2],
        "few": ["--samples", 10],
    }.items():
        done = mmtune("graph", "embed", run, "--out", tmp_path / f"{name}.safetensors", "--json", *options, check=0)
        made[name] = (json.loads(done.stdout), load_file(tmp_path / f"{name}.safetensors"))
    info, plain = made["plain"]
    assert info["examples"] == 60 and info["kind"] == "lora" and info["modality"] == "text" and info["mean_loss"] > 0
    assert info["options"] == "sample, empirical labels, eval mode, smoothing as trained"
    assert made["few"][0]["examples"] == 10
    same = lambda a, b: all(np.array_equal(a[name], b[name]) for name in a)
    assert same(made["micro"][1], made["reference"][1])
    for other in ("micro", "token", "sampled", "smooth", "few"):
        assert not same(plain, made[other][1]), other
    assert "approximate" in made["token"][0]["options"]


def test_a_kind_without_closed_form_says_so(world, tmp_path):
    run = world / "runs" / "colours-full"
    if not run.exists():
        train(world, "colours", "full", expert={"method": "full"})
    done = mmtune("graph", "embed", run, "--out", tmp_path / "e.safetensors", "--json", "--samples", 6, check=0)
    assert "a pass of its own" in done.stderr
    assert "full" in json.loads(done.stdout)["looped"]


def formula(a, b):
    values = []
    for name in a:
        x, y = a[name].astype(np.float64).ravel(), b[name].astype(np.float64).ravel()
        total = x + y + 1e-6
        u, v = x / total, y / total
        if np.linalg.norm(u) > 0 and np.linalg.norm(v) > 0:
            values.append(u @ v / (np.linalg.norm(u) * np.linalg.norm(v)))
    return float(np.mean(values))


def by_similarity(graph):
    """The other tasks, those most like the first task first."""
    others = sorted(range(1, len(graph["tasks"])), key=lambda i: -graph["similarity"][0][i])
    return [graph["tasks"][i]["task"] for i in others]


def test_graph_is_what_the_formula_says(world, tmp_path):
    graph = build(world, tmp_path / "graph.json")
    tensors = [load_file(run / "embedding.safetensors") for run in runs(world)]
    for i in range(3):
        assert graph["similarity"][i][i] == 1
        for j in range(3):
            assert graph["similarity"][i][j] == graph["similarity"][j][i]
            if i != j:
                assert math.isclose(graph["similarity"][i][j], formula(tensors[i], tensors[j]), abs_tol=1e-5)
    assert [task["task"] for task in graph["tasks"]] == [run.name for run in runs(world)]
    near = json.loads(mmtune("graph", "neighbours", "colours-lora", "-k", 2, "--graph", tmp_path / "graph.json", "--json", check=0).stdout)
    assert [row["neighbour"] for row in near] == by_similarity(graph)
    by_run = mmtune("graph", "neighbours", runs(world)[0], "-k", 1, "--graph", tmp_path / "graph.json", check=0).stdout
    assert by_similarity(graph)[0] in by_run


def test_adding_equals_building(world, tmp_path):
    whole = build(world, tmp_path / "whole.json")
    first, second, third = runs(world)
    mmtune("graph", "build", first, second, "--out", tmp_path / "grown.json", check=0)
    before = (first / "embedding.safetensors").stat().st_mtime_ns
    mmtune("graph", "add", third, "--graph", tmp_path / "grown.json", check=0)
    assert json.loads((tmp_path / "grown.json").read_text())["similarity"] == whole["similarity"]
    assert (first / "embedding.safetensors").stat().st_mtime_ns == before  # nothing was made anew


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_modalities_are_those_that_are_said(world, tmp_path):
    graph = tmp_path / "graph.json"
    build(world, graph, "--modality", "sound", "--modality", "text", "--modality", "sound")
    table = mmtune("graph", "show", "--graph", graph, check=0).stdout
    assert table.count("sound") == 2
    mmtune("graph", "show", "--graph", graph, "--svg", tmp_path / "g.svg", check=0)
    assert "(sound)" in (tmp_path / "g.svg").read_text()
    assert "--modality" in mmtune("graph", "build", *runs(world), "--modality", "text", "--out", graph, check=2).stderr


def test_pictures_and_page(world, tmp_path):
    import io

    from PIL import Image

    build(world, tmp_path / "graph.json", "--name", "red & green", "--name", "<b>", "--name", "places")
    mmtune("graph", "show", "--graph", tmp_path / "graph.json", "--html", tmp_path / "g.html", "--svg", tmp_path / "g.svg", "--png",
           tmp_path / "g.png", check=0)
    page = Page((tmp_path / "g.html").read_text())
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")] or all(
        attributes.get("href", "").startswith("data:") for tag, attributes in page.tags if tag == "link")
    assert sum(tag == "details" for tag, _ in page.tags) == 3
    assert "main: layer 0" in page.text and "Most alike in" in page.text and "red & green" in page.text
    assert ("b", {}) in page.tags and "<b>" in page.text  # the task's name is text, not markup
    svg = (tmp_path / "g.svg").read_text()
    import xml.etree.ElementTree

    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")
    image = Image.open(io.BytesIO((tmp_path / "g.png").read_bytes()))
    assert image.width >= 640 and len(image.convert("RGB").getcolors(1 << 20)) > 10
    for edge in ((0, 0, 2, 240), (0, 0, image.width, 2)):  # no name is cut off where rows and columns begin
        assert image.convert("RGB").crop(edge).getcolors() == [((edge[2] - edge[0]) * (edge[3] - edge[1]), (255, 255, 255))]
    shown = mmtune("graph", "show", "--graph", tmp_path / "graph.json", "--pair", "places", "--pair", "<b>", "--json", check=0)
    pair = json.loads(shown.stdout)
    assert [row["layer"] for row in pair["layers"]] == ["main: layer 0", "main: layer 1"]
    table = mmtune("graph", "show", "--graph", tmp_path / "graph.json", check=0).stdout
    assert table.splitlines()[0].startswith("task") and "1.000" in table


def test_what_graphs_refuse(world, tmp_path, refused):
    graph = tmp_path / "graph.json"
    build(world, graph)
    first = runs(world)[0]
    assert "no such task" in refused(2, "graph", "neighbours", "colour-lora", "--graph", graph)
    assert "too few tasks" in refused(2, "graph", "neighbours", "colours-lora", "-k", 3, "--graph", graph)
    assert "same name" in refused(2, "graph", "add", first, "--graph", graph)
    assert "no such run folder" in refused(1, "graph", "build", tmp_path / "gone", "--out", graph)
    assert "needs run folders" in refused(2, "graph", "build", "--out", graph)
    longer = world / "runs" / "rank4"
    if not longer.exists():
        train(world, "colours", "lora", name="rank4", expert=EXPERTS["lora"] | {"rank": 4})
    mmtune("graph", "embed", longer, check=0)
    message = refused(1, "graph", "add", longer, "--graph", graph)
    assert '"rank4" beside "colours-lora"' in message and "another rank" in message
    other = world / "runs" / "elsewhere"
    if not other.exists():
        train(world, "colours", "lora", name="elsewhere", backbone="other")
    mmtune("graph", "embed", other, check=0)
    message = refused(1, "graph", "add", other, "--graph", graph)
    assert '"elsewhere" beside "colours-lora"' in message and "different backbones" in message
    linear = world / "runs" / "linear"
    if not linear.exists():
        train(world, "colours", "linear", name="linear", expert={"method": "linear"})
    assert "trained nothing in its backbone" in refused(1, "graph", "embed", linear)
    tensors = load_file(first / "embedding.safetensors")
    for value, word in ((0.0, "zero throughout"), (np.inf, "infinite")):
        from safetensors import safe_open

        with safe_open(first / "embedding.safetensors", "np") as file:
            metadata = file.metadata()
        save_file({name: np.full_like(tensor, value) for name, tensor in tensors.items()}, tmp_path / "bad.safetensors", metadata)
        assert word in refused(1, "graph", "build", tmp_path / "bad.safetensors", "--out", tmp_path / "x.json")
    # One task is a graph, but has no neighbours.
    mmtune("graph", "build", first, "--out", tmp_path / "one.json", check=0)
    assert "two tasks and more" in refused(2, "graph", "neighbours", first, "-k", 1, "--graph", tmp_path / "one.json")
    mmtune("graph", "show", "--graph", tmp_path / "one.json", "--html", tmp_path / "one.html", "--png", tmp_path / "one.png", check=0)


def pi(world, tmp_path, name, expert, task="colours", **options):
    run = tmp_path / name
    recipe = recipe_of(world, tmp_path / f"{name}.toml", task, {"method": "pi"} | expert, valid=True, **options)
    done = mmtune("train", recipe, "--out", run)
    assert done.returncode == 0, done.stderr
    return run, done


@pytest.mark.parametrize("kind", ["lora", "adapter", "prefix"])
def test_averaged_experts_become_one(world, tmp_path, kind):
    for task in ("colours", "colours2", "places"):
        if not (world / "runs" / f"{task}-{kind}").exists():
            train(world, task, kind)
    own, *others = runs(world, kind)
    run, _ = pi(world, tmp_path, "pi", {"target": own, "experts": others})
    config = json.loads((run / "expert" / "adapter_config.json").read_text())
    assert config.get("r", 6) == 6  # three of rank 2 side by side
    record = json.loads((run / "run.json").read_text())
    kept = record["interpolation"][0]
    assert [one["task"] for one in kept["experts"]] == [f"colours-{kind}", f"colours2-{kind}", f"places-{kind}"]
    for row in kept["coefficients"]:
        assert math.isclose(sum(row), 1, rel_tol=1e-6)
    # Never worse than the target's own expert on the validation data.
    assert record["best"]["value"] >= record["target_alone"]["value"]
    answer = json.loads(mmtune("predict", run, "--text", "this box is red", "--json", check=0).stdout)
    assert answer["label"] in COLOURS
    value = json.loads(mmtune("eval", run, "--data", world / "dev.jsonl", "--json", check=0).stdout)["metrics"]["accuracy"]["value"]
    assert math.isclose(value, record["best"]["value"], abs_tol=1e-9)


def test_neighbours_come_from_the_graph(world, tmp_path):
    graph = tmp_path / "graph.json"
    order = by_similarity(build(world, graph))
    own = runs(world)[0]
    names = {}
    for pick in ("nearest", "least_similar", "random"):
        run, _ = pi(world, tmp_path, pick, {"target": own, "graph": graph, "neighbours": 1, "pick": pick, "target_share": 0.6}, epochs=1)
        kept = json.loads((run / "run.json").read_text())["interpolation"][0]
        names[pick] = [one["task"] for one in kept["experts"]]
    assert names["nearest"] == ["colours-lora", order[0]]
    assert names["least_similar"] == ["colours-lora", order[-1]]
    assert names["random"][0] == "colours-lora" and names["random"][1] in order


def test_the_target_alone_stays_where_nothing_is_better(world, tmp_path):
    own, *others = runs(world)
    run, done = pi(world, tmp_path, "spoilt", {"target": own, "experts": others}, lr=5.0, clip=0, epochs=2)
    record = json.loads((run / "run.json").read_text())
    assert record["best"]["step"] == 0 and record["best"]["value"] == record["target_alone"]["value"]
    before = json.loads(mmtune("eval", own, "--data", world / "dev.jsonl", "--json", check=0).stdout)["metrics"]
    after = json.loads(mmtune("eval", run, "--data", world / "dev.jsonl", "--json", check=0).stdout)["metrics"]
    assert math.isclose(before["loss"]["value"], after["loss"]["value"], rel_tol=1e-4)
    assert before["accuracy"]["value"] == after["accuracy"]["value"]


def test_coefficients_move_with_a_rate_of_their_own(world, tmp_path):
    own, *others = runs(world)
    moved = {}
    for rate in (1e-4, 0.2):
        run, _ = pi(world, tmp_path, f"rate{rate}", {"target": own, "experts": others, "train_experts": False, "coefficient_lr": rate}, lr=1e-4)
        rows = json.loads((run / "run.json").read_text())["interpolation"][0]["coefficients"]
        moved[rate] = max(abs(value - 1 / 3) for row in rows for value in row) if json.loads((run / "run.json").read_text())["best"]["step"] else None
    if moved[1e-4] is not None:
        assert moved[1e-4] < 0.01
    if moved[0.2] is not None:
        assert moved[0.2] > 0.01


def test_resumed_equals_never_stopped(world, tmp_path):
    own, *others = runs(world)
    whole, _ = pi(world, tmp_path, "whole", {"target": own, "experts": others}, checkpoint_every=3)
    recipe = recipe_of(world, tmp_path / "part.toml", "colours", {"method": "pi", "target": own, "experts": others}, valid=True, checkpoint_every=3)
    run = tmp_path / "part"
    import subprocess

    from training_support import PROGRAM

    process = subprocess.Popen([str(PROGRAM), "train", str(recipe), "--out", str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    import time

    for _ in range(600):
        if (run / "checkpoints" / "last.safetensors").exists():
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    mmtune("train", recipe, "--out", run, "--resume", check=0)
    assert trained_files(run) == trained_files(whole)
    # What the target's own expert reached was measured before the first step, perhaps by the process that was killed.
    told = [json.loads((folder / "run.json").read_text())["target_alone"] for folder in (run, whole)]
    assert told[0] == told[1]


def test_baselines(world, tmp_path):
    own, *others = runs(world)
    soup, _ = pi(world, tmp_path, "soup", {"target": own, "experts": others, "train_experts": False, "train_coefficients": False}, epochs=1)
    rows = json.loads((soup / "run.json").read_text())["interpolation"][0]["coefficients"]
    assert all(math.isclose(value, 1 / 3, rel_tol=1e-5) for row in rows for value in row)
    start, _ = pi(world, tmp_path, "start", {"experts": others[:1]}, epochs=1)  # begun from a neighbour
    assert "target_alone" not in json.loads((start / "run.json").read_text())
    once, _ = pi(world, tmp_path, "once", {"target": own, "experts": others, "once": True}, epochs=1)
    assert json.loads((once / "expert" / "adapter_config.json").read_text())["r"] == 6
    sums, _ = pi(world, tmp_path, "sums", {"target": own, "experts": others, "weights": [1.0, 0.3, 0.3], "train_experts": False}, epochs=1)
    assert json.loads((sums / "run.json").read_text())["interpolation"][0]["coefficients"][0] == [1.0, 0.3, 0.3]


def test_what_averages_refuse(world, tmp_path, refused):
    own, *others = runs(world)

    def failure(code, expert, task="colours"):
        recipe = recipe_of(world, tmp_path / "bad.toml", task, {"method": "pi"} | expert, valid=task == "colours")
        return refused(code, "train", recipe, "--out", tmp_path / "bad")

    assert "is gone" in failure(1, {"target": own, "experts": [tmp_path / "gone"]})
    assert "either experts or graph" in failure(2, {"target": own, "experts": others, "graph": tmp_path / "g.json"})
    assert "a target, experts or a graph" in failure(2, {})
    assert "one weight an expert" in failure(2, {"target": own, "experts": others, "weights": [1.0]})
    other = world / "runs" / "elsewhere"
    if not other.exists():
        train(world, "colours", "lora", name="elsewhere", backbone="other")
    assert "belongs to another backbone" in failure(1, {"target": own, "experts": [other]})
    assert "other labels" in failure(2, {"target": own, "experts": others}, task="places")
    adapter = world / "runs" / "colours-adapter"
    if not adapter.exists():
        train(world, "colours", "adapter")
    assert "different kinds" in failure(1, {"target": own, "experts": [adapter]})
    graph = tmp_path / "graph.json"
    build(world, graph)
    assert "no such task" in failure(2, {"target": adapter, "graph": graph})
    assert "too few tasks" in failure(2, {"target": own, "graph": graph, "neighbours": 5})
    # A graph outlives the runs that it was made of; their experts are needed all the same.
    moving = tmp_path / "moving"
    shutil.copytree(others[0], moving)
    (moving / "embedding.safetensors").unlink()  # which names the run that it was made of
    mmtune("graph", "build", own, moving, "--name", "own", "--name", "moving", "--out", tmp_path / "two.json", check=0)
    shutil.rmtree(moving)
    message = failure(1, {"target": own, "graph": tmp_path / "two.json", "neighbours": 1})
    assert "is gone" in message and "moving" in message


def test_experts_of_other_ranks_are_averaged_exactly(world, tmp_path):
    longer = world / "runs" / "rank4"
    if not longer.exists():
        train(world, "colours", "lora", name="rank4", expert=EXPERTS["lora"] | {"rank": 4})
    run, _ = pi(world, tmp_path, "ranks", {"target": runs(world)[0], "experts": [longer]}, epochs=1)
    assert json.loads((run / "expert" / "adapter_config.json").read_text())["r"] == 6


def test_explain_tells_of_coefficients_and_the_landscape(world, tmp_path):
    own, *others = runs(world)
    run, _ = pi(world, tmp_path, "pi", {"target": own, "experts": others, "target_share": 0.5}, epochs=1)
    page = tmp_path / "page.html"
    mmtune("explain", run, "--data", world / "dev.jsonl", "--out", page, check=0)
    seen = Page(page.read_text())
    assert "colours-lora (the target's own)" in seen.text and "encoder.layer.1.attention" in seen.text
    assert "Between two experts" in seen.text and "The plane through three experts" in seen.text
    assert sum("<circle" in part for part in re.split(r"(?=<circle)", page.read_text())) > 20
    numbers = json.loads(mmtune("explain", run, "--data", world / "dev.jsonl", "--out", page, "--fast", "--json", check=0).stdout)
    assert all(sum(shares) == pytest.approx(1, abs=1e-5) for shares in numbers["coefficients"].values()) and "alone" not in numbers
    assert "The plane" not in Page(page.read_text()).text
