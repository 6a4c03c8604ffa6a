"""Writes nineteen tasks for one backbone that reads a text and a picture: evidence/pi.py trains an expert for each.

    tools/easy_vqa.py data/easy_vqa && tools/mnist_fsdd.py ../shared/data/mnist_fsdd data/mnist_fsdd
    python evidence/pi_tasks.py ../shared/data data data/pi_tasks [--train 1000] [--valid 200] [--test 500]

A task over pictures alone asks the same question of each; one over texts alone has the same grey picture beside each; recordings are read
as pictures of their spectrograms. OUT gets a folder a task, with train.jsonl, valid.jsonl and test.jsonl (id, text, image, label), and
tasks.json, which says what modality each is of. Examples are drawn by a fixed seed from the split of the same name.
"""

import argparse
import json
import os
import pathlib
import random

from PIL import Image

from plans import picture_of, rows_of

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("shared", type=pathlib.Path, help="folder of the data sets")
parser.add_argument("prepared", type=pathlib.Path, help="folder with easy_vqa and mnist_fsdd, as their tools leave them")
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--train", type=int, default=1000)
parser.add_argument("--valid", type=int, default=200)
parser.add_argument("--test", type=int, default=500)
options = parser.parse_args()
SPLITS = {"train": "train", "valid": "val", "test": "test"}


def pictures(name, label="class_name", text="what is this?", **where):
    """Rows of a data set that keeps its pictures in archives; `text` may name a field."""
    folder = options.shared / name
    for row in rows_of(folder / "manifest.jsonl"):
        if all(row[key] == value for key, value in where.items()):
            yield row["split"], {"text": row.get(text, text), "image": picture_of(folder, row), "label": str(row[label])}


def texts(name, text="{text}"):
    folder = options.shared / "text" / name
    labels = (folder / "labels.txt").read_text().splitlines()
    for split in SPLITS.values():
        for row in rows_of(folder / f"{split}.jsonl"):
            yield split, {"text": text.format(**row), "image": "../grey.png", "label": labels[row["label"]]}


def digits(field, text):
    folder = options.prepared / "mnist_fsdd"
    for name, split in SPLITS.items():
        seen = set()
        for row in rows_of(folder / f"{name}.jsonl"):
            if row[field] not in seen:
                seen.add(row[field])
                yield split, {"text": text, "image": str((folder / row[field]).resolve()), "label": str(row["label"])}


def speakers():
    for split, row in digits("image_pair", "who speaks?"):
        yield split, {**row, "label": pathlib.Path(row["image"]).stem.split("_")[1]}


def emoji_names():
    for split, row in pictures("emoji", text="name", style="noto"):
        yield split, {**row, "image": "../grey.png"}


def emoji_pairs():
    """Does this name belong to this picture? Every other one is another's."""
    by_split = {}
    for split, row in pictures("emoji", text="name", style="noto"):
        by_split.setdefault(split, []).append(row)
    for split, rows in by_split.items():
        for number, row in enumerate(rows):
            true = number % 2 == 0
            yield split, {**row, "text": row["text"] if true else rows[(number + len(rows) // 2) % len(rows)]["text"], "label": str(true)}


def questions():
    folder = options.prepared / "easy_vqa"
    for name, split in SPLITS.items():
        for row in rows_of(folder / f"{name}.jsonl"):
            # Two thirds of the answers are yes or no, which would leave too few of the others.
            if row["label"] not in ("yes", "no"):
                yield split, {"text": row["text"], "image": str((folder / row["image"]).resolve()), "label": row["label"]}


TASKS = {
    "eurosat": ("picture", lambda: pictures("eurosat")),
    "fashion_mnist": ("picture", lambda: pictures("fashion_mnist")),
    "flowers5": ("picture", lambda: pictures("flowers5")),
    "caltech20": ("picture", lambda: pictures("caltech20")),
    "clothing10": ("picture", lambda: pictures("clothing10")),
    "emoji_noto": ("picture", lambda: pictures("emoji", style="noto")),
    "emoji_twemoji": ("picture", lambda: pictures("emoji", style="twemoji")),
    "digits_seen": ("picture", lambda: digits("image", "which digit is this?")),
    "digits_heard": ("sound", lambda: digits("image_pair", "which digit is this?")),
    "speakers": ("sound", speakers),
    "snips": ("text", lambda: texts("snips")),
    "banking77": ("text", lambda: texts("banking77")),
    "subjectivity": ("text", lambda: texts("subjectivity")),
    "mr_polarity": ("text", lambda: texts("mr_polarity")),
    "breaking_nli": ("text", lambda: texts("breaking_nli", "{premise} {hypothesis}")),
    "emoji_names": ("text", emoji_names),
    "easy_vqa": ("pair", questions),
    "nlvr": ("pair", lambda: pictures("nlvr", label="label", text="sentence")),
    "emoji_pairs": ("pair", emoji_pairs),
}

options.out.mkdir(parents=True, exist_ok=True)
Image.new("RGB", (64, 64), (128, 128, 128)).save(options.out / "grey.png")
for task, (modality, rows) in TASKS.items():
    by_split = {split: [] for split in SPLITS.values()}
    for split, row in rows():
        by_split[split].append(row)
    os.makedirs(options.out / task, exist_ok=True)
    counts = []
    for name, split in SPLITS.items():
        chosen = by_split[split]
        random.Random(task + name).shuffle(chosen)
        chosen = chosen[:getattr(options, name)]
        counts.append(len(chosen))
        lines = (json.dumps({"id": f"{task}/{name}/{number}", **row}) for number, row in enumerate(chosen))
        (options.out / task / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    classes = len({row["label"] for row in by_split["train"]})
    print(f"{task} ({modality}): {classes} classes, {' + '.join(map(str, counts))} examples")
(options.out / "tasks.json").write_text(json.dumps({task: modality for task, (modality, _) in TASKS.items()}, indent=1) + "\n")
