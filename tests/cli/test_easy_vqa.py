"""tools/easy_vqa.py: the package's files become manifests, and no picture is in two of them."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "easy_vqa.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def package(tmp_path):
    """A package of the same layout: 60 pictures with two questions each, and 5 for the test."""
    data = tmp_path / "easy_vqa" / "data"
    for split, count in (("train", 60), ("test", 5)):
        images = data / split / "images"
        images.mkdir(parents=True)
        questions = []
        for picture in range(count):
            (images / f"{picture}.png").write_bytes(b"png")
            questions += [["what colour?", "red", picture], ["is it a circle?", "yes", picture]]
        (data / split / "questions.json").write_text(json.dumps(questions))
    (data / "answers.txt").write_text("red\nyes\n")
    return data.parent


def test_every_question_once_and_no_picture_twice(package, tmp_path):
    done = run(tmp_path / "out", "--package", package)
    assert done.returncode == 0, done.stderr
    splits = {name: rows(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "valid", "test")}
    assert len(splits["train"]) + len(splits["valid"]) == 120
    assert len(splits["test"]) == 10
    pictures = {name: {row["image"] for row in split} for name, split in splits.items()}
    assert not pictures["train"] & pictures["valid"]
    assert 0 < len(pictures["valid"]) < 20
    assert all(Path(image).is_file() for image in pictures["train"])
    assert splits["test"][1] == {
        "id": "test/1",
        "text": "is it a circle?",
        "image": str(package / "data" / "test" / "images" / "0.png"),
        "label": "yes",
    }
    assert (tmp_path / "out" / "classes.txt").read_text() == "red\nyes\n"
    # The same again gives the same.
    before = (tmp_path / "out" / "valid.jsonl").read_bytes()
    assert run(tmp_path / "out", "--package", package).returncode == 0
    assert (tmp_path / "out" / "valid.jsonl").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["classes.txt", "test.jsonl", "train.jsonl", "valid.jsonl"]


def test_mistakes_are_one_line(package, tmp_path):
    out = tmp_path / "out"
    done = run(out, "--package", tmp_path / "nowhere")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "answers.txt: No such file" in done.stderr

    (package / "data" / "test" / "images" / "3.png").unlink()
    done = run(out, "--package", package)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "3.png is missing (question 6 of test)" in done.stderr
    assert not out.exists()

    (package / "data" / "train" / "questions.json").write_text('[["what?", 3, "x"]]')
    assert "item 0 is not" in run(out, "--package", package).stderr
    (package / "data" / "train" / "questions.json").write_text("[")
    assert "questions.json: " in run(out, "--package", package).stderr


def test_the_real_package(tmp_path):
    if importlib.util.find_spec("easy_vqa") is None:
        pytest.skip("the package easy-vqa is not installed")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    counts = {name: len(rows(tmp_path / f"{name}.jsonl")) for name in ("train", "valid", "test")}
    assert counts == {"train": 34578, "valid": 3997, "test": 9673}
