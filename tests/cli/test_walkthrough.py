"""The README's walk-throughs: with pairs of texts and pictures, and with CLIP and Wav2Vec2 on real files of the data packs. Tiny random
checkpoints stand in for the published ones, which a test cannot fetch."""

import json
import os
import random
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from training_support import COLOURS, ROOT, make_image_model, make_picture, make_text_model, mmtune, write_jsonl

SHARED = Path(os.environ.get("MMTUNE_SHARED", ROOT.parent / "shared")) / "data"
SHORT = ["train.threads=1", "train.steps=6", "train.batch=4", "data.limit=24"]


def make_clip(folder):
    import torch
    import transformers

    torch.manual_seed(1)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 16}
    config = transformers.CLIPConfig(text_config={**tower, "vocab_size": 99, "max_position_embeddings": 16},
                                     vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=16)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def make_wav2vec2(folder):
    import torch
    import transformers

    torch.manual_seed(2)
    config = transformers.Wav2Vec2Config(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, conv_dim=(16, 16, 16),
                                         conv_kernel=(10, 8, 4), conv_stride=(5, 4, 4), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
                                         vocab_size=20)
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def pack(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} of ../shared/data is not there")
    return SHARED / name


def first_test_row(manifest):
    return next(row for row in map(json.loads, manifest.read_text().splitlines()) if row["split"] == "test")


def in_python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def member(row, manifest, path):
    with open(manifest.parent / row["shard"], "rb") as shard:
        shard.seek(row["offset"])
        path.write_bytes(shard.read(row["size"]))
    return path


def test_pairs_of_a_text_and_a_picture(tmp_path):
    """The recipe and the commands that stand in the README, on pairs as it shows them."""
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("### Pairs of a text and a picture"):readme.index("### With CLIP")]
    blocks = [textwrap.dedent(block) for block in re.findall(r"```(?:\w*)\n(.*?)```", section, re.DOTALL)]
    rows, (_, recipe, commands) = [json.loads(line) for line in blocks[0].splitlines()], blocks
    assert rows[0].keys() == {"id", "text", "image", "label"}

    make_text_model(tmp_path / "bert")
    make_image_model(tmp_path / "vit")
    (tmp_path / "photos").mkdir()
    rng = random.Random(1)
    for name, count in (("pairs.jsonl", 60), ("more_pairs.jsonl", 30)):
        made = []
        for i in range(count):
            seen, asked = (rng.choice(list(COLOURS)) for _ in range(2))
            photo = tmp_path / "photos" / f"{name}{i}.png"
            make_picture(photo, seen, rng)
            made.append({"id": str(i), "text": f"is it {asked}?", "image": f"photos/{photo.name}", "label": "yes" if seen == asked else "no"})
        write_jsonl(tmp_path / name, made)
    (tmp_path / "pairs.toml").write_text(recipe)
    make_picture(tmp_path / "photo.jpg", "red", rng)

    said = {}
    for line in commands.splitlines():
        program, command, *arguments = shlex.split(line)
        assert program == "build/mmtune"
        if command == "train":
            arguments += [f"backbone.main={tmp_path / 'bert'}", f"backbone.condition={tmp_path / 'vit'}", "train.threads=1", "train.epochs=1"]
        said[command] = mmtune(command, *arguments, cwd=tmp_path, check=0).stdout
    assert list(said) == ["train", "eval", "predict", "explain"]
    assert "accuracy" in said["eval"] and ("yes" in said["predict"] or "no" in said["predict"])
    assert "What each expert stands for" in (tmp_path / "report.html").read_text()


def test_clip_on_flowers(tmp_path):
    manifest = pack("flowers5") / "manifest.jsonl"
    model, run = make_clip(tmp_path / "clip"), tmp_path / "run"
    mmtune("train", ROOT / "recipes/flowers_clip.toml", f"backbone.main={model}", f"data.train={manifest}", *SHORT, "--out", run, check=0)
    assert "accuracy" in mmtune("eval", run, "--data", manifest, "data.where.split=test", "data.limit=20", check=0).stdout
    mmtune("export", run, "--out", tmp_path / "peft", check=0)

    flower = member(first_test_row(manifest), manifest, tmp_path / "flower.jpg")
    answer = json.loads(mmtune("predict", run, "--image", flower, "--json", check=0).stdout)
    mmtune("preprocess", model, "--image", flower, "--out", tmp_path / "x.safetensors", check=0)
    scores = in_python("""
import json, sys, safetensors.torch, transformers, peft
model, adapter, inputs = sys.argv[1:]
model = transformers.CLIPForImageClassification.from_pretrained(model, num_labels=5)
model = peft.PeftModel.from_pretrained(model, adapter).eval()
print(json.dumps(model(pixel_values=safetensors.torch.load_file(inputs)["pixel_values"]).logits.softmax(-1)[0].tolist()))
""", model, tmp_path / "peft", tmp_path / "x.safetensors")
    classes = json.loads((run / "run.json").read_text())["task"]["classes"]
    theirs = dict(zip(classes, scores, strict=True))
    for one in answer["top"]:
        assert one["score"] == pytest.approx(theirs[one["label"]], abs=1e-4)


def test_wav2vec2_on_spoken_digits(tmp_path):
    manifest = pack("mnist_fsdd") / "fsdd_manifest.jsonl"
    model, run = make_wav2vec2(tmp_path / "wav2vec2"), tmp_path / "run"
    mmtune("train", ROOT / "recipes/spoken_digits.toml", f"backbone.main={model}", f"data.train={manifest}", *SHORT, "--out", run, check=0)
    assert "accuracy" in mmtune("eval", run, "--data", manifest, "data.where.split=test", "data.limit=20", check=0).stdout
    mmtune("export", run, "--out", tmp_path / "peft", check=0)

    word = member(first_test_row(manifest), manifest, tmp_path / "word.wav")
    answer = json.loads(mmtune("predict", run, "--audio", word, "--json", check=0).stdout)
    mmtune("preprocess", model, "--audio", word, "--out", tmp_path / "x.safetensors", check=0)
    classes = json.loads((run / "run.json").read_text())["task"]["classes"]
    scores = in_python("""
import json, sys, safetensors.torch, transformers, peft
model, adapter, inputs, count = sys.argv[1:]
model = transformers.AutoModelForAudioClassification.from_pretrained(model, num_labels=int(count))
model = peft.PeftModel.from_pretrained(model, adapter).eval()
print(json.dumps(model(**safetensors.torch.load_file(inputs)).logits.softmax(-1)[0].tolist()))
""", model, tmp_path / "peft", tmp_path / "x.safetensors", len(classes))
    theirs = dict(zip(classes, scores, strict=True))
    for one in answer["top"]:
        assert one["score"] == pytest.approx(theirs[one["label"]], abs=1e-4)
