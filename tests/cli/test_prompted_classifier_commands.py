"""Visual prompts through trained classifiers: a frozen head that comes with the checkpoint, and the transfer matrix over runs."""

import json

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from training_support import make_clip, make_image_model, make_pictures, mmtune, read_lines, write_jsonl, write_recipe

pytest.importorskip("torch")

FROZEN = [{"pattern": "head.*", "lr_scale": 0.0}]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two encoders of different architecture, each trained whole on pictures in the field image_pair; the first one as a checkpoint too."""
    folder = tmp_path_factory.mktemp("encoders")
    rows = read_lines(make_pictures(folder / "data", 36, 0))
    for row in rows:
        row["image_pair"] = str(folder / "data" / row.pop("image"))
    data = write_jsonl(folder / "data.jsonl", rows)
    for name, model in (("vit", make_image_model(folder / "base")), ("clip", make_clip(folder / "clip_base", seed=4))):
        recipe = write_recipe(folder / f"{name}.toml", backbone={"main": model, "main_input": "image_pair"}, expert={"method": "full"},
                              data={"train": data}, train={"epochs": 4, "batch": 12, "lr": 3e-3, "seed": 1, "threads": 1})
        mmtune("train", recipe, "--out", folder / name, check=0)
    mmtune("merge", folder / "vit", "--out", folder / "merged", check=0)
    return {"folder": folder, "data": data, "vit": folder / "vit", "clip": folder / "clip", "merged": folder / "merged"}


def prompt(tmp_path, world, name="prompt", model=None, check=0, **train):
    recipe = write_recipe(tmp_path / f"{name}.toml", backbone={"main": model or world["merged"], "main_input": "image_pair"},
                          expert={"method": "visual_prompt", "width": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
                          data={"train": world["data"]}, train={"epochs": 2, "batch": 12, "lr": 0.05, "seed": 1, "threads": 1, **train},
                          **{"train.groups": FROZEN})
    return mmtune("train", recipe, "--out", tmp_path / name, check=check)


def accuracy(run, data):
    return json.loads(mmtune("eval", run, "--data", data, "--json", check=0).stdout)["metrics"]["accuracy"]["value"]


def test_a_classifier_goes_on_with_its_own_head(tmp_path, world):
    said = prompt(tmp_path, world)
    assert "checkpoint's own" in said.stderr + said.stdout
    head, encoder = load_file(tmp_path / "prompt" / "head.safetensors"), load_file(world["vit"] / "head.safetensors")
    # The group's learning rate of 0 freezes it.
    assert all((head[name] == encoder[name]).all() for name in ("weight", "bias")) and len(head) == 2
    delta = load_file(tmp_path / "prompt" / "expert" / "adapter_model.safetensors")["base_model.model.perturbation"]
    assert (delta[:, 2:14, 2:14] == 0).all() and (delta[:, :2] != 0).any()


def test_labels_in_another_order(tmp_path, world):
    folder = tmp_path / "shuffled"
    folder.mkdir()
    for file in world["merged"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    old = config["id2label"]
    config["id2label"] = {"0": old["2"], "1": old["0"], "2": old["1"]}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = numpy.ascontiguousarray(tensors[name][[2, 0, 1]])
    save_file(tensors, folder / "model.safetensors")
    prompt(tmp_path, world, model=folder, lr=0.0)
    head, encoder = load_file(tmp_path / "prompt" / "head.safetensors"), load_file(world["vit"] / "head.safetensors")
    assert all((head[name] == encoder[name]).all() for name in ("weight", "bias"))


def test_other_labels_begin_anew(tmp_path, world):
    folder = tmp_path / "other"
    folder.mkdir()
    for file in world["merged"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["0"] = "violet"
    (folder / "config.json").write_text(json.dumps(config))
    said = prompt(tmp_path, world, model=folder)
    assert "checkpoint's own" not in said.stderr + said.stdout
    head, encoder = load_file(tmp_path / "prompt" / "head.safetensors"), load_file(world["vit"] / "head.safetensors")
    assert (head["weight"] != encoder["weight"]).all()


def test_the_matrix_over_classifiers(tmp_path, world):
    prompt(tmp_path, world, "vp")
    page = tmp_path / "matrix.html"
    arguments = ["prompt", "transfer", tmp_path / "vp", "--models", tmp_path / "vp", world["vit"], world["clip"], "--data", world["data"]]
    matrix = json.loads(mmtune(*arguments, "eval.bootstrap=50", "--json", "--html", page, check=0).stdout)
    assert matrix["metric"] == "accuracy" and len(matrix["models"]) == 3
    (block,) = matrix["blocks"]
    assert block["examples"] == 36 and [row["zero_shot"] for row in block["rows"]] == [True, True, False]
    framed, full, worn = ([cell["metrics"]["accuracy"]["value"] for cell in row["cells"]] for row in block["rows"])
    # Without a prompt every model is what mmtune eval says; with its own the run of the prompt is too; the merged checkpoint is its encoder.
    assert full == [accuracy(world["vit"], world["data"])] * 2 + [accuracy(world["clip"], world["data"])]
    assert worn[0] == accuracy(tmp_path / "vp", world["data"])
    assert framed[0] == framed[1] and worn[0] == worn[1]
    assert [cell["source"] for cell in block["rows"][2]["cells"]] == [True, False, False]
    for cell, plain in zip(block["rows"][2]["cells"], framed):
        assert cell["gain"] == pytest.approx(cell["metrics"]["accuracy"]["value"] - plain)
        assert cell["metrics"]["accuracy"]["interval"][0] <= cell["metrics"]["accuracy"]["value"]
    assert "Transfer of visual prompts" in page.read_text()
    # A prompt of zeros is no prompt; corruptions are blocks of their own.
    save_file({"perturbation": numpy.zeros((3, 16, 16), "float32")}, tmp_path / "zero.safetensors")
    again = json.loads(mmtune("prompt", "transfer", tmp_path / "vp", tmp_path / "zero.safetensors", "--models", world["clip"], "--data", world["data"],
                              "--corrupt", "contrast:5", "--json", check=0).stdout)
    assert [block["change"] for block in again["blocks"]] == ["", "contrast:5"]
    mine = again["blocks"][0]["rows"]
    assert mine[2]["cells"][0]["metrics"]["mean_score"] == block["rows"][2]["cells"][2]["metrics"]["mean_score"]
    fewer = mmtune("prompt", "transfer", tmp_path / "vp", "--models", world["clip"], "--data", world["data"], "data.limit=7", "--json", check=0)
    assert json.loads(fewer.stdout)["blocks"][0]["examples"] == 7


def test_what_is_refused(tmp_path, world):
    prompt(tmp_path, world, "vp")
    mixed = mmtune("prompt", "transfer", tmp_path / "vp", "--models", world["vit"], world["merged"], "--data", world["data"], check=2)
    assert "merged" in mixed.stderr and "classify" in mixed.stderr
    text = write_jsonl(tmp_path / "lonely.jsonl", [{"id": "alone", "label": "red", "text": "no picture"}])
    lonely = mmtune("prompt", "transfer", tmp_path / "vp", "--models", world["vit"], "--data", text, check=1)
    assert "alone" in lonely.stderr
    assert mmtune("prompt", "transfer", tmp_path / "vp", "--models", world["vit"], check=2).stderr.count("\n") == 1
