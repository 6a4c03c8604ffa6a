"""Training on sounds: packed and padded, together with another modality that may be missing, and what is refused."""

import json

import numpy as np
import pytest
from sounds import make_wav2vec2, noise, tone, write_wav
from training_support import make_image_model, make_picture, make_text_model, mmtune, read_lines, sentence, trained_files, write_jsonl, write_recipe

PITCHES = {"low": 300, "high": 1500}


def make_tones(folder, count, seed, more=None):
    """A manifest of tones of random length and loudness; the pitch is the label. `more(row, index, rng)` completes a row."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        label = list(PITCHES)[index % 2]
        wave = tone(PITCHES[label] * draw.uniform(0.9, 1.1), draw.uniform(0.15, 0.4), seed=seed * 1000 + index) * draw.uniform(0.2, 1)
        row = {"id": f"s{seed}-{index}", "label": label, "audio": write_wav(folder / f"{index}.wav", wave).name}
        if more:
            more(row, index, draw)
        rows.append(row)
    return write_jsonl(folder / "manifest.jsonl", rows)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    return make_tones(folder / "train", 32, 1), make_tones(folder / "valid", 16, 2)


@pytest.fixture(scope="module")
def group_wav2vec2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "group"
    make_wav2vec2(folder)
    return folder


def recipe_for(path, model, data, **changes):
    sections = {"backbone": {"main": model}, "expert": {"method": "lora", "rank": 4}, "data": data,
                "train": {"epochs": 6, "batch": 8, "lr": 1e-2, "threads": 1, "seed": 1}, "eval": {"bootstrap": 0}}
    for name, section in changes.items():
        sections[name] = sections.get(name, {}) | section
    return write_recipe(path, **sections)


@pytest.mark.parametrize("packing", ["packed", "padded"])
@pytest.mark.parametrize("family", ["group", "layer"])
def test_training_on_tones(tones, group_wav2vec2, tiny_wav2vec2, tmp_path, family, packing):
    train, valid = tones
    model = group_wav2vec2 if family == "group" else tiny_wav2vec2
    recipe = recipe_for(tmp_path / "r.toml", model, {"train": train, "valid": valid}, train={"packing": packing})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    judged = json.loads(mmtune("eval", tmp_path / "run", "--data", valid, "--json", check=0).stdout)
    accuracy = judged["metrics"]["accuracy"]["value"]
    assert accuracy >= 0.9
    answers = [json.loads(line) for line in mmtune("predict", tmp_path / "run", "--data", valid, check=0).stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [row["id"] for row in read_lines(valid)]
    one = mmtune("predict", tmp_path / "run", "--audio", valid.parent / "0.wav", "--json", check=0)
    alone = json.loads(one.stdout)
    assert alone["label"] == answers[0]["label"]
    if packing == "packed":
        # A packed sound does not see the others of its batch.
        assert abs(alone["top"][0]["score"] - answers[0]["top"][0]["score"]) < 1e-4


@pytest.mark.parametrize("expert", [
    {"method": "adapter", "bottleneck": 4}, {"method": "prefix", "length": 3}, {"method": "prompt", "length": 3},
    {"method": "prompt", "length": 2, "deep": True}, {"method": "ia3"}, {"method": "bitfit"}, {"method": "full"}, {"method": "linear"},
    {"method": "lora", "rank": 2, "dora": True}, {"method": "lora", "rank": 2, "dropout": 0.1},
    {"method": "ladder"},
], ids=lambda expert: "-".join(map(str, expert.values())))
@pytest.mark.parametrize("family", ["group", "layer"])
def test_every_kind_of_expert(tones, group_wav2vec2, tiny_wav2vec2, tmp_path, family, expert):
    train, valid = tones
    model = group_wav2vec2 if family == "group" else tiny_wav2vec2
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": model}, expert=expert, data={"train": train, "valid": valid},
                          train={"steps": 4, "batch": 4, "threads": 1, "log_every": 1}, eval={"bootstrap": 0})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    assert all(np.isfinite(line["loss"]) for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in line)
    judged = mmtune("eval", tmp_path / "run", "--data", valid, "--json", check=0)
    assert json.loads(judged.stdout)["examples"] == 16


def test_the_same_seed_gives_the_same_bytes(tones, tiny_wav2vec2, tmp_path):
    train, valid = tones
    recipe = recipe_for(tmp_path / "r.toml", tiny_wav2vec2, {"train": train, "valid": valid}, train={"epochs": 2})
    mmtune("train", recipe, "--out", tmp_path / "whole", check=0)
    mmtune("train", recipe, "--out", tmp_path / "again", check=0)
    assert trained_files(tmp_path / "whole") == trained_files(tmp_path / "again")


def test_checkpointing_changes_nothing_and_half_precision_little(tones, tiny_wav2vec2, tmp_path):
    train, valid = tones
    losses = {}
    for name, extra in {"plain": [], "checkpointed": ["train.checkpointing=true"], "half": ["backbone.weights=f16"]}.items():
        recipe = recipe_for(tmp_path / f"{name}.toml", tiny_wav2vec2, {"train": train, "valid": valid}, train={"epochs": 2, "log_every": 1})
        mmtune("train", recipe, *extra, "--out", tmp_path / name, check=0)
        losses[name] = [line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl") if "loss" in line]
    assert len(losses["plain"]) == 8
    assert losses["checkpointed"] == losses["plain"]
    assert losses["half"] != losses["plain"]
    np.testing.assert_allclose(losses["half"], losses["plain"], atol=0.02)


@pytest.mark.parametrize("other", ["image", "text"])
@pytest.mark.parametrize("fusion", ["concat", "mean_logits"])
def test_two_towers_where_a_modality_is_missing(tiny_wav2vec2, tmp_path, other, fusion):
    import random

    colours = {"low": "red", "high": "blue"}
    words = random.Random(3)

    def complete(row, index, draw):
        if index % 5 == 4:
            return  # sound alone
        if other == "image":
            make_picture(tmp_path / "data" / f"{index}.png", colours[row["label"]], words)
            row["image"] = f"{index}.png"
        else:
            row["text"] = sentence(colours[row["label"]], words)
        if index % 5 == 3:
            del row["audio"]

    manifest = make_tones(tmp_path / "data", 40, 4, complete)
    second = make_image_model(tmp_path / "vit") if other == "image" else make_text_model(tmp_path / "bert")
    recipe = recipe_for(tmp_path / "r.toml", tiny_wav2vec2, {"train": manifest, "valid_fraction": 0.25},
                        backbone={"condition": second}, head={"fusion": fusion})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    answers = [json.loads(line) for line in mmtune("predict", tmp_path / "run", "--data", manifest, check=0).stdout.splitlines()]
    assert len(answers) == 40
    right = sum(answer["label"] == row["label"] for answer, row in zip(answers, read_lines(manifest)))
    assert right >= 34
    mmtune("predict", tmp_path / "run", "--audio", tmp_path / "data" / "0.wav", check=0)


def test_a_tower_of_sound_and_one_of_text_by_main_input(tones, tiny_wav2vec2, tmp_path):
    train, valid = tones
    data = {"train": train, "valid": valid}
    recipe = recipe_for(tmp_path / "r.toml", tiny_wav2vec2, data, backbone={"main_input": "audio"}, train={"steps": 2})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    wrong = recipe_for(tmp_path / "w.toml", tiny_wav2vec2, data, backbone={"main_input": "text"})
    assert "the input field does not fit the backbone: expected audio, got text" in mmtune("train", wrong, "--out", tmp_path / "no", check=2).stderr
    text = recipe_for(tmp_path / "t.toml", make_text_model(tmp_path / "bert"), data, backbone={"main_input": "audio"})
    assert "expected text, got audio" in mmtune("train", text, "--out", tmp_path / "no", check=2).stderr


def test_bad_sounds_stop_a_run_or_are_skipped(tiny_wav2vec2, tmp_path):
    def message(name, samples, rate=16000, **data):
        folder = tmp_path / name
        manifest = make_tones(folder, 12, 5)
        write_wav(folder / "3.wav", samples, rate)
        recipe = recipe_for(tmp_path / f"{name}.toml", tiny_wav2vec2, {"train": manifest, **data}, train={"epochs": 1})
        return mmtune("train", recipe, "--out", tmp_path / f"{name}.run", check=0 if data.get("on_error") == "skip" else 1).stderr

    assert "example s5-3" in message("empty", []) and "the sound has no samples" in message("empty2", [])
    assert "too many channels: expected 1 to 8, got 11" in message("eleven", np.zeros((400, 11)))
    assert "another sample rate than the model: expected 16000 Hz, got 8000" in message("slow", noise(0.2, 8000), 8000, other_rates="refuse")
    assert "too short for the model: expected at least 85 samples at 16000 Hz, got 40" in message("short", noise(40 / 16000))
    assert "skipping examples that cannot be read; the first: example s5-3" in message("skip", [], on_error="skip")


def test_other_rates_and_a_limit_of_length(tiny_wav2vec2, tmp_path):
    folder = tmp_path / "data"
    manifest = make_tones(folder, 8, 6)
    for index in range(0, 8, 2):
        write_wav(folder / f"{index}.wav", tone(300, 0.3, 44100), 44100)
    recipe = recipe_for(tmp_path / "r.toml", tiny_wav2vec2, {"train": manifest}, backbone={"max_seconds": 0.1}, train={"epochs": 1})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    # What lies behind the limit is not heard.
    long = tone(300, 0.5)
    write_wav(tmp_path / "a.wav", long)
    write_wav(tmp_path / "b.wav", np.concatenate([long[:1600], noise(0.4)]))
    first, second = (mmtune("predict", tmp_path / "run", "--audio", tmp_path / f"{name}.wav", "--json", check=0).stdout for name in "ab")
    assert first == second


def test_inspect_tells_of_the_feature_extractor(tiny_wav2vec2, tones):
    shown = mmtune("inspect", tiny_wav2vec2, check=0).stdout
    assert "wav2vec2" in shown and "samples at 16000 Hz, normalised, with a mask" in shown
    assert "audio" in mmtune("inspect", tones[0], check=0).stdout
