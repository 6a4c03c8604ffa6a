"""Features of frozen towers: computed once, kept on disk, and never a reason for another result."""

import json
import shutil

import pytest
from training_support import make_image_model, make_pictures, make_text_model, mmtune, write_recipe


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    make_image_model(folder / "vit")
    make_text_model(folder / "bert")
    make_pictures(folder / "train", 150, 1, text_share=0.8, picture_share=0.8)
    make_pictures(folder / "valid", 40, 2, text_share=0.8, picture_share=0.8)
    write_recipe(folder / "r.toml", backbone={"main": folder / "vit", "condition": folder / "bert"}, expert={"method": "linear"},
                 head={"kind": "mlp", "hidden": 16, "dropout": 0.1},
                 data={"train": folder / "train" / "manifest.jsonl", "valid": folder / "valid" / "manifest.jsonl"},
                 train={"epochs": 3, "batch": 16, "lr": 1e-2, "threads": 1})
    return folder


def train(world, out, cache, *changes):
    """What was learned and measured, and what run.json says of the pass."""
    mmtune("train", world / "r.toml", *changes, "--out", out, check=0, cache=str(cache))
    record = json.loads((out / "run.json").read_text())
    return (out / "head.safetensors").read_bytes(), record["valid"], record.get("features")


def test_results_are_the_same_bytes_with_and_without(world, tmp_path):
    cache = tmp_path / "cache"
    head, valid, first = train(world, tmp_path / "first", cache)
    assert first["inputs"] > 150 and first["kept"] == 0
    files = sorted((cache / "features").iterdir())
    assert len(files) >= 4, "two towers, two data sets"
    again = train(world, tmp_path / "again", cache)
    assert again[:2] == (head, valid) and again[2]["kept"] == first["inputs"]
    off = train(world, tmp_path / "off", tmp_path / "unused", "data.feature_cache=false")
    assert off[:2] == (head, valid) and off[2]["kept"] == 0
    assert not (tmp_path / "unused" / "features").exists()
    # In every step anew: the same up to rounding.
    _, computed, nothing = train(world, tmp_path / "steps", tmp_path / "unused", "data.cache_mb=0")
    assert nothing is None and not (tmp_path / "unused" / "features").exists()
    assert computed["loss"] == pytest.approx(valid["loss"], abs=1e-3)


def test_questions_use_it_too(world, tmp_path):
    cache = tmp_path / "cache"
    train(world, tmp_path / "run", cache)
    data = world / "valid" / "manifest.jsonl"
    written = {file.name: file.stat().st_size for file in (cache / "features").iterdir()}

    def ask(*command, cache=cache):
        done = mmtune(*command, check=0, cache=str(cache))
        return done.stdout, "kept from an earlier run" in done.stderr

    text, kept = ask("eval", tmp_path / "run", "--data", data, "--batch", 16, "--json")
    assert kept, "validation left the features of this very file"
    assert {file.name: file.stat().st_size for file in (cache / "features").iterdir()} == written
    fresh, kept = ask("eval", tmp_path / "run", "--data", data, "--batch", 16, "--json", cache=tmp_path / "other")
    assert not kept
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    for answer in (json.loads(text), json.loads(fresh)):
        assert {name: one["value"] for name, one in answer["metrics"].items()} == record["valid"]
    lines, kept = ask("predict", tmp_path / "run", "--data", data)
    assert kept
    assert ask("predict", tmp_path / "run", "--data", data, "data.feature_cache=false") == (lines, False)


@pytest.mark.parametrize("damage", ["short", "flipped", "empty", "half of them gone"])
def test_damaged_files_are_made_again(world, tmp_path, damage):
    cache = tmp_path / "cache"
    head, valid, report = train(world, tmp_path / "first", cache)
    good = {file: file.read_bytes() for file in (cache / "features").iterdir()}
    for number, (file, content) in enumerate(sorted(good.items())):
        if damage == "short":
            file.write_bytes(content[:-7])
        elif damage == "flipped":
            file.write_bytes(content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
        elif damage == "empty":
            file.write_bytes(b"")
        elif number % 2:
            file.unlink()
    again = train(world, tmp_path / "again", cache)
    assert again[:2] == (head, valid)
    assert again[2]["kept"] < report["inputs"]
    assert {file: file.read_bytes() for file in (cache / "features").iterdir()} == good


def test_what_features_depend_on_is_in_the_key(world, tmp_path):
    """Other weights, other storage, another tokenizer, another content under the same name: nothing is taken from before."""
    local = tmp_path / "world"
    shutil.copytree(world, local)
    recipe = write_recipe(local / "own.toml", backbone={"main": local / "vit", "condition": local / "bert"}, expert={"method": "linear"},
                          data={"train": local / "train" / "manifest.jsonl"}, train={"epochs": 1, "batch": 16, "threads": 1})
    cache, runs = str(tmp_path / "cache"), iter(range(100))

    def kept(*changes):
        out = tmp_path / f"run{next(runs)}"
        mmtune("train", recipe, *changes, "--out", out, check=0, cache=cache)
        return json.loads((out / "run.json").read_text())["features"]["kept"]

    assert kept() == 0
    everything = kept()
    assert everything > 0
    assert kept("backbone.weights=f16") == 0
    assert kept("backbone.main_pooling=mean") < everything
    vocabulary = (local / "bert" / "vocab.txt").read_text().split("\n")
    (local / "bert" / "vocab.txt").write_text("\n".join([*vocabulary[:5], *reversed(vocabulary[5:-1])]) + "\n")
    assert kept() < everything
    (local / "bert" / "vocab.txt").write_text("\n".join(vocabulary))
    assert kept() == everything
    pictures = sorted((local / "train").glob("*.png"))
    first, second = pictures[0].read_bytes(), pictures[1].read_bytes()
    pictures[0].write_bytes(second), pictures[1].write_bytes(first)
    assert kept() < everything


def test_the_folder_stays_in_its_bound(world, tmp_path):
    cache = tmp_path / "cache"
    for seed in range(3):
        make_image_model(tmp_path / f"wide{seed}", seed=seed, width=1024, layers=1)
        recipe = write_recipe(tmp_path / "r.toml", backbone={"main": tmp_path / f"wide{seed}"}, expert={"method": "linear"},
                              data={"train": world / "train" / "manifest.jsonl", "cache_mb": 1, "on_error": "skip"},
                              train={"epochs": 1, "threads": 1})
        mmtune("train", recipe, "--out", tmp_path / f"run{seed}", check=0, cache=str(cache))
        total = sum(file.stat().st_size for file in (cache / "features").iterdir())
        assert 0 < total <= 1 << 20
