"""A training that was stopped, by whatever means, ends with the same bytes as one that was not."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
from training_support import (PROGRAM, make_image_model, make_pictures, make_text_model, make_texts, mmtune, read_lines, trained_files,
                              write_recipe)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    make_text_model(folder / "bert")
    make_texts(folder / "train.jsonl", 400, 1)
    make_texts(folder / "valid.jsonl", 60, 2)
    write_recipe(folder / "r.toml", backbone={"main": folder / "bert"}, expert={"method": "lora", "rank": 4, "dropout": 0.1},
                 data={"train": folder / "train.jsonl", "valid": folder / "valid.jsonl", "workers": 2},
                 train={"epochs": 4, "batch": 4, "accumulate": 2, "lr": 3e-3, "seed": 1, "threads": 1, "checkpoint_every": 7, "log_every": 1,
                        "eval_every": 23, "eval_unit": "steps"})
    mmtune("train", folder / "r.toml", "--out", folder / "whole", check=0)
    return folder


def start(world, run):
    environment = {**os.environ, "MMTUNE_CACHE": "/nonexistent"}
    return subprocess.Popen([str(PROGRAM), "train", str(world / "r.toml"), "--out", str(run), "--resume"], stderr=subprocess.PIPE, text=True,
                            env=environment)


def learned_lines(run):
    """metrics.jsonl without the times."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_lines(run / "metrics.jsonl")]


def duration(world, run):
    begin = time.monotonic()
    mmtune("train", world / "r.toml", "--out", run, check=0)
    return time.monotonic() - begin


def test_killed_again_and_again(world, tmp_path):
    whole = duration(world, tmp_path / "timed")
    rng = random.Random(7)
    run = tmp_path / "run"
    kills = 0
    for _ in range(12):
        process = start(world, run)
        try:
            process.communicate(timeout=rng.uniform(0.05, 0.6) * whole)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    assert kills >= 3, "it was never killed: this test tests nothing"
    mmtune("train", world / "r.toml", "--out", run, "--resume", check=0)
    assert trained_files(run) == trained_files(world / "whole")
    assert learned_lines(run) == learned_lines(world / "whole")
    record, expected = (json.loads((folder / "run.json").read_text()) for folder in (run, world / "whole"))
    for key in ["state", "step", "best", "valid", "skipped_examples", "task", "experts"]:
        assert record[key] == expected[key], key


def test_killed_with_two_towers_one_of_them_frozen(tmp_path):
    """Two threads, pictures, stored features, a learned stand-in, SGD, validation by share."""
    make_text_model(tmp_path / "bert")
    make_image_model(tmp_path / "vit")
    manifest = make_pictures(tmp_path / "pictures", 150, 4, text_share=0.7, picture_share=0.7)
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": tmp_path / "bert", "condition": tmp_path / "vit"},
                          expert={"method": "adapter", "tower": "main", "dropout": 0.1}, head={"kind": "mlp", "dropout": 0.2},
                          data={"train": manifest, "valid_fraction": 0.2},
                          train={"epochs": 12, "batch": 8, "lr": 1e-2, "optimizer": "sgd", "threads": 2, "checkpoint_every": 5})
    cache = str(tmp_path / "cache")
    begin = time.monotonic()
    mmtune("train", recipe, "--out", tmp_path / "whole", check=0, cache=cache)
    whole = time.monotonic() - begin
    run = tmp_path / "run"
    rng = random.Random(11)
    for _ in range(5):
        process = subprocess.Popen([str(PROGRAM), "train", str(recipe), "--out", str(run), "--resume"], stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "MMTUNE_CACHE": "/nonexistent"})
        try:
            process.communicate(timeout=rng.uniform(0.3, 0.7) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    mmtune("train", recipe, "--out", run, "--resume", check=0)
    assert trained_files(run) == trained_files(tmp_path / "whole")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_tell_how_to_go_on(world, tmp_path, number, code):
    run = tmp_path / "run"
    process = start(world, run)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") > 3):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "--resume" in errors and str(run) in errors
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "interrupted" and 0 < record["step"] < 200
    mmtune("train", run / "recipe.toml", "--out", run, "--resume", check=0)
    assert trained_files(run) == trained_files(world / "whole")
    assert learned_lines(run) == learned_lines(world / "whole")


def test_resuming_a_finished_run_changes_nothing(world):
    before = trained_files(world / "whole")
    result = mmtune("train", world / "r.toml", "--out", world / "whole", "--resume", check=0)
    assert "finished already" in result.stderr
    assert trained_files(world / "whole") == before


def test_resuming_with_another_recipe_is_refused(world, tmp_path):
    run = tmp_path / "run"
    mmtune("train", world / "r.toml", "train.epochs=1", "--out", run, check=0)
    result = mmtune("train", world / "r.toml", "--out", run, "--resume", check=2)
    assert "epochs = 1" in result.stderr and "epochs = 4" in result.stderr


def test_resuming_with_other_data_is_refused(world, tmp_path):
    data = make_texts(tmp_path / "train.jsonl", 40, 3)
    arguments = ["train", world / "r.toml", f"data.train={data}", "train.epochs=50", "--out", tmp_path / "other"]
    process = subprocess.Popen([str(PROGRAM), *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "other" / "checkpoints" / "last.safetensors").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    make_texts(tmp_path / "train.jsonl", 40, 4)
    result = mmtune(*arguments, "--resume", check=1)
    assert "other data" in result.stderr and result.stderr.count("\n") == 1


def test_a_damaged_checkpoint_is_refused(world, tmp_path):
    run = tmp_path / "run"
    process = start(world, run)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (run / "checkpoints" / "last.safetensors").exists():
        time.sleep(0.005)
    process.kill()
    process.communicate()
    last = run / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-10])
    result = mmtune("train", world / "r.toml", "--out", run, "--resume", check=1)
    assert "last.safetensors" in result.stderr
