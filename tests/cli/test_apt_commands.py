"""APT and the tasks that it is judged on, as a user trains them: classify with both heads of CLIP, vqa, pair and retrieve on two towers; what
prompts cost in every form; and what bad data gets."""

import json
import random

import pytest
from training_support import COLOURS, make_clip, make_image_model, make_picture, make_text_model, mmtune, read_lines, write_jsonl, write_recipe

WIDTH, LAYERS, TOKENS = 32, 2, 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apt")
    make_text_model(folder / "bert")
    make_image_model(folder / "vit")
    make_clip(folder / "clip")
    rng = random.Random(5)
    colours = list(COLOURS)
    for split, count in (("train", 90), ("test", 30)):
        asked, pairs, captions = [], [], []
        for i in range(count):
            first, second = colours[i % 3], rng.choice(colours)
            for side, colour in (("a", first), ("b", second)):
                make_picture(folder / f"{split}{i}{side}.png", colour, rng)
            picture, other = f"{split}{i}a.png", f"{split}{i}b.png"
            # Nine of ten annotators agree; the question says nothing about the answer.
            asked.append({"id": f"q{i}", "text": "the ball is", "image": picture, "answers": [first.title()] * 9 + ["a cup"]})
            pairs.append({"id": f"p{i}", "text": "this and that", "image": picture, "image_pair": other, "label": str(first == second)})
            captions.append({"id": f"c{i}", "text": f"a photo of a {first}", "image": picture, "label": first})
        for name, rows in (("vqa", asked), ("pair", pairs), ("captions", captions)):
            write_jsonl(folder / f"{name}_{split}.jsonl", rows)
    return folder


def learn(world, tmp_path, name="run", assignments=(), **sections):
    sections["train"] = {"epochs": 8, "batch": 15, "lr": 1e-2, "seed": 1, "threads": 1, "log_every": 1} | sections.get("train", {})
    sections.setdefault("expert", {"method": "apt", "prompts": 8, "rank": 2})
    recipe = write_recipe(tmp_path / f"{name}.toml", **sections)
    mmtune("train", recipe, *assignments, "--out", tmp_path / name, check=0)
    losses = [line["loss"] for line in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    return tmp_path / name, losses


def evaluated(run, data, *more):
    return json.loads(mmtune("eval", run, "--data", data, "--json", *more, check=0).stdout)


def test_vqa_on_two_towers(world, tmp_path):
    run, losses = learn(world, tmp_path, task="vqa", backbone={"main": world / "bert", "condition": world / "vit"},
                        head={"kind": "mlp_norm", "hidden": 32}, vqa={"min_count": 5},
                        data={"train": world / "vqa_train.jsonl", "valid": world / "vqa_test.jsonl"})
    record = json.loads((run / "run.json").read_text())
    assert sorted(record["task"]["classes"]) == sorted(COLOURS)
    assert [one["kind"] for one in record["experts"]] == ["apt", "apt"]
    assert losses[-1] < losses[0] / 2
    result = evaluated(run, world / "vqa_test.jsonl")
    assert result["metrics"]["vqa_accuracy"]["value"] == pytest.approx(record["best"]["value"]) and record["best"]["value"] > 0.8
    assert result["details"]["examples_without_a_listed_answer"] == 0
    answer = json.loads(mmtune("predict", run, "--text", "the ball is", "--image", world / "test0a.png", "--json", check=0).stdout)
    assert answer["label"] in COLOURS

    page = tmp_path / "page.html"
    said = mmtune("explain", run, "--data", world / "vqa_test.jsonl", "--out", page, "--id", "q3", check=0).stdout
    assert "30 examples, 2 towers" in said
    html = page.read_text()
    assert "Which prompts fire" in html and ">ball<" in html and "data:image/jpeg" in html and "<b>q3</b>" in html and "encoder.layer.1" in html
    numbers = json.loads(mmtune("explain", run, "--data", world / "vqa_test.jsonl", "--out", page, "--json", check=0).stdout)
    assert all(0 <= place["fired"] <= 1 and place["used"] <= place["prompts"] for tower in numbers["towers"] for place in tower["places"])
    assert mmtune("explain", run, "--data", world / "vqa_test.jsonl", "--out", page, "--id", "nobody").returncode == 2


def test_pages_of_vqa_tell_answers_not_labels(world, tmp_path):
    """A manifest may have labels of another task, more of them than there are answers."""
    rows = [row | {"label": f"zebra {i}"} for i, row in enumerate(read_lines(world / "vqa_test.jsonl"))]
    for row in rows:
        row["image"] = str(world / row["image"])
    data, page = write_jsonl(tmp_path / "labelled.jsonl", rows), tmp_path / "page.html"
    towers = {"main": world / "bert", "condition": world / "vit"}
    sections = {"task": "vqa", "vqa": {"min_count": 5}, "train": {"epochs": 1}, "data": {"train": world / "vqa_train.jsonl", "valid": world / "vqa_test.jsonl"}}
    apt, _ = learn(world, tmp_path, "apt", backbone=towers, **sections)
    mmtune("explain", apt, "--data", data, "--out", page, "--id", "q3", check=0)
    assert f"<b>{list(COLOURS)[0].title()}, a cup</b>" in page.read_text() and "zebra" not in page.read_text()
    mope, _ = learn(world, tmp_path, "mope", backbone=towers, expert={"method": "mope", "experts": 2, "prompt_length": 2}, **sections)
    mmtune("explain", mope, "--data", data, "--out", page, "--id", "q3", check=0)
    assert f"label <b>{list(COLOURS)[0]}</b>" in page.read_text() and "zebra" not in page.read_text()


def test_pair_on_two_towers(world, tmp_path):
    run, losses = learn(world, tmp_path, task="pair", backbone={"main": world / "vit", "condition": world / "bert"},
                        head={"kind": "mlp_norm", "hidden": 64}, train={"epochs": 30},
                        data={"train": world / "pair_train.jsonl", "valid": world / "pair_test.jsonl"})
    assert losses[-1] < losses[0] / 2, "whether two colours are equal cannot be told by either picture alone"
    assert evaluated(run, world / "pair_test.jsonl")["metrics"]["accuracy"]["value"] > 0.75
    lonely = write_jsonl(tmp_path / "lonely.jsonl", [{"id": "x", "text": "this", "image": str(world / "test0a.png"), "label": "True"}])
    failed = mmtune("eval", run, "--data", lonely)
    assert failed.returncode != 0 and "example x" in failed.stderr and "image_pair" in failed.stderr


def test_retrieve_on_two_towers(world, tmp_path):
    run, losses = learn(world, tmp_path, task="retrieve", backbone={"main": world / "clip", "condition": world / "clip",
                                                                    "main_pooling": "projection", "condition_pooling": "projection"},
                        head={"kind": "similarity"}, train={"epochs": 10},
                        data={"train": world / "captions_train.jsonl", "valid": world / "captions_test.jsonl"})
    record = json.loads((run / "run.json").read_text())
    assert losses[-1] < losses[0]
    # Thirty pictures, three sentences: ten pictures have each, and rank equally well. By colour, five of ten would be found at 5 at best.
    metrics = {name: one["value"] for name, one in evaluated(run, world / "captions_test.jsonl")["metrics"].items()}
    assert set(metrics) == {"r1", "ir_r1", "ir_r5", "ir_r10", "tr_r1", "tr_r5", "tr_r10"}
    assert metrics["r1"] == pytest.approx(record["best"]["value"])
    assert metrics["ir_r10"] > 0.8


@pytest.mark.parametrize("head", ["linear", "zero_shot"])
def test_classify_on_clip(world, tmp_path, head):
    pooling = {"main_pooling": "projection"} if head == "zero_shot" else {}
    run, losses = learn(world, tmp_path, backbone={"main": world / "clip", "main_input": "image"} | pooling, head={"kind": head},
                        data={"train": world / "captions_train.jsonl", "valid": world / "captions_test.jsonl"})
    assert losses[-1] < losses[0]
    assert evaluated(run, world / "captions_test.jsonl")["metrics"]["accuracy"]["value"] > 0.9


def test_what_prompts_cost(world, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "bert"}, expert={"method": "apt", "prompts": 7, "rank": 3},
                          data={"train": "none.jsonl"})
    done = mmtune("cost", recipe, "--tokens", TOKENS, "--compare", "apt,lora", "--json", check=0)
    apt, lora = json.loads(done.stdout)["costs"]
    forms = {form["form"]: form for form in apt["prompts"]["forms"]}
    diffusion = LAYERS * 2 * TOKENS * 7 * WIDTH
    assert apt["expert_parameters"] == forms["apt"]["parameters"] == LAYERS * (7 * WIDTH + 2 * 3 * WIDTH + 1)
    assert apt["expert_macs"] == forms["apt"]["macs"] == diffusion + LAYERS * 2 * 7 * WIDTH * 3
    assert forms["deep prompts as tables count them"]["macs"] == LAYERS * 3 * 7 * WIDTH**2 + diffusion
    assert forms["deep prompts, keys and values for every example"]["macs"] == LAYERS * 2 * 7 * WIDTH**2 + diffusion
    assert forms["deep prompts, keys and values once"]["macs"] == diffusion
    assert "prompts" not in lora
    text = mmtune("cost", recipe, "--tokens", TOKENS, "--compare", "apt,lora", check=0).stdout
    assert "as tables count them" in text and "7 prompts of rank 3 at 2 attentions" in text


def test_mistakes(world, tmp_path):
    two = {"main": world / "bert", "condition": world / "vit"}
    data = {"train": world / "vqa_train.jsonl"}
    cases = [
        ({"task": "vqa", "backbone": two, "data": data, "vqa": {"min_count": 1000}}, 1, "vqa.min_count"),
        ({"task": "vqa", "backbone": two, "data": data | {"classes": ["seven", "eight"]}}, 1, "no training example has an answer"),
        ({"task": "vqa", "backbone": two, "data": {"train": world / "captions_train.jsonl"}}, 1, "data.columns.answers"),
        ({"task": "pair", "backbone": {"main": world / "bert"}, "data": {"train": world / "pair_train.jsonl"}}, 2, "must read pictures"),
        ({"task": "pair", "backbone": {"main": world / "vit"}, "data": {"train": world / "captions_train.jsonl"}}, 1, "image_pair"),
        ({"task": "retrieve", "backbone": two, "data": {"train": world / "captions_train.jsonl"}}, 2, "similarity"),
        ({"task": "retrieve", "backbone": two, "data": data, "retrieve": {"negatives": 0}}, 2, "negatives"),
        ({"backbone": {"main": world / "vit"}, "data": {"train": world / "captions_train.jsonl"},
          "expert": {"method": "apt", "targets": ["layer.9.attention"]}}, 2, "no attention"),
    ]
    for number, (sections, code, part) in enumerate(cases):
        sections = {"expert": {"method": "apt", "prompts": 2}} | sections
        done = mmtune("train", write_recipe(tmp_path / f"{number}.toml", **sections), "--out", tmp_path / f"run{number}")
        assert done.returncode == code and part in done.stderr, (number, done.returncode, done.stderr)
        assert len(done.stderr.strip().splitlines()) <= 2, done.stderr
