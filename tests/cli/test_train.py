"""Training, evaluating and predicting as a user does it, on tiny models and made-up data."""

import json
import shutil
import statistics

import pytest
from training_support import (COLOURS, make_image_model, make_pictures, make_text_model, make_texts, mmtune, read_lines, trained_files,
                              write_jsonl, write_recipe)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_text_model(folder / "bert")
    make_image_model(folder / "vit")
    make_texts(folder / "train.jsonl", 96, 1)
    make_texts(folder / "valid.jsonl", 30, 2)
    make_pictures(folder / "pictures", 60, 3)
    make_pictures(folder / "mixed", 120, 4, text_share=0.8, picture_share=0.5)
    return folder


def text_recipe(world, path, **changes):
    sections = {
        "backbone": {"main": world / "bert"},
        "expert": {"method": "lora", "rank": 4, "targets": ["query", "value"]},
        "data": {"train": world / "train.jsonl", "valid": world / "valid.jsonl"},
        "train": {"epochs": 12, "batch": 16, "lr": 2e-2, "seed": 3, "threads": 1},
    }
    for name, section in changes.items():
        sections[name] = {**sections.get(name, {}), **section} if isinstance(section, dict) else section
    return write_recipe(path, **sections)


def test_train_eval_predict(world, tmp_path):
    recipe = text_recipe(world, tmp_path / "r.toml")
    run = tmp_path / "run"
    result = mmtune("train", recipe, "--out", run, check=0)
    assert "best valid accuracy" in result.stderr
    for name in ["recipe.toml", "run.json", "metrics.jsonl", "head.safetensors", "expert/adapter_config.json",
                 "expert/adapter_model.safetensors", "checkpoints/last.safetensors", "checkpoints/best.safetensors"]:
        assert (run / name).is_file(), name
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["step"] == 72
    assert record["task"]["classes"] == sorted(COLOURS)
    assert record["best"]["value"] == record["valid"]["accuracy"] > 0.9
    assert record["performance"]["step_over_operation_bound"] > 0
    assert record["performance"]["peak_memory_bytes"] > 1e6
    lines = read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines if "valid" in line] == list(range(6, 73, 6))
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] / 2

    evaluation = json.loads(mmtune("eval", run, "--data", world / "valid.jsonl", "--json", check=0).stdout)
    accuracy = evaluation["metrics"]["accuracy"]
    assert accuracy["value"] == record["best"]["value"]
    assert accuracy["interval"][0] <= accuracy["value"] <= accuracy["interval"][1]
    assert evaluation["examples"] == 30
    assert json.loads(mmtune("eval", run, "--data", world / "valid.jsonl", "--json", "data.limit=7", check=0).stdout)["examples"] == 7
    assert len(mmtune("predict", run, "--data", world / "valid.jsonl", "data.limit=7", check=0).stdout.splitlines()) == 7
    assert sum(map(sum, evaluation["details"]["confusion"])) == 30
    assert "accuracy" in mmtune("eval", run, "--data", world / "valid.jsonl", check=0).stdout

    one = json.loads(mmtune("predict", run, "--text", "this ball is red", "--json", check=0).stdout)
    assert one["label"] == "red" and one["top"][0]["label"] == "red"
    assert sum(item["score"] for item in one["top"]) == pytest.approx(1)
    assert mmtune("predict", run, "--text", "this ball is green", "--top", 1, check=0).stdout.splitlines()[2].startswith("green")
    unlabelled = write_jsonl(tmp_path / "new.jsonl", [{"id": "n1", "text": "a blue cup"}, {"id": "n2", "text": "red lamp"}])
    answers = [json.loads(line) for line in mmtune("predict", run, "--data", unlabelled, "--top", 2, check=0).stdout.splitlines()]
    assert [(a["id"], a["label"], len(a["top"])) for a in answers] == [("n1", "blue", 2), ("n2", "red", 2)]


def test_runs_beside_each_other(world, tmp_path):
    """Several runs in one table: each as it is alone, and what it is better than the first, example by example."""
    recipe = text_recipe(world, tmp_path / "r.toml", train={"epochs": 2})
    for name, changes in (("lora", []), ("bitfit", ["expert={method='bitfit'}"])):
        mmtune("train", recipe, *changes, "--out", tmp_path / name, check=0)
    data = ["--data", world / "valid.jsonl"]
    alone = [json.loads(mmtune("eval", tmp_path / name, *data, "--json", check=0).stdout)["metrics"] for name in ("lora", "bitfit")]
    runs = json.loads(mmtune("eval", tmp_path / "lora", tmp_path / "bitfit", tmp_path / "lora", *data, "--json", check=0).stdout)["runs"]
    assert [run["metrics"] for run in runs] == [*alone, alone[0]]
    assert [run["method"] for run in runs] == ["lora", "bitfit", "lora"] and runs[1]["trainable_parameters"] != runs[0]["trainable_parameters"]
    assert "less_the_first" not in runs[0]
    for metric, found in runs[1]["less_the_first"].items():
        assert found["value"] == pytest.approx(alone[1][metric]["value"] - alone[0][metric]["value"])
        assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert all(found == {"value": 0, "interval": [0, 0]} for found in runs[2]["less_the_first"].values())
    table = mmtune("eval", tmp_path / "lora", tmp_path / "bitfit", *data, "data.limit=20", check=0).stdout
    assert "less the first" in table and "20 examples" in table and "bitfit" in table
    assert "not a run folder" in mmtune("eval", tmp_path / "lora", tmp_path / "nothing", *data, check=1).stderr


def test_same_seed_same_bytes_and_another_seed_another_expert(world, tmp_path):
    recipe = text_recipe(world, tmp_path / "r.toml", train={"epochs": 2}, expert={"dropout": 0.1})
    for name, seed in [("a", 3), ("b", 3), ("c", 4)]:
        mmtune("train", recipe, f"train.seed={seed}", "--out", tmp_path / name, check=0)
    assert trained_files(tmp_path / "a") == trained_files(tmp_path / "b")
    assert trained_files(tmp_path / "a") != trained_files(tmp_path / "c")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_products_rounded_to_bfloat16(tmp_path, method):
    """The same bytes again, and about what float32 learns; float32 itself where the processor does not multiply such numbers."""
    make_text_model(tmp_path / "bert", width=64)
    make_texts(tmp_path / "train.jsonl", 96, 1)
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": tmp_path / "bert"}, expert={"method": method}, data={"train": tmp_path / "train.jsonl"},
                          train={"epochs": 3, "batch": 16, "lr": 1e-2 if method == "lora" else 1e-4, "seed": 3, "threads": 1, "log_every": 1})
    for name, precision in (("a", "medium"), ("b", "medium"), ("exact", "highest")):
        mmtune("train", recipe, "--matmul-precision", precision, "--out", tmp_path / name, check=0)
    assert trained_files(tmp_path / "a") == trained_files(tmp_path / "b")
    losses = [[line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl") if "loss" in line] for name in ("a", "exact")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    rounds = json.loads((tmp_path / "a" / "run.json").read_text())["machine"]["multiplies_bfloat16"]
    assert (losses[0] == losses[1]) != rounds


@pytest.mark.parametrize("change", [{"train.batch=4": 1, "train.accumulate=4": 1}, {"train.packing=padded": 1}])
def test_what_must_not_matter(world, tmp_path, change):
    """Accumulated small batches learn what one large batch learns, and packed texts what padded ones learn."""
    recipe = text_recipe(world, tmp_path / "r.toml", train={"epochs": 2, "log_every": 1})
    mmtune("train", recipe, "--out", tmp_path / "a", check=0)
    mmtune("train", recipe, *change, "--out", tmp_path / "b", check=0)
    losses = [[line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl") if "loss" in line] for name in "ab"]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


@pytest.mark.parametrize("method", ["full", "linear", "bitfit", "lora", "ia3", "adapter", "prefix", "prompt", "ladder"])
def test_every_method_learns_pictures(world, tmp_path, method):
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "vit"}, expert={"method": method},
                          data={"train": world / "pictures" / "manifest.jsonl", "valid_fraction": 0.2},
                          train={"epochs": 4, "batch": 16, "lr": 3e-3, "threads": 1})
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0, cache=str(tmp_path / "cache"))
    losses = [line["loss"] for line in read_lines(run / "metrics.jsonl") if "loss" in line]
    record = json.loads((run / "run.json").read_text())
    assert record["experts"][0]["kind"] == method
    assert record["data"]["train"]["examples"] == 48 and record["data"]["valid"]["examples"] == 12
    picture = next((world / "pictures").glob("*.png"))
    answer = json.loads(mmtune("predict", run, "--image", picture, "--json", check=0).stdout)
    assert answer["label"] in COLOURS
    assert losses


def test_frozen_towers_are_asked_once(world, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "vit"}, expert={"method": "linear"},
                          data={"train": world / "pictures" / "manifest.jsonl"}, train={"epochs": 30, "batch": 16, "lr": 3e-2, "threads": 1})
    first = mmtune("train", recipe, "--out", tmp_path / "a", check=0, cache=str(tmp_path / "cache"))
    second = mmtune("train", recipe, "--out", tmp_path / "b", check=0, cache=str(tmp_path / "cache"))
    assert "kept from an earlier run" not in first.stderr
    assert "kept from an earlier run" in second.stderr
    assert (tmp_path / "a" / "head.safetensors").read_bytes() == (tmp_path / "b" / "head.safetensors").read_bytes()
    result = json.loads(mmtune("eval", tmp_path / "b", "--data", world / "pictures" / "manifest.jsonl", "--json", check=0).stdout)
    assert result["metrics"]["accuracy"]["value"] > 0.9


@pytest.mark.parametrize("fusion", ["concat", "mean_logits"])
def test_two_towers_with_missing_modalities(world, tmp_path, fusion):
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "vit", "condition": world / "bert"},
                          expert=[{"method": "lora", "tower": "condition", "rank": 2}, {"method": "bitfit", "tower": "main"}],
                          head={"fusion": fusion, "kind": "mlp", "hidden": 16},
                          data={"train": world / "mixed" / "manifest.jsonl", "valid_fraction": 0.2},
                          train={"epochs": 20, "batch": 16, "lr": 2e-2, "threads": 1})
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    assert (run / "expert" / "main-bitfit" / "adapter_model.safetensors").is_file()
    assert (run / "expert" / "condition-lora" / "adapter_model.safetensors").is_file()
    record = json.loads((run / "run.json").read_text())
    assert record["learned_absent"] == [True, True]
    assert record["best"]["value"] > 0.7
    only_texts = json.loads(mmtune("eval", run, "--data", world / "valid.jsonl", "--json", check=0).stdout)
    assert only_texts["metrics"]["accuracy"]["value"] > 0.5
    picture = json.loads((world / "mixed" / "manifest.jsonl").read_text().splitlines()[0])
    mmtune("predict", run, "--image", world / "mixed" / picture.get("image", "1.png"), check=0)


def test_several_kinds_on_one_tower(world, tmp_path):
    kinds = [{"method": "lora", "rank": 2, "targets": ["query"]}, {"method": "adapter", "bottleneck": 4}, {"method": "prompt", "length": 2},
             {"method": "lora", "rank": 3, "targets": ["value"]}]
    recipe = text_recipe(world, tmp_path / "r.toml", expert=kinds)
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, "train.epochs=4", check=0)
    record = json.loads((run / "run.json").read_text())
    assert [one["kind"] for one in record["experts"]] == ["lora", "adapter", "prompt", "lora"]
    assert len(list((run / "expert").rglob("adapter_model.safetensors"))) == 4

    def loss_of(run):
        return json.loads(mmtune("eval", run, "--data", world / "valid.jsonl", "--json", check=0).stdout)["metrics"]["loss"]["value"]

    loss = loss_of(run)
    assert loss == pytest.approx(record["valid"]["loss"], abs=1e-6)
    # Each of the four is needed for that loss.
    for folder in sorted(path.parent for path in (run / "expert").rglob("adapter_model.safetensors")):
        copy = tmp_path / f"without-{folder.name}"
        shutil.copytree(run, copy)
        damage(copy / "expert" / folder.name / "adapter_model.safetensors")
        assert abs(loss_of(copy) - loss) > 1e-4, folder.name


def damage(path):
    """Doubles every tensor of a file, its metadata kept."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        tensors = {name: 2 * file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    save_file(tensors, path, metadata)


def test_multi_label(world, tmp_path):
    import random

    rng = random.Random(5)
    colours = list(COLOURS)
    rows = []
    for i in range(90):
        chosen = [c for c in colours if rng.random() < 0.5]
        rows.append({"text": " and ".join(f"a {c} ball" for c in chosen) or "a very old lamp", "labels": chosen})
    data = write_jsonl(tmp_path / "multi.jsonl", rows)
    recipe = text_recipe(world, tmp_path / "r.toml", data={"train": data, "valid": data, "multi_label": True},
                         train={"epochs": 20, "lr": 2e-2}, loss={"balanced": True})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    result = json.loads(mmtune("eval", tmp_path / "run", "--data", data, "--json", check=0).stdout)
    assert result["metrics"]["macro_f1"]["value"] > 0.9
    answer = json.loads(mmtune("predict", tmp_path / "run", "--text", "a red ball and a blue ball", "--json", check=0).stdout)
    assert sorted(answer["labels"]) == ["blue", "red"]


def test_early_stopping_keeps_the_best(world, tmp_path):
    recipe = text_recipe(world, tmp_path / "r.toml", train={"epochs": 40, "patience": 2, "metric": "loss", "lr": 5e-2})
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    record = json.loads((run / "run.json").read_text())
    assert record["stopped_early"] and record["step"] < 240
    validations = {line["step"]: line["valid"]["loss"] for line in read_lines(run / "metrics.jsonl") if "valid" in line}
    assert record["best"]["value"] == min(validations.values()) == validations[record["best"]["step"]]
    result = json.loads(mmtune("eval", run, "--data", world / "valid.jsonl", "--json", check=0).stdout)
    assert result["metrics"]["loss"]["value"] == pytest.approx(record["best"]["value"], abs=1e-5)


def test_groups_schedules_and_sgd(world, tmp_path):
    recipe = text_recipe(world, tmp_path / "r.toml", train={"optimizer": "sgd", "lr": 0.1, "epochs": 2, "schedule": "cosine", "warmup": 0.25,
                                                           "log_every": 1})
    recipe.write_text(recipe.read_text() + '[[train.groups]]\npattern = "head.*"\nlr_scale = 0.5\nweight_decay = 0.0\n')
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    rates = [line["lr"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "lr" in line]
    assert rates[0] == pytest.approx(0.1 / 4) and rates[3] == pytest.approx(0.1) and rates[-1] < 0.01


def test_the_tuned_expert_is_needed(world, tmp_path):
    """An evaluation with another backbone than the expert's own is refused."""
    recipe = text_recipe(world, tmp_path / "r.toml", train={"epochs": 1})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    other = make_text_model(tmp_path / "other", seed=9)
    result = mmtune("eval", tmp_path / "run", f"backbone.main={other}", "--data", world / "valid.jsonl", check=1)
    assert "belongs to another backbone" in result.stderr and result.stderr.count("\n") == 1


def test_seeds(world, tmp_path):
    recipe = text_recipe(world, tmp_path / "r.toml", train={"epochs": 2})
    out = tmp_path / "runs"
    result = mmtune("train", recipe, "--seeds", "1,2,5", "--out", out, check=0)
    summary = json.loads((out / "seeds.json").read_text())
    values = [json.loads((out / f"seed-{seed}" / "run.json").read_text())["valid"]["loss"] for seed in (1, 2, 5)]
    assert [run["seed"] for run in summary["runs"]] == [1, 2, 5] and len(set(values)) == 3
    assert summary["valid"]["loss"]["mean"] == pytest.approx(sum(values) / 3)
    assert summary["valid"]["loss"]["std"] == pytest.approx(statistics.stdev(values))
    assert "accuracy" in result.stderr and "std" in result.stderr

    # One of the seeds alone is the same run, and a second call finds everything done.
    mmtune("train", recipe, "train.seed=2", "--out", tmp_path / "alone", check=0)
    assert trained_files(tmp_path / "alone") == trained_files(out / "seed-2")
    again = mmtune("train", recipe, "--seeds", "1,2,5", "--out", out, "--resume", check=0)
    assert again.stderr.count("is finished already") == 3
    assert json.loads((out / "seeds.json").read_text()) == summary


@pytest.mark.parametrize("seeds", ["1,x", "1,1", "-1", "1.5"])
def test_bad_seeds(world, tmp_path, seeds):
    recipe = text_recipe(world, tmp_path / "r.toml")
    message = mmtune("train", recipe, f"--seeds={seeds}", "--out", tmp_path / "runs", check=2).stderr
    assert "--seeds" in message
    assert not (tmp_path / "runs").exists()
