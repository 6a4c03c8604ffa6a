#!/usr/bin/env python3
"""Measures models that speak of pictures as their model cards report it: how often the right answer is the likeliest of all answers that the
test data have, with the picture filling the model's input and in the black frame of a visual prompt, and how often the commonest answer is right.

    python tools/speaking_probe.py MODEL ... [--data ../shared/data] [--threads 2] [--test 1000]

Prints a Markdown table a model, with 95 % bootstrap intervals. Needs requirements/test.txt.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import tempfile

import numpy as np
from prepare_multimodal import PHOTO, spoken
from prepare_pretraining import rows_of
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKS = ["eurosat", "fashion_mnist", "caltech20", "flowers5", "clothing10"]
KIND = "What kind of emoji is this?"
CELLS = "How many {} are there in this image? Answer with a single number."


def picture(folder, row):
    return f"{(folder / row['shard']).resolve()}#{row['member']}"


def sets(data):
    """Name, whether models were taught it, and its test rows: picture, question, answer."""
    for pack in PACKS:
        yield pack, True, [(picture(data / pack, row), PHOTO, spoken(pack, row["class_name"])) for row in rows_of(data / pack) if row["split"] == "test"]
    for style in ("noto", "twemoji"):
        rows = [row for row in rows_of(data / "emoji") if row["split"] == "test" and row["style"] == style]
        yield f"emoji, {style}: kinds", style == "noto", [(picture(data / "emoji", row), KIND, row["class_name"]) for row in rows]
    for cells, column in (("white blood cells", "count_wbc"), ("platelets", "count_platelets")):
        rows = [row for row in rows_of(data / "bccd") if row["split"] == "test"]
        yield f"bccd: {cells}", cells != "platelets", [(picture(data / "bccd", row), CELLS.format(cells), str(row[column])) for row in rows]
    pictures = {row["image_id"]: picture(data / "easy_vqa", row) for row in rows_of(data / "easy_vqa", "images.jsonl") if row["split"] == "test"}
    rows = rows_of(data / "easy_vqa", "questions_test.jsonl")
    yield "easy_vqa: all questions", True, [(pictures[row["image_id"]], row["question"], row["answer"]) for row in rows]


def matrix(options, prompt, manifest, answers):
    command = [options.build / "mmtune", "--threads", options.threads, "prompt", "transfer", prompt, "--models", *options.models, "--data", manifest,
               "task=recognise", "question.instruction={text}", f"data.classes={json.dumps(answers)}", "--json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout)["blocks"][0]["rows"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--test", type=int, default=1000, help="pictures of a set, spread over it")
    options = parser.parse_args()
    tables = {model: [] for model in options.models}
    with tempfile.TemporaryDirectory() as folder:
        prompt, manifest = pathlib.Path(folder) / "none.safetensors", pathlib.Path(folder) / "rows.jsonl"
        save_file({"perturbation": np.zeros((3, 64, 64), np.float32)}, prompt)
        for name, taught, rows in sets(options.data):
            rows = rows[::max(1, len(rows) // options.test)][:options.test]
            counts = collections.Counter(answer for _, _, answer in rows)
            manifest.write_text("".join(json.dumps({"image": image, "text": question, "label": answer}) + "\n" for image, question, answer in rows))
            framed, whole = matrix(options, prompt, manifest, sorted(counts))[:2]
            for i, lines in enumerate(tables.values()):
                said = [f"{found['value']:.3f} | {found['interval'][0]:.3f} – {found['interval'][1]:.3f}"
                        for found in (row["cells"][i]["metrics"]["accuracy"] for row in (whole, framed))]
                commonest = max(counts.values()) / len(rows)
                lines.append(f"| {name}{'' if taught else ' (not taught)'} | {len(rows)} | {' | '.join(said)} | {commonest:.3f} |")
    for model, lines in tables.items():
        print(f"\n{model}\n\n| set | pictures | whole picture | interval | in the frame | interval | commonest answer |\n|---|---|---|---|---|---|---|")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
