"""Training of visual prompts through tiny multimodal models: runs, resuming, evaluation, prediction, the transfer matrix, mistakes."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from training_support import PROGRAM, make_clip, make_pictures, mmtune, write_jsonl

torch = pytest.importorskip("torch")
from multimodal import make_blip2, make_llava  # noqa: E402

RECIPE = """
task = "recognise"
[expert]
method = "tvp"
frame = 28
width = 4
[[source]]
model = "{model}"
[data]
train = "{data}"
workers = 0
[train]
epochs = 2
batch = 8
lr = 2.0
threads = 1
log_every = 1
seed = 3
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two models of different families, a CLIP, and pictures of three colours."""
    folder = tmp_path_factory.mktemp("tvp")
    data = make_pictures(folder / "data", 24, 0)
    return {
        "llava": make_llava(folder / "llava"),
        "opt": make_blip2(folder / "opt", seed=1),
        "t5": make_blip2(folder / "t5", seed=2, language="t5"),
        "clip": make_clip(folder / "clip"),
        "data": data,
    }


def write_recipe(tmp_path, world, model="llava", **more):
    path = tmp_path / "recipe.toml"
    text = RECIPE.format(model=world[model], data=world["data"])
    path.write_text(text)
    return path


def train(tmp_path, world, *changes, out="run", model="llava", check=0):
    return mmtune("train", write_recipe(tmp_path, world, model), *changes, "--out", tmp_path / out, check=check)


def delta_of(run):
    return load_file(run / "expert" / "adapter_model.safetensors")["base_model.model.perturbation"]


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", ["llava", "opt", "t5"])
def test_a_prompt_learns(tmp_path, world, model):
    train(tmp_path, world, f"data.valid={world['data']}", "train.epochs=4", model=model)
    run = tmp_path / "run"
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "finished" and record["trainable_parameters"] == 3 * (28 * 28 - 20 * 20)
    assert record["classes"] == ["blue", "green", "red"] and record["total_steps"] == 12
    delta = delta_of(run)
    assert (delta[:, 4:24, 4:24] == 0).all() and numpy.abs(delta[:, :4]).max() > 0
    steps = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert numpy.mean([line["loss"] for line in steps[-3:]]) < numpy.mean([line["loss"] for line in steps[:3]])
    # Half a wave over the epochs, constant within each.
    expected = [2.0 * (1 + numpy.cos(numpy.pi * e / 4)) / 2 for e in range(4) for _ in range(3)]
    assert [line["lr"] for line in steps] == pytest.approx(expected)
    assert "valid" in record and 0 <= record["valid"]["accuracy"] <= 1


def test_the_terms_of_the_loss_add_up(tmp_path, world):
    train(tmp_path, world, "expert.fca=0.05", "expert.tse=0.002", f"expert.caption_model={world['clip']}")
    for line in [line for line in lines(tmp_path / "run") if "loss" in line]:
        total = line["main"][0] + 0.05 * line["fca"][0] - 0.002 * line["tse"]
        assert line["loss"] == pytest.approx(total, rel=1e-6)
    first = lines(tmp_path / "run")[0]
    assert first["fca"] == [0.0]  # no prompt yet: nothing moved


def test_micro_batches_make_the_same_step(tmp_path, world):
    changes = ["expert.fca=0.05", "expert.tse=0.002", f"expert.caption_model={world['clip']}", "train.steps=3"]
    train(tmp_path, world, *changes, out="whole")
    train(tmp_path, world, *changes, "train.micro_batch=3", out="parts")
    for one, other in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts")):
        for key in ("loss", "tse"):
            assert one[key] == pytest.approx(other[key], rel=1e-5)
    whole, parts = delta_of(tmp_path / "whole"), delta_of(tmp_path / "parts")
    assert numpy.abs(whole - parts).max() < 1e-4 * numpy.abs(whole).max()


def test_clean_features_are_kept_and_change_nothing(tmp_path, world):
    changes = ["expert.fca=0.5", "train.epochs=3"]
    train(tmp_path, world, *changes, out="kept")
    train(tmp_path, world, *changes, "data.cache_mb=0", out="anew")
    kept = json.loads((tmp_path / "kept" / "run.json").read_text())
    assert kept["clean_features"][0]["bytes"] > 0
    assert "clean_features" not in json.loads((tmp_path / "anew" / "run.json").read_text())
    one, other = delta_of(tmp_path / "kept"), delta_of(tmp_path / "anew")
    assert numpy.abs(one - other).max() < 1e-4 * numpy.abs(one).max()


def test_two_sources_are_the_mean_of_both(tmp_path, world):
    recipe = write_recipe(tmp_path, world)
    recipe.write_text(recipe.read_text() + f'[[source]]\nmodel = "{world["t5"]}"\n')
    mmtune("train", recipe, "expert.fca=0.05", "train.steps=2", "--out", tmp_path / "run", check=0)
    line = [line for line in lines(tmp_path / "run") if "loss" in line][0]
    assert len(line["main"]) == 2
    assert line["loss"] == pytest.approx(sum(line["main"]) / 2 + 0.05 * sum(line["fca"]) / 2, rel=1e-6)
    alone = tmp_path / "alone"
    train(tmp_path, world, "train.steps=1", out="alone")
    assert lines(alone)[0]["main"][0] == pytest.approx(line["main"][0], rel=1e-6)


@pytest.mark.parametrize("rule", ["normalised", "adam", "sgd"])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, world, rule):
    changes = [f"train.rule={rule}", "train.lr=0.5", "expert.fca=0.05", "expert.tse=0.002", f"expert.caption_model={world['clip']}",
               f"data.valid={world['data']}", "train.epochs=3", "train.checkpoint_every=1", "data.valid_where.id=!=p0-0"]
    recipe = write_recipe(tmp_path, world)
    mmtune("train", recipe, *changes, "--out", tmp_path / "whole", check=0)
    command = [str(PROGRAM), "train", str(recipe), *changes, "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "cut" / "checkpoints" / "last.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=120)
    if code != 0:
        assert code == 130
        assert json.loads((tmp_path / "cut" / "run.json").read_text())["state"] == "interrupted"
        mmtune("train", recipe, *changes, "--out", tmp_path / "cut", "--resume", check=0)
    assert delta_of(tmp_path / "whole").tobytes() == delta_of(tmp_path / "cut").tobytes()
    strip = lambda run: [{k: v for k, v in line.items() if k != "seconds"} for line in lines(run)]  # noqa: E731
    assert strip(tmp_path / "whole") == strip(tmp_path / "cut")


def test_evaluation_on_the_source_and_on_another_model(tmp_path, world):
    train(tmp_path, world)
    own = json.loads(mmtune("eval", tmp_path / "run", "--data", world["data"], "--json", check=0).stdout)
    assert json.loads(mmtune("eval", tmp_path / "run", "--data", world["data"], "--json", "data.limit=3", check=0).stdout)["examples"] == 3
    assert own["examples"] == 24 and set(own["rows"]) == {"prompted", "zero_shot_framed", "zero_shot_full"}
    assert own["metrics"] == own["rows"]["prompted"]
    low, high = own["metrics"]["accuracy"]["interval"]
    assert low <= own["metrics"]["accuracy"]["value"] <= high
    other = json.loads(mmtune("eval", tmp_path / "run", "--data", world["data"], "--model", world["opt"], "--json", check=0).stdout)
    assert other["model"] == str(world["opt"])
    assert other["metrics"]["mean_score"] != own["metrics"]["mean_score"]
    table = mmtune("eval", tmp_path / "run", "--data", world["data"], check=0).stdout
    assert "no prompt, in the frame" in table and "24 examples" in table


def test_prediction(tmp_path, world):
    train(tmp_path, world)
    image = Path(world["data"]).parent / "0.png"
    one = json.loads(mmtune("predict", tmp_path / "run", "--image", image, "--top", 2, "--json", check=0).stdout)
    assert len(one["top"]) == 2 and one["label"] == one["top"][0]["label"] and one["top"][0]["score"] >= one["top"][1]["score"]
    many = mmtune("predict", tmp_path / "run", "--data", world["data"], check=0).stdout.splitlines()
    assert len(many) == 24 and json.loads(many[0])["label"] == one["label"]
    shown = mmtune("predict", tmp_path / "run", "--image", image, check=0).stdout
    assert one["label"] in shown


def test_the_transfer_matrix(tmp_path, world):
    train(tmp_path, world, out="tvp")
    train(tmp_path, world, "train.rule=adam", "train.lr=0.05", out="adam", model="t5")
    arguments = ["prompt", "transfer", tmp_path / "tvp", tmp_path / "adam", "--models", world["llava"], world["opt"], "--data", world["data"]]
    page = tmp_path / "matrix.html"
    matrix = json.loads(mmtune(*arguments, "eval.bootstrap=50", "--json", "--html", page, check=0).stdout)
    assert matrix["metric"] == "accuracy" and matrix["models"] == [str(world["llava"]), str(world["opt"])]
    (block,) = matrix["blocks"]
    assert [row["prompt"] for row in block["rows"]][2:] == ["tvp", "adam"]
    assert [row["zero_shot"] for row in block["rows"]] == [True, True, False, False]
    assert [cell["source"] for cell in block["rows"][2]["cells"]] == [True, False]
    assert [cell["source"] for cell in block["rows"][3]["cells"]] == [False, False]
    unseen = block["rows"][2]["cells"][1]["metrics"]["accuracy"]["value"]
    assert block["rows"][2]["mean_over_unseen"] == pytest.approx(unseen)
    assert block["rows"][2]["mean_gain_over_unseen"] == pytest.approx(unseen - block["rows"][0]["cells"][1]["metrics"]["accuracy"]["value"])
    for row in block["rows"][1:]:
        for cell, plain in zip(row["cells"], block["rows"][0]["cells"]):
            difference = cell["metrics"]["accuracy"]["value"] - plain["metrics"]["accuracy"]["value"]
            assert cell["gain"] == pytest.approx(difference)
    # The same numbers as mmtune eval.
    own = json.loads(mmtune("eval", tmp_path / "tvp", "--data", world["data"], "--json", check=0).stdout)
    assert block["rows"][2]["cells"][0]["metrics"]["mean_score"]["value"] == own["metrics"]["mean_score"]["value"]
    assert block["rows"][0]["cells"][0]["metrics"]["mean_score"]["value"] == own["rows"]["zero_shot_framed"]["mean_score"]["value"]
    assert "Transfer of visual prompts" in page.read_text()
    text = mmtune(*arguments, check=0).stdout
    assert "no prompt, in the frame" in text and "tvp" in text


def test_corrupted_pictures(tmp_path, world):
    train(tmp_path, world)
    arguments = ["prompt", "transfer", tmp_path / "run", "--models", world["llava"], "--data", world["data"], "--corrupt", "impulse_noise:5,contrast:5"]
    matrix = json.loads(mmtune(*arguments, "--json", check=0).stdout)
    assert [block["change"] for block in matrix["blocks"]] == ["", "impulse_noise:5", "contrast:5"]
    plain, noisy = (block["rows"][2]["cells"][0] for block in matrix["blocks"][:2])
    assert plain != noisy
    evaluated = json.loads(mmtune("eval", tmp_path / "run", "--data", world["data"], "--corrupt", "impulse_noise:5", "--json", check=0).stdout)
    assert evaluated["metrics"]["mean_score"]["value"] == noisy["metrics"]["mean_score"]["value"]
    assert "gaussian_noise" in mmtune(*arguments[:-1], "gaussian_noize:3", check=2).stderr


def test_a_prompt_alone_is_asked_by_key_value(tmp_path, world):
    save_file({"perturbation": numpy.zeros((3, 28, 28), "float32")}, tmp_path / "zero.safetensors")
    matrix = json.loads(mmtune("prompt", "transfer", tmp_path / "zero.safetensors", "question.instruction=what colour is it?",
                               "--models", world["llava"], "--data", world["data"], "--json", check=0).stdout)
    rows = matrix["blocks"][0]["rows"]
    # A prompt of zeros is no prompt.
    assert rows[2]["cells"][0]["metrics"] == rows[0]["cells"][0]["metrics"] and rows[2]["cells"][0]["gain"] == 0
    assert matrix["blocks"][0]["examples"] == 24
    fewer = json.loads(mmtune("prompt", "transfer", tmp_path / "zero.safetensors", "question.instruction=what colour is it?", "data.limit=5",
                              "--models", world["llava"], "--data", world["data"], "--json", check=0).stdout)
    assert fewer["blocks"][0]["examples"] == 5


def questions(tmp_path, world, text, labels):
    rng = random.Random(0)
    rows = []
    for i in range(24):
        rows.append({"id": f"q{i}", "image": str(Path(world["data"]).parent / f"{i}.png"), "text": text, "label": rng.choice(labels)})
    return write_jsonl(tmp_path / "questions.jsonl", rows)


@pytest.mark.parametrize("task,metric", [("yes_no", "f1"), ("detect", "auc")])
def test_questions_with_two_answers(tmp_path, world, task, metric):
    data = questions(tmp_path, world, "Is this red?", ["no", "yes"])
    train(tmp_path, world, f"task={task}", f"data.train={data}", f"data.valid={data}")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {"accuracy", "precision", "recall", "f1", "yes_ratio", metric} <= set(record["valid"])
    metrics = json.loads(mmtune("eval", tmp_path / "run", "--data", data, "--json", check=0).stdout)["metrics"]
    lines_ = [json.loads(line) for line in mmtune("predict", tmp_path / "run", "--data", data, check=0).stdout.splitlines()]
    truth = [json.loads(line)["label"] for line in data.read_text().splitlines()]
    said = [line["label"] for line in lines_]
    right = sum(a == b == "yes" for a, b in zip(said, truth))
    assert metrics["yes_ratio"]["value"] == pytest.approx(said.count("yes") / len(said))
    assert metrics["recall"]["value"] == pytest.approx(right / truth.count("yes"))
    if task == "detect":
        score = [{item["label"]: item["score"] for item in line["top"]} for line in lines_]
        margin = [one["yes"] - one["no"] for one in score]
        pairs = [(a, b) for a, t in zip(margin, truth) if t == "yes" for b, u in zip(margin, truth) if u == "no"]
        area = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
        assert metrics["auc"]["value"] == pytest.approx(area, abs=1e-6)


def test_counting(tmp_path, world):
    data = questions(tmp_path, world, "unused", ["1", "2", "7"])
    train(tmp_path, world, "task=count", f"data.train={data}")
    metrics = json.loads(mmtune("eval", tmp_path / "run", "--data", data, "--json", check=0).stdout)["metrics"]
    said = [json.loads(line)["label"] for line in mmtune("predict", tmp_path / "run", "--data", data, check=0).stdout.splitlines()]
    truth = [json.loads(line)["label"] for line in data.read_text().splitlines()]
    assert metrics["mean_absolute_error"]["value"] == pytest.approx(numpy.mean([abs(int(a) - int(b)) for a, b in zip(said, truth)]))


@pytest.mark.parametrize("form", ["full", "vp_padding", "vp_fixed_patch", "vp_random_patch"])
def test_other_forms(tmp_path, world, form):
    train(tmp_path, world, f"expert.form={form}", "train.rule=sgd", "train.schedule=cosine_step", "train.warmup=2", "train.lr=0.5")
    rates = [line["lr"] for line in lines(tmp_path / "run")]
    assert rates[:2] == pytest.approx([0.25, 0.5]) and rates[2] == pytest.approx(0.5)
    mmtune("eval", tmp_path / "run", "--data", world["data"], check=0)
    mmtune("prompt", "show", tmp_path / "run", check=0)


def test_a_model_of_another_size(tmp_path, world):
    """The prompted frame is resized for it."""
    train(tmp_path, world)
    large = make_llava(tmp_path / "large", seed=5, side=42)
    result = json.loads(mmtune("eval", tmp_path / "run", "--data", world["data"], "--model", large, "--json", check=0).stdout)
    assert result["examples"] == 24


def test_going_on_from_a_prompt(tmp_path, world):
    train(tmp_path, world, "train.steps=1", out="first")
    train(tmp_path, world, "train.steps=1", "train.lr=0.0", f"expert.start={tmp_path / 'first'}", out="second")
    assert delta_of(tmp_path / "first").tobytes() == delta_of(tmp_path / "second").tobytes()
    wider = train(tmp_path, world, "expert.width=5", f"expert.start={tmp_path / 'first'}", out="third", check=2)
    assert "width 5" in wider.stderr and "width 4" in wider.stderr


@pytest.mark.parametrize(
    "changes,words",
    [
        (["expert.image_size=21"], ["expert.image_size", "odd"]),
        (["expert.width=14"], ["expert.image_size", "fit into the frame"]),
        (["expert.tse=0.1"], ["expert.caption_model"]),
        (["expert.caption=nothing"], ["expert.caption", "{}"]),
        (["expert.form=border_"], ["expert.form", "border"]),
        (["train.rule=normalized"], ["train.rule", "normalised"]),
        (["expert.widht=3"], ["widht", "width"]),
        (["question.names.purple=violet"], ["question.names", "purple"]),
        (["task=yes_no"], ["two"]),
    ],
)
def test_mistakes_in_the_recipe(tmp_path, world, changes, words):
    result = train(tmp_path, world, f"data.valid={world['data']}", *changes, check=2) if changes != ["task=yes_no"] else None
    if result is None:
        result = mmtune("train", write_recipe(tmp_path, world), f"data.valid={world['data']}", *changes, "--out", tmp_path / "run")
        assert result.returncode in (1, 2)
    for word in words:
        assert word in result.stderr
    assert "internal" not in result.stderr


def test_a_candidate_without_tokens_and_a_question_without_text(tmp_path, world):
    empty = train(tmp_path, world, 'question.names.red=""', check=1)
    assert "no tokens" in empty.stderr
    lacking = train(tmp_path, world, "question.instruction={text}?", out="lacking", check=1)
    assert "p0-" in lacking.stderr and "text" in lacking.stderr


def test_what_is_no_multimodal_model(tmp_path, world):
    result = train(tmp_path, world, f"source.model={world['clip']}", check=1)
    assert "clip" in result.stderr
    missing = train(tmp_path, world, "source.model=no-such-model", out="missing", check=1)
    assert "no-such-model" in missing.stderr


def test_an_unreadable_picture_is_named(tmp_path, world):
    folder = Path(world["data"]).parent
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = [{"id": "good", "image": str(folder / "0.png"), "label": "red"}, {"id": "bad one", "image": str(tmp_path / "broken.png"), "label": "blue"}]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    result = train(tmp_path, world, f"data.train={data}", "train.batch=1", check=1)
    assert "bad one" in result.stderr and "broken.png" in result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_model_is_only_for_prompts(tmp_path, world):
    environment = dict(os.environ)
    assert environment is not None
    result = mmtune("eval", world["clip"], "--data", world["data"], "--model", world["llava"], check=2)
    assert "--model" in result.stderr
