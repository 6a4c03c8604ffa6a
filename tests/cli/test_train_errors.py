"""What train, eval and predict say to mistakes: one line, the right exit code, and nothing lost."""

import json
import resource

import pytest
from training_support import make_image_model, make_pictures, make_text_model, make_texts, mmtune, write_jsonl, write_recipe


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    make_text_model(folder / "bert")
    make_image_model(folder / "vit")
    make_texts(folder / "train.jsonl", 24, 1)
    make_texts(folder / "valid.jsonl", 12, 2)
    write_recipe(folder / "r.toml", backbone={"main": folder / "bert"}, expert={"method": "lora", "rank": 2},
                 data={"train": folder / "train.jsonl", "valid": folder / "valid.jsonl"}, train={"epochs": 2, "batch": 8, "threads": 1})
    return folder


def one_line(result):
    """The error line; there is exactly one."""
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(errors) == 1, result.stderr
    return errors[0]


@pytest.mark.parametrize("change, words", [
    ("train.epoch=3", ["epoch", "epochs"]),
    ("expert.rnk=3", ["rnk", "rank"]),
    ("expert.method=lorra", ["lorra", "lora"]),
    ("expert.bottleneck=8", ["bottleneck"]),
    ("train.batch=0", ["batch", "1"]),
    ("train.lr=fast", ["lr", "number"]),
    ("train.schedule=triangle", ["schedule", "cosine"]),
    ("train.metric=acuracy", ["acuracy", "accuracy"]),
    ("expert.tower=condition", ["condition"]),
    ("backbone.max_length=4000", ["max_length", "64"]),
    ("loss.class_weights=[1.0,2.0]", ["class_weights", "3"]),
    ("data.valid_fraction=0.5", ["valid_fraction"]),
    ("backbone.main_input=image", ["image", "text"]),
])
def test_mistakes_in_the_recipe(world, tmp_path, change, words):
    result = mmtune("train", world / "r.toml", change, "--out", tmp_path / "run", check=2)
    line = one_line(result)
    for word in words:
        assert word in line, line
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_missing_things_are_named(world, tmp_path):
    for change, word in [("backbone.main=nowhere/at-all", "nowhere/at-all"), ("data.train=nothing.jsonl", "nothing.jsonl"),
                         ("data.valid=nothing.jsonl", "nothing.jsonl")]:
        result = mmtune("train", world / "r.toml", change, "--out", tmp_path / "run", check=1)
        assert word in one_line(result)
    assert "nothing.toml" in one_line(mmtune("train", tmp_path / "nothing.toml", check=2))
    assert "run folder" in one_line(mmtune("eval", tmp_path, "--data", world / "valid.jsonl", check=1))


def test_bad_data(world, tmp_path):
    outside = write_jsonl(tmp_path / "outside.jsonl", [{"text": "a red box", "label": "purple"}])
    line = one_line(mmtune("train", world / "r.toml", f"data.valid={outside}", "--out", tmp_path / "run", check=1))
    assert "purple" in line and "outside.jsonl" in line
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    assert "empty" in one_line(mmtune("train", world / "r.toml", f"data.train={empty}", "--out", tmp_path / "run", check=1))
    line = one_line(mmtune("train", world / "r.toml", "data.train_where.split=train", "--out", tmp_path / "run", check=1))
    assert "empty" in line and "split" in line
    single = write_jsonl(tmp_path / "single.jsonl", [{"text": "a red box", "label": "red"}] * 3)
    line = one_line(mmtune("train", world / "r.toml", f"data.train={single}", f"data.valid={single}", "--out", tmp_path / "run", check=1))
    assert "two classes" in line
    (tmp_path / "broken.jsonl").write_text('{"text": "a red box", "label": "red"}\n{"text": \n')
    line = one_line(mmtune("train", world / "r.toml", f"data.train={tmp_path / 'broken.jsonl'}", "--out", tmp_path / "run", check=1))
    assert "broken.jsonl:2" in line


def test_bad_rows_can_be_skipped(world, tmp_path):
    rows = [json.loads(line) for line in (world / "train.jsonl").read_text().splitlines()]
    rows[5]["text"] = 17
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    line = one_line(mmtune("train", world / "r.toml", f"data.train={data}", "--out", tmp_path / "stopped", check=1))
    assert "rows.jsonl:6" in line
    result = mmtune("train", world / "r.toml", f"data.train={data}", "data.on_error=skip", "--out", tmp_path / "skipped", check=0)
    assert "rows.jsonl:6" in result.stderr
    record = json.loads((tmp_path / "skipped" / "run.json").read_text())
    assert record["data"]["train"]["skipped_rows"] == 1 and record["data"]["train"]["examples"] == 23


def test_an_existing_run_is_left_alone(world, tmp_path):
    run = tmp_path / "run"
    mmtune("train", world / "r.toml", "--out", run, check=0)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = one_line(mmtune("train", world / "r.toml", "--out", run, check=1))
    assert "--resume" in line and str(run) in line
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert "not a run" in one_line(mmtune("train", world / "r.toml", "--out", foreign, "--resume", check=1))
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_not_finite_names_the_examples(world, tmp_path):
    run = tmp_path / "run"
    result = mmtune("train", world / "r.toml", "train.lr=1e30", "train.clip=0", "train.optimizer=sgd", "train.momentum=0",
                    "train.epochs=20", "train.checkpoint_every=1", "--out", run, check=1)
    line = one_line(result)
    assert "not finite" in line and "t1-" in line and "last.safetensors" in line
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "failed" and len(record["failed_examples"]) == 8 and "not finite" in record["error"]
    assert (run / "checkpoints" / "last.safetensors").exists()


def test_an_unreadable_picture_in_the_middle_of_an_epoch(world, tmp_path):
    manifest = make_pictures(tmp_path / "pictures", 40, 5)
    (tmp_path / "pictures" / "17.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "vit"}, expert={"method": "bitfit"},
                          data={"train": manifest, "valid_fraction": 0.1}, train={"epochs": 2, "batch": 8, "threads": 1})
    line = one_line(mmtune("train", recipe, "--out", tmp_path / "stopped", check=1))
    assert "17.png" in line and "p5-17" in line
    record = json.loads((tmp_path / "stopped" / "run.json").read_text())
    assert record["state"] == "failed" and (tmp_path / "stopped" / "checkpoints" / "last.safetensors").exists()
    assert "17.png" in record["error"]
    result = mmtune("train", recipe, "data.on_error=skip", "--out", tmp_path / "skipped", check=0)
    assert "17.png" in result.stderr
    record = json.loads((tmp_path / "skipped" / "run.json").read_text())
    assert record["state"] == "finished" and record["skipped_examples"] in (0, 2)
    evaluation = json.loads(mmtune("eval", tmp_path / "skipped", "--data", manifest, "--json", check=0).stdout)
    assert evaluation["skipped"] == 1 and evaluation["examples"] == 39


def test_an_unreadable_picture_for_a_frozen_tower(world, tmp_path):
    manifest = make_pictures(tmp_path / "pictures", 20, 5)
    (tmp_path / "pictures" / "3.png").write_bytes(b"")
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "vit"}, expert={"method": "linear"}, data={"train": manifest},
                          train={"epochs": 3, "batch": 8, "threads": 1})
    assert "3.png" in one_line(mmtune("train", recipe, "--out", tmp_path / "stopped", check=1))
    mmtune("train", recipe, "data.on_error=skip", "--out", tmp_path / "skipped", check=0)
    assert json.loads((tmp_path / "skipped" / "run.json").read_text())["skipped_examples"] == 3


def test_a_missing_modality_without_a_stand_in(world, tmp_path):
    manifest = make_pictures(tmp_path / "mixed", 30, 6, text_share=0.5, picture_share=0.6)
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "vit", "condition": world / "bert"}, expert={"method": "bitfit"},
                          head={"absent": "error"}, data={"train": manifest}, train={"epochs": 1, "threads": 1})
    line = one_line(mmtune("train", recipe, "--out", tmp_path / "run", check=1))
    assert "p6-" in line and "head.absent" in line
    complete = make_pictures(tmp_path / "complete", 30, 6, text_share=1.0)
    mmtune("train", recipe, f"data.train={complete}", "--out", tmp_path / "run", check=0)
    assert "head.absent" in one_line(mmtune("predict", tmp_path / "run", "--text", "a red box", check=1))


def small_files_only():
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))


def test_a_full_disk_loses_nothing(world, tmp_path):
    """A limit on file sizes stands for the full disk: writing fails in the middle of a file."""
    run = tmp_path / "run"
    line = one_line(mmtune("train", world / "r.toml", "--out", run, check=1, preexec_fn=small_files_only, restore_signals=False))
    assert str(run) in line
    assert not list(run.rglob("*.tmp"))
    mmtune("train", world / "r.toml", "--out", run, "--resume", check=0)


def test_a_folder_that_cannot_be_written(world, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    line = one_line(mmtune("train", world / "r.toml", "--out", tmp_path / "file" / "run", check=1))
    assert str(tmp_path / "file" / "run") in line


def test_questions_that_cannot_be_answered(world, tmp_path):
    run = tmp_path / "run"
    mmtune("train", world / "r.toml", "train.epochs=1", "--out", run, check=0)
    assert "--text" in one_line(mmtune("predict", run, check=2))
    assert "at once" in one_line(mmtune("predict", run, "--text", "red", "--data", world / "valid.jsonl", check=2))
    assert "data.columns" in one_line(mmtune("predict", run, "--image", world / "nothing.png", check=1))
    head = run / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-4])
    assert "head.safetensors" in one_line(mmtune("predict", run, "--text", "red", check=1))


def test_an_unfinished_run_says_how_to_finish(world, tmp_path):
    run = tmp_path / "run"
    mmtune("train", world / "r.toml", "train.lr=1e30", "train.clip=0", "train.optimizer=sgd", "train.epochs=20", "--out", run, check=1)
    assert "--resume" in one_line(mmtune("eval", run, "--data", world / "valid.jsonl", check=1))
