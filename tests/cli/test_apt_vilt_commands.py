"""APT's tasks on one backbone that reads a text and a picture together: a tiny ViLT learns vqa, pair and retrieve with APT, a class token of its
own, and what the released code frees besides."""

import json
import random

import pytest
from test_vilt_commands import make_vilt
from training_support import COLOURS, make_picture, mmtune, write_jsonl, write_recipe

RELEASED = [{"method": "apt", "prompts": 8, "rank": 2},
            {"method": "full", "targets": ["*token_type_embeddings.weight", "pooler.dense.weight", "pooler.dense.bias"]},
            {"method": "class_token"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apt-vilt")
    make_vilt(folder / "vilt", modality_type_vocab_size=3)
    rng = random.Random(7)
    colours = list(COLOURS)
    for split, count in (("train", 60), ("test", 18)):
        rows = {"vqa": [], "pair": [], "captions": []}
        for i in range(count):
            first, second = colours[i % 3], rng.choice(colours)
            for side, colour in (("a", first), ("b", second)):
                make_picture(folder / f"{split}{i}{side}.png", colour, rng)
            picture = f"{split}{i}a.png"
            rows["vqa"].append({"id": f"q{i}", "text": "the ball is", "image": picture, "answers": [first] * 9 + ["cup"]})
            rows["pair"].append({"id": f"p{i}", "text": "this", "image": picture, "image_pair": f"{split}{i}b.png", "label": str(first == second)})
            rows["captions"].append({"id": f"c{i}", "text": f"the {first} ball", "image": picture})
        for name, made in rows.items():
            write_jsonl(folder / f"{name}_{split}.jsonl", made)
    return folder


def learn(world, tmp_path, task, expert=None, **sections):
    sections["train"] = {"epochs": 6, "batch": 10, "lr": 1e-2, "seed": 1, "threads": 1, "log_every": 1} | sections.get("train", {})
    name = {"retrieve": "captions"}.get(task, task)
    recipe = write_recipe(tmp_path / "r.toml", task=task, backbone={"main": world / "vilt"}, expert=expert or RELEASED,
                          data={"train": world / f"{name}_train.jsonl", "valid": world / f"{name}_test.jsonl"}, **sections)
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    return tmp_path / "run", [line["loss"] for line in lines if "loss" in line], world / f"{name}_test.jsonl"


def metrics(run, data):
    found = json.loads(mmtune("eval", run, "--data", data, "--json", check=0).stdout)["metrics"]
    return {name: one["value"] for name, one in found.items()}


def test_vqa_and_what_explains_it(world, tmp_path):
    run, losses, test = learn(world, tmp_path, "vqa", head={"kind": "mlp_norm", "hidden": 64})
    record = json.loads((run / "run.json").read_text())
    assert [one["kind"] for one in record["experts"]] == ["apt", "full", "class_token"]
    assert losses[-1] < losses[0] / 2
    assert metrics(run, test)["vqa_accuracy"] > 0.8
    assert metrics(run, test)["vqa_accuracy"] == pytest.approx(record["best"]["value"])
    page = tmp_path / "page.html"
    mmtune("explain", run, "--data", test, "--out", page, check=0)
    html = page.read_text()
    assert "Which prompts fire" in html and ">ball<" in html and "where prompts fire in" in html


def test_pair(world, tmp_path):
    run, losses, test = learn(world, tmp_path, "pair", head={"kind": "mlp_norm", "hidden": 64}, train={"epochs": 20})
    assert losses[-1] < losses[0] / 2
    assert metrics(run, test)["accuracy"] >= 0.7
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    answers = [json.loads(line) for line in mmtune("predict", run, "--data", test, check=0).stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    right = sum(answer["label"] == row["label"] for answer, row in zip(answers, rows))
    assert right / len(rows) == pytest.approx(metrics(run, test)["accuracy"])
    # The second picture counts: the same row with it in the place of the first is another example.
    swapped = write_jsonl(world / "swapped.jsonl", [row | {"image": row["image_pair"], "image_pair": row["image"]} for row in rows])
    scores = [[one["score"] for one in answer["top"]] for answer in answers]
    others = [json.loads(line) for line in mmtune("predict", run, "--data", swapped, check=0).stdout.splitlines()]
    assert scores != [[one["score"] for one in answer["top"]] for answer in others]
    lonely = write_jsonl(world / "lonely.jsonl", [{name: value for name, value in rows[0].items() if name != "image_pair"}])
    failed = mmtune("predict", run, "--data", lonely)
    assert failed.returncode != 0 and "p0" in failed.stderr and "image_pair" in failed.stderr


def test_retrieve(world, tmp_path):
    run, losses, test = learn(world, tmp_path, "retrieve", retrieve={"negatives": 3}, train={"epochs": 8})
    assert losses[-1] < losses[0]
    found = metrics(run, test)
    # Six of eighteen pictures have each sentence.
    assert found["ir_r10"] > 0.8 and found["tr_r10"] > 0.8
    answer = json.loads(mmtune("predict", run, "--text", "the red ball", "--image", world / "test0a.png", "--json", check=0).stdout)
    assert answer["label"] == "match"


def test_retrieve_with_matching(world, tmp_path):
    run, losses, test = learn(world, tmp_path, "retrieve", retrieve={"negatives": 3, "matching": 1.0}, train={"epochs": 8})
    assert losses[-1] < losses[0]
    found = metrics(run, test)
    assert found["ir_r10"] > 0.8 and found["tr_r10"] > 0.8
    answer = json.loads(mmtune("predict", run, "--text", "the red ball", "--image", world / "test0a.png", "--json", check=0).stdout)
    assert answer["label"] == "match"


def test_long_captions_are_cut_and_the_class_token_needs_such_a_backbone(world, tmp_path):
    run, _, _ = learn(world, tmp_path, "vqa", expert=[{"method": "apt", "prompts": 2}], train={"epochs": 1})
    long = write_jsonl(tmp_path / "long.jsonl", [{"id": "l", "text": "ball " * 60, "image": str(world / "test0a.png"), "answers": ["red"]}])
    assert "vqa_accuracy" in metrics(run, long)
    from training_support import make_image_model

    make_image_model(tmp_path / "vit")
    recipe = write_recipe(tmp_path / "v.toml", backbone={"main": tmp_path / "vit"}, expert={"method": "class_token"},
                          data={"train": world / "pair_train.jsonl"})
    failed = mmtune("train", recipe, "--out", tmp_path / "no")
    assert failed.returncode == 2 and "ViLT or METER" in failed.stderr
