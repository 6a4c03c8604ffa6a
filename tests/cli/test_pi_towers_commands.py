"""Averages of experts on two towers: MoPE's, which a second tower conditions, and experts of runs that rank pictures and texts."""

import json
import math
import random

import pytest
from training_support import COLOURS, make_clip, make_image_model, make_picture, make_text_model, mmtune, write_jsonl, write_recipe


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    make_text_model(folder / "bert")
    make_image_model(folder / "vit", seed=1)
    make_clip(folder / "clip")
    rng = random.Random(1)
    for name, seed in (("one", 1), ("two", 2)):
        rows, captions = [], []
        for i in range(36):
            seen, named = rng.choice(list(COLOURS)), rng.choice(list(COLOURS))
            make_picture(folder / f"{name}{i}.png", seen, rng)
            rows.append({"id": f"{i}", "image": f"{name}{i}.png", "text": f"the box is {named}", "label": "same" if seen == named else "other"})
            captions.append({"id": f"{i}", "image": f"{name}{i}.png", "text": f"a photo of a {seen}"})
        write_jsonl(folder / f"{name}.jsonl", rows)
        write_jsonl(folder / f"{name}_captions.jsonl", captions)
    return folder


def learn(world, run, data, expert, **sections):
    recipe = write_recipe(run.with_suffix(".toml"), expert=expert, data={"train": world / f"{data}.jsonl", "valid": world / f"{data}.jsonl"},
                          train={"epochs": 2, "batch": 12, "lr": 1e-2, "threads": 1, "seed": 1}, **sections)
    mmtune("train", recipe, "--out", run, check=0)
    return run


def check_average(run, peft_type, data):
    record = json.loads((run / "run.json").read_text())
    kept = record["interpolation"][0]
    assert len(kept["experts"]) == 2
    for row in kept["coefficients"]:
        assert math.isclose(sum(row), 1, rel_tol=1e-6)
    assert record["best"]["value"] >= record["target_alone"]["value"]
    assert json.loads((run / "expert" / "adapter_config.json").read_text())["peft_type"] == peft_type
    metrics = json.loads(mmtune("eval", run, "--data", data, "--json", check=0).stdout)["metrics"]
    assert math.isclose(metrics[record["best"]["metric"]]["value"], record["best"]["value"], abs_tol=1e-9)


def test_mope_experts_are_averaged(world, tmp_path):
    towers = {"backbone": {"main": world / "bert", "condition": world / "vit"}}
    mope = {"method": "mope", "experts": 3, "prompt_length": 2, "mapper_width": 8}
    own, other = (learn(world, tmp_path / name, name, mope, **towers) for name in ("one", "two"))
    run = learn(world, tmp_path / "pi", "one", {"method": "pi", "target": own, "experts": [other], "tower": "main"}, **towers)
    check_average(run, "MMTUNE_MOPE", world / "one.jsonl")


def test_experts_of_ranking_runs_are_averaged(world, tmp_path):
    shape = {"task": "retrieve", "head": {"kind": "similarity"},
             "backbone": {"main": world / "clip", "condition": world / "clip", "main_pooling": "projection", "condition_pooling": "projection"}}
    lora = {"method": "lora", "rank": 2, "targets": ["q_proj", "v_proj"], "tower": "main"}
    own, other = (learn(world, tmp_path / name, f"{name}_captions", lora, **shape) for name in ("one", "two"))
    run = learn(world, tmp_path / "pi", "one_captions", {"method": "pi", "target": own, "experts": [other], "tower": "main"}, **shape)
    check_average(run, "LORA", world / "one_captions.jsonl")
