"""Every recipe of APT on tiny models: its keys are understood, and on data of the layout that it names it trains and is evaluated."""

import json
import random
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_import_checkpoint_commands import meter_tensors, save
from test_vilt_commands import make_vilt
from training_support import COLOURS, make_clip, make_image_model, make_picture, make_text_model, mmtune, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes" / "apt").glob("*.toml"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apt-models")
    make_vilt(folder / "vilt")
    make_clip(folder / "clip")
    make_image_model(folder / "vit")
    make_text_model(folder / "tokenizer")
    file = save(meter_tensors(), folder / "meter.ckpt")
    mmtune("import", file, "--tokenizer", folder / "tokenizer", "--out", folder / "meter", check=0)
    return folder


def model_of(name, models):
    return models / next(kind for kind in ("vilt", "meter", "clip", "vit") if kind in name)


def made_up(recipe, folder, count, rng):
    """Rows in the layout that the recipe reads; returns (file, join or nothing)."""
    name, task = Path(recipe["data"]["train"]).name, recipe["task"]
    colours = list(COLOURS)
    shown = [colours[i % 3] for i in range(count)]

    def picture(path, i):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        make_picture(folder / path, shown[i % count], rng)
        return path

    if name == "dataset_flickr30k.json":
        images = []
        for i in range(count):
            picture(f"flickr30k-images/{i}.jpg", i)
            images.append({"filename": f"{i}.jpg", "split": ("train", "test", "val")[i // 3 % 3], "sentences": [{"raw": f"the {shown[i]} ball", "sentid": i}]})
        (folder / name).write_text(json.dumps({"images": images}))
        return folder / name, None
    if "questions" in name:
        questions, annotations = [], []
        for i in range(count):
            picture(f"train2014/COCO_train2014_{i:012}.jpg", i)
            questions.append({"question_id": i, "image_id": i, "question": "the ball is"})
            annotations.append({"question_id": i, "image_id": i, "answers": [{"answer": shown[i]}] * 10})
        (folder / name).write_text(json.dumps({"questions": questions}))
        (folder / "annotations.json").write_text(json.dumps({"annotations": annotations}))
        return folder / name, folder / "annotations.json"
    if recipe["data"].get("columns", {}).get("id") == "identifier":
        rows = []
        for i in range(count):
            for side in (0, 1):
                picture(f"images/train-{i}-0-img{side}.png", i + side)
            rows.append({"identifier": f"train-{i}-0-0", "sentence": "the ball", "label": ("True", "False")[i % 2]})
        return write_jsonl(folder / name, rows), None
    rows = []
    for i in range(count):
        row = {"id": str(i), "image": picture(f"{i}a.png", i), "split": ("train", "train", "val")[i // 3 % 3], "style": "noto", "class_name": shown[i],
               "name": f"the {shown[i]} ball", "text": "the ball is", "label": shown[i]}
        if task == "pair":
            row |= {"image_pair": picture(f"{i}b.png", i + 1), "label": ("True", "False")[i % 2]}
        rows.append(row)
    return write_jsonl(folder / name, rows), None


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_train(path, models, tmp_path):
    recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    missing = mmtune("train", path, "backbone.main=/nonexistent/model", "data.train=/nonexistent/data.jsonl", "--out", tmp_path / "none")
    assert missing.returncode == 1 and "does not exist" in missing.stderr, missing.stderr
    data, join = made_up(recipe, tmp_path, 36, random.Random(3))
    changes = [f"backbone.main={model_of(recipe['backbone']['main'], models)}", f"data.train={data}", "train.batch=6", "train.accumulate=1",
               "train.steps=2", "train.threads=1", "data.workers=0"]
    if "valid" in recipe["data"]:
        changes.append(f"data.valid={data}")
    if join:
        changes.append(f"data.join={join}")
    if "valid_fraction" in recipe["data"]:
        changes.append("data.valid_fraction=0.2")
    if "max_length" in recipe["backbone"]:
        changes.append("backbone.max_length=10")
    mmtune("train", path, *changes, "--out", tmp_path / "run", check=0)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["state"] == "finished" and record["experts"][0]["kind"] == "apt"


def test_nlvr_is_cut_into_its_boxes(tmp_path):
    """Three boxes of three colours: the left one alone, the others side by side."""
    from PIL import Image

    source = tmp_path / "source"
    source.mkdir()
    rows, data = [], b""
    for i, split in enumerate(("train", "train", "val", "test")):
        picture = Image.new("RGBA", (400, 100), (128, 128, 128, 255))
        for x, colour in ((0, (250, 0, 0, 255)), (150, (0, 250, 0, 255)), (300, (0, 0, 250, 255))):
            picture.paste(colour, (x, 0, x + 100, 100))
        picture.save(tmp_path / "one.png")
        one = (tmp_path / "one.png").read_bytes()
        rows.append({"id": f"n{i}", "split": split, "group": f"g{i}", "sentence": "a red box", "label": i % 2, "shard": "all.bin", "offset": len(data), "size": len(one)})
        data += one
    (source / "all.bin").write_bytes(data)
    write_jsonl(source / "manifest.jsonl", rows)
    tool = [sys.executable, ROOT / "tools" / "nlvr_pairs.py"]
    done = subprocess.run([*tool, source, tmp_path / "pairs"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["train: 2 pairs", "valid: 1 pairs", "test: 1 pairs"]
    read = [json.loads(line) for line in (tmp_path / "pairs/train.jsonl").read_text().splitlines()]
    assert [row["label"] for row in read] == ["False", "True"]
    told = mmtune("inspect", tmp_path / "pairs/train.jsonl", "--json", check=0).stdout
    assert json.loads(told)
    import io
    import tarfile

    with tarfile.open(tmp_path / "pairs/train.tar") as archive:
        left, both = (Image.open(io.BytesIO(archive.extractfile(read[0][key].split("#")[1]).read())) for key in ("image", "image_pair"))
    assert left.size == (100, 100) and both.size == (200, 100) and left.mode == both.mode == "RGB"
    assert left.getpixel((99, 50)) == (250, 0, 0) and both.getpixel((0, 0)) == (0, 250, 0) and both.getpixel((100, 99)) == (0, 0, 250)
    failed = subprocess.run([*tool, tmp_path / "nothing", tmp_path / "out"], capture_output=True, text=True, timeout=120)
    assert failed.returncode == 1 and failed.stderr.startswith("nlvr_pairs.py: ") and "manifest.jsonl" in failed.stderr
