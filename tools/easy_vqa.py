#!/usr/bin/env python3
"""Writes manifests for easy-VQA, the data of the demo, from the installed Python package `easy-vqa`.

usage: tools/easy_vqa.py OUT [--package FOLDER]

OUT gets train.jsonl, valid.jsonl, test.jsonl and classes.txt (the 13 answers, in the package's order). The pictures stay where the package
has them. valid.jsonl holds the questions about a tenth of the training pictures, picked by a hash of the picture's number, so that no
picture is in both; test.jsonl is the package's own test split.
"""

import argparse
import hashlib
import importlib.machinery
import json
import os
import sys


def fail(message):
    sys.exit(f"easy_vqa.py: {message}")


def installed_package():
    # This script has the package's name and lies first on the path.
    here = os.path.dirname(os.path.realpath(__file__))
    elsewhere = [folder for folder in sys.path if os.path.realpath(folder) != here]
    spec = importlib.machinery.PathFinder.find_spec("easy_vqa", elsewhere)
    if spec is None or not spec.submodule_search_locations:
        fail(f"the package easy-vqa is not installed. Install it with: {sys.executable} -m pip install easy-vqa")
    return spec.submodule_search_locations[0]


def read_questions(path):
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
    except (OSError, ValueError) as error:
        fail(f"{path}: {error}")
    for number, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[1], str) and isinstance(row[2], int)):
            fail(f"{path}: item {number} is not [question, answer, number of the picture]")
    return rows


def is_held_out(picture):
    """One picture in ten, the same on every machine."""
    digest = hashlib.sha256(f"easy-vqa/train/{picture}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10 == 0


def rows_of(data, split, answers):
    folder = os.path.join(data, split, "images")
    for number, (question, answer, picture) in enumerate(read_questions(os.path.join(data, split, "questions.json"))):
        image = os.path.join(folder, f"{picture}.png")
        if not os.path.isfile(image):
            fail(f"{image} is missing (question {number} of {split})")
        if answer not in answers:
            fail(f"question {number} of {split} has the answer '{answer}', which is not in answers.txt")
        yield picture, {"id": f"{split}/{number}", "text": question, "image": image, "label": answer}


def write(path, lines):
    """Complete or not there at all."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")
    os.replace(temporary, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="folder for the manifests")
    parser.add_argument("--package", help="folder of the package, where it is not installed for this Python")
    arguments = parser.parse_args()

    data = os.path.abspath(os.path.join(arguments.package or installed_package(), "data"))
    try:
        with open(os.path.join(data, "answers.txt"), encoding="utf-8") as file:
            answers = file.read().split()
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")

    train = list(rows_of(data, "train", answers))
    splits = {
        "train": [row for picture, row in train if not is_held_out(picture)],
        "valid": [row for picture, row in train if is_held_out(picture)],
        "test": [row for _, row in rows_of(data, "test", answers)],
    }
    try:
        os.makedirs(arguments.out, exist_ok=True)
        write(os.path.join(arguments.out, "classes.txt"), answers)
        for split, rows in splits.items():
            write(os.path.join(arguments.out, f"{split}.jsonl"), (json.dumps(row, ensure_ascii=False) for row in rows))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    print(f"{arguments.out}: " + ", ".join(f"{split} {len(rows)} questions" for split, rows in splits.items()))


if __name__ == "__main__":
    main()
