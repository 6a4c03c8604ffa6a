"""Training from every kind of data that docs/data.md describes, and from every recipe that the project ships."""

import csv
import io
import json
import random
import tarfile
import tomllib
from pathlib import Path

import pytest
from training_support import COLOURS, make_image_model, make_text_model, mmtune, read_lines, sentence, write_jsonl, write_recipe

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(COLOURS)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_text_model(tmp_path_factory.mktemp("text") / "bert")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return make_image_model(tmp_path_factory.mktemp("image") / "vit")


def picture(colour):
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (16, 16), COLOURS[colour]).save(out, "PNG")
    return out.getvalue()


def train(tmp_path, model, data, code=0, **sections):
    recipe = write_recipe(tmp_path / "recipe.toml", backbone={"main": model}, expert={"method": "linear"}, data=data,
                          train={"steps": 2, "batch": 4, "threads": 1}, **sections)
    run = tmp_path / "run"
    result = mmtune("train", recipe, "--out", run, check=code)
    if code != 0:
        return result.stderr
    return json.loads((run / "run.json").read_text())


def test_csv_with_other_column_names(bert, tmp_path):
    rng = random.Random(1)
    with open(tmp_path / "reviews.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", "sentence", "sentiment"])
        for i in range(40):
            writer.writerow([i, f'{sentence(NAMES[i % 2], rng)}, "so" it\nis', ["good", "bad"][i % 2]])
    data = {"train": tmp_path / "reviews.csv", "columns": {"text": "sentence", "label": "sentiment"}, "valid_fraction": 0.1}
    record = train(tmp_path, bert, data)
    assert record["data"]["train"]["examples"] == 36
    assert record["data"]["valid"]["examples"] == 4
    predicted = mmtune("predict", tmp_path / "run", "--text", "red", check=0)
    assert "good" in predicted.stdout and "bad" in predicted.stdout


def test_a_fraction_of_the_training_data(bert, tmp_path):
    with open(tmp_path / "d.jsonl", "w", encoding="utf-8") as file:
        for i in range(60):
            file.write(json.dumps({"text": "red" if i % 2 else "blue", "label": NAMES[i % 2]}) + "\n")
    data = {"train": tmp_path / "d.jsonl", "valid": tmp_path / "d.jsonl", "train_fraction": 0.1}
    record = train(tmp_path, bert, data)
    assert record["data"]["train"]["examples"] == 6
    assert record["data"]["valid"]["examples"] == 60
    (tmp_path / "other").mkdir()
    assert train(tmp_path / "other", bert, {**data, "shot_seed": 1})["data"]["train"]["fingerprint"] != record["data"]["train"]["fingerprint"]


def test_tsv_where_quotes_are_characters(bert, tmp_path):
    (tmp_path / "t.tsv").write_text('text\tlabel\n"red start\tx\nblue 5"\ty\ngreen\tx\nred\ty\n')
    assert train(tmp_path, bert, {"train": tmp_path / "t.tsv", "quotes": False})["data"]["train"]["examples"] == 4
    # Where quotes quote, the first field goes on to the next line.
    (tmp_path / "again").mkdir()
    assert train(tmp_path / "again", bert, {"train": tmp_path / "t.tsv"})["data"]["train"]["examples"] == 3
    (tmp_path / "t.tsv").write_text('text\tlabel\n"red start\tx\n')
    (tmp_path / "third").mkdir()
    message = train(tmp_path / "third", bert, {"train": tmp_path / "t.tsv"}, code=1)
    assert message.endswith("t.tsv:2: the quote that opens here is never closed\n")


def test_image_folder_with_splits(vit, tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for name in NAMES:
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.png").write_bytes(picture(name))
    data = {"train": tmp_path / "set", "train_where": {"split": "train"}, "valid_where": {"split": "val"}}
    record = train(tmp_path, vit, data)
    assert (record["data"]["train"]["examples"], record["data"]["valid"]["examples"]) == (12, 6)
    whole = mmtune("eval", tmp_path / "run", "--data", tmp_path / "set" / "val", "--json", check=0)
    assert json.loads(whole.stdout)["examples"] == 6


def test_shards_joined_by_a_key_that_repeats_between_splits(vit, tmp_path):
    rows = []
    (tmp_path / "pack").mkdir()
    for split in ("train", "test"):
        with tarfile.open(tmp_path / "pack" / f"{split}.tar", "w") as tar:
            for i in range(9):
                content = picture(NAMES[i % 3])
                member = tarfile.TarInfo(f"{split}/{i}.png")
                member.size = len(content)
                rows.append({"id": f"{split}/{i}", "split": split, "image_id": i, "shard": f"{split}.tar", "member": member.name,
                             "offset": tar.offset + 512, "size": len(content)})
                tar.addfile(member, io.BytesIO(content))
    write_jsonl(tmp_path / "pack" / "images.jsonl", rows)
    write_jsonl(tmp_path / "questions.jsonl", [{"image_id": i, "answer": NAMES[i % 3]} for i in range(9)])
    data = {"train": tmp_path / "questions.jsonl", "columns": {"label": "answer"}, "join": tmp_path / "pack" / "images.jsonl",
            "join_key": "image_id", "join_where": {"split": "train"}, "train_where": {"image_id": "<6"},
            "valid_where": {"image_id": ">=6"}}
    record = train(tmp_path, vit, data)
    assert (record["data"]["train"]["examples"], record["data"]["valid"]["examples"]) == (6, 3)

    (tmp_path / "again").mkdir()
    message = train(tmp_path / "again", vit, {**data, "join_where": {}}, code=1)
    assert "images.jsonl:10: a second row with image_id '0'" in message and "join_where" in message


def test_few_shots_and_classes_from_a_file(bert, tmp_path):
    rng = random.Random(2)
    write_jsonl(tmp_path / "m.jsonl", [{"text": sentence(NAMES[i % 3], rng), "label": i % 3} for i in range(30)])
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    data = {"train": tmp_path / "m.jsonl", "classes_file": tmp_path / "names.txt", "shots": 4}
    assert train(tmp_path, bert, data)["data"]["train"]["examples"] == 12
    answers = mmtune("predict", tmp_path / "run", "--text", "red", "--json", check=0)
    assert any(name in answers.stdout for name in NAMES)

    (tmp_path / "again").mkdir()
    message = train(tmp_path / "again", bert, {**data, "shots": 11}, code=1)
    assert "too few examples of the class 'blue' for the few-shot subset: expected 11, got 10" in message


def test_multi_label_csv(bert, tmp_path):
    (tmp_path / "m.csv").write_text("text,labels\nred box,red\nred blue box,blue;red\ngreen,green\nlamp,\n" * 3)
    data = {"train": tmp_path / "m.csv", "multi_label": True, "label_separator": ";"}
    message = train(tmp_path, bert, data, code=1)
    assert "m.csv:5: the row has no label" in message, "an empty cell is a missing label, not an empty list"
    (tmp_path / "m.csv").write_text("text,labels\nred box,red\nred blue box,blue;red\ngreen,green\n" * 1)
    assert train(tmp_path, bert, data)["data"]["train"]["examples"] == 3


def test_an_empty_split_says_what_there_is(bert, tmp_path):
    write_jsonl(tmp_path / "m.jsonl", [{"text": "red", "label": "a", "split": "val"}, {"text": "red", "label": "b", "split": "train"}])
    message = train(tmp_path, bert, {"train": tmp_path / "m.jsonl", "valid_where": {"split": "valid"}}, code=1)
    assert message.endswith("the split is empty: none of 2 rows has split = 'valid' (found: train, val)\n")


def shipped_recipes():
    return sorted(path for path in (ROOT / "recipes").glob("*.toml") if "../shared" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_shipped_recipes_run_on_their_data(path, bert, vit, tiny_wav2vec2, shared, tmp_path):
    recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    here = [f"data.{key}={str(value).replace('../shared', str(shared), 1)}" for key, value in recipe["data"].items()
            if isinstance(value, str) and value.startswith("../shared")]
    assert here
    model = tiny_wav2vec2 if "wav2vec2" in recipe["backbone"]["main"] else vit if "vit" in recipe["backbone"]["main"] else bert
    mmtune("train", path, f"backbone.main={model}", "data.limit=64", "train.steps=2", "train.batch=8", "train.threads=1",
           "eval.bootstrap=0", *here, "--out", tmp_path / "run", check=0)
    assert read_lines(tmp_path / "run" / "metrics.jsonl")
