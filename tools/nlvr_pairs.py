#!/usr/bin/env python3
"""Cuts NLVR's pictures into their boxes and writes manifests for the task `pair`.

usage: tools/nlvr_pairs.py SOURCE OUT

SOURCE is a folder with manifest.jsonl (sentence, label, split and where each picture lies) and the archives that it names. Each picture shows
three boxes side by side, with a gap between them. OUT gets train.tar, valid.tar and test.tar with PNG files, and manifests beside them whose
rows have "image" (the left box), "image_pair" (the middle and the right box, moved together), "text" (the sentence), "label" ("True" or
"False") and "group" (the pictures of one sentence). Nothing of a picture is left out but the gaps.
"""

import argparse
import io
import json
import os
import sys
import tarfile

from PIL import Image

BOXES = (0.0, 0.375, 0.75)  # where they begin, as shares of the width; each is a quarter of it wide


def fail(message):
    sys.exit(f"nlvr_pairs.py: {message}")


def cut(picture):
    """The left box, and the other two side by side."""
    width, height = picture.size
    side = round(width / 4)
    left, middle, right = (picture.crop((round(begin * width), 0, round(begin * width) + side, height)) for begin in BOXES)
    both = Image.new(picture.mode, (2 * side, height))
    both.paste(middle, (0, 0))
    both.paste(right, (side, 0))
    return left, both


def opened(source, row):
    with open(os.path.join(source, row["shard"]), "rb") as file:
        file.seek(row["offset"])
        data = file.read(row["size"])
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")


def put(archive, name, picture):
    data = io.BytesIO()
    picture.save(data, "PNG")
    member = tarfile.TarInfo(name)
    member.size = len(data.getvalue())
    archive.addfile(member, io.BytesIO(data.getvalue()))


def write_split(source, out, name, rows):
    lines = []
    shard = os.path.join(out, f"{name}.tar")
    with tarfile.open(f"{shard}.tmp", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, row in enumerate(rows):
            left, both = cut(opened(source, row))
            put(archive, f"{number:05}a.png", left)
            put(archive, f"{number:05}b.png", both)
            lines.append({"id": row["id"], "text": row["sentence"], "image": f"{name}.tar#{number:05}a.png",
                          "image_pair": f"{name}.tar#{number:05}b.png", "label": "True" if row["label"] else "False", "group": row["group"]})
    os.replace(f"{shard}.tmp", shard)
    manifest = os.path.join(out, f"{name}.jsonl")
    with open(f"{manifest}.tmp", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    os.replace(f"{manifest}.tmp", manifest)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder with NLVR's manifest.jsonl and archives")
    parser.add_argument("out", help="folder for manifests and archives")
    arguments = parser.parse_args()
    try:
        with open(os.path.join(arguments.source, "manifest.jsonl"), encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        os.makedirs(arguments.out, exist_ok=True)
        for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
            of_split = [row for row in rows if row["split"] == split]
            write_split(arguments.source, arguments.out, name, of_split)
            print(f"{name}: {len(of_split)} pairs")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (KeyError, ValueError) as error:
        fail(f"{arguments.source}: {error!r}")


if __name__ == "__main__":
    main()
