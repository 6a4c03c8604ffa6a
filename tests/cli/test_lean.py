"""Training in less memory: gradient checkpointing, and weights in half precision."""

import json

import pytest
from training_support import (make_image_model, make_pictures, make_text_model, make_texts, mmtune, read_lines, trained_files, write_recipe)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lean")
    make_text_model(folder / "bert", layers=3)
    make_image_model(folder / "vit", layers=3)
    make_texts(folder / "train.jsonl", 60, 1)
    make_texts(folder / "valid.jsonl", 30, 2)
    make_pictures(folder / "mixed", 60, 5, text_share=0.7, picture_share=0.7)
    return folder


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "prompt", "ia3", "bitfit", "full"])
def test_checkpointing_changes_no_result(world, tmp_path, method):
    dropout = {} if method in ("ia3", "bitfit", "full") else {"dropout": 0.2}
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "bert", "condition": world / "vit"},
                          expert={"method": method, **dropout}, data={"train": world / "mixed" / "manifest.jsonl", "valid_fraction": 0.2},
                          train={"epochs": 2, "batch": 8, "lr": 3e-3, "threads": 1, "log_every": 1})
    mmtune("train", recipe, "--out", tmp_path / "plain", check=0)
    mmtune("train", recipe, "train.checkpointing=true", "--out", tmp_path / "lean", check=0)
    losses = [[line["loss"] for line in read_lines(tmp_path / run / "metrics.jsonl") if "loss" in line] for run in ("plain", "lean")]
    assert len(losses[0]) > 5
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("storage", ["f16", "bf16"])
@pytest.mark.parametrize("saved", ["float32", "float16", "bfloat16"])
def test_weights_in_half_precision(world, tmp_path, storage, saved):
    import torch
    from transformers import BertModel

    BertModel.from_pretrained(world / "bert").to(getattr(torch, saved)).save_pretrained(tmp_path / "bert")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "bert" / name).write_text((world / "bert" / name).read_text())
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": tmp_path / "bert"}, expert={"method": "lora", "rank": 4},
                          data={"train": world / "train.jsonl", "valid": world / "valid.jsonl"},
                          train={"epochs": 6, "batch": 8, "lr": 1e-2, "threads": 1})
    mmtune("train", recipe, "--out", tmp_path / "plain", check=0)
    mmtune("train", recipe, "--weights", storage, "--out", tmp_path / "half", check=0)
    assert f'weights = "{storage}"' in (tmp_path / "half" / "recipe.toml").read_text()
    plain, half = (json.loads((tmp_path / run / "run.json").read_text())["valid"] for run in ("plain", "half"))
    assert half["accuracy"] > 0.7 and half["loss"] == pytest.approx(plain["loss"], abs=0.1)
    answer = json.loads(mmtune("eval", tmp_path / "half", "--data", world / "valid.jsonl", "--json", check=0).stdout)
    assert answer["metrics"]["accuracy"]["value"] == half["accuracy"]
    # The expert is the backbone's, however its weights lay in memory.
    answer = mmtune("eval", tmp_path / "half", "backbone.weights=f32", "--data", world / "valid.jsonl", "--json", check=0)
    assert json.loads(answer.stdout)["metrics"]["loss"]["value"] == pytest.approx(half["loss"], abs=0.1)


def test_a_weight_too_large_for_f16_is_named(world, tmp_path):
    from transformers import BertModel

    model = BertModel.from_pretrained(world / "bert")
    model.encoder.layer[1].output.dense.weight.data[3, 5] = 1e5
    model.save_pretrained(tmp_path / "bert")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "bert" / name).write_text((world / "bert" / name).read_text())
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": tmp_path / "bert"}, expert={"method": "lora"},
                          data={"train": world / "train.jsonl"}, train={"epochs": 1, "threads": 1})
    done = mmtune("train", recipe, "--weights", "f16", "--out", tmp_path / "run", check=1)
    assert "encoder.layer.1.output.dense.weight" in done.stderr and "bf16" in done.stderr and done.stderr.count("\n") == 1


def test_resuming_with_both(world, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "bert", "weights": "f16"}, expert={"method": "lora", "dropout": 0.1},
                          data={"train": world / "train.jsonl", "valid": world / "valid.jsonl"},
                          train={"epochs": 2, "batch": 8, "threads": 1, "checkpointing": True})
    mmtune("train", recipe, "--out", tmp_path / "a", check=0)
    mmtune("train", recipe, "--out", tmp_path / "b", check=0)
    assert trained_files(tmp_path / "a") == trained_files(tmp_path / "b")
    assert "another recipe" in mmtune("train", recipe, "train.checkpointing=false", "--out", tmp_path / "a", "--resume", check=2).stderr


def test_devices_are_checked_before_anything_is_loaded(world, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "bert"}, expert={"method": "lora"},
                          data={"train": world / "train.jsonl"}, train={"epochs": 1, "threads": 1})
    done = mmtune("train", recipe, "--device", "gpu", "--out", tmp_path / "run", check=2)
    assert "train.device" in done.stderr and '"cuda"' in done.stderr and done.stderr.count("\n") == 1
    done = mmtune("train", recipe, "--device", "cuda", "--out", tmp_path / "cuda")
    if done.returncode:
        assert done.returncode == 2 and "CUDA" in done.stderr and done.stderr.count("\n") == 1
        assert not list((tmp_path / "cuda").glob("*.toml"))
        return
    # Where there is a GPU: it learns what the CPU learns, and either continues with the other's expert.
    mmtune("train", recipe, "--out", tmp_path / "cpu", check=0)
    losses = [[line["loss"] for line in read_lines(tmp_path / run / "metrics.jsonl") if "loss" in line] for run in ("cpu", "cuda")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-2)
    for device in ("cpu", "cuda"):
        mmtune("eval", tmp_path / "cuda", "--device", device, "--data", world / "valid.jsonl", check=0)
