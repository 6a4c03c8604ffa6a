"""A linear head on a frozen ViT-B/16: the first epoch, which asks the tower, against the second, which takes its features from memory; and
a second run, which takes them from disk.

    python bench/cached_epoch.py [--pictures 256] [--threads 2] [--rounds 1]

The checkpoint is random (its arithmetic is a trained one's), the pictures are random 256 x 256 PNGs. The first epoch is the pass over the
frozen tower and the steps behind it, the second one its steps alone, as run.json and metrics.jsonl tell. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("--pictures", type=int, default=256)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=1)
parser.add_argument("--layers", type=int, default=12, help="fewer, to try the script")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"
BATCH, EPOCHS = 32, 5

MAKE = """
import sys, torch, transformers
torch.manual_seed(0)
folder, layers = sys.argv[1:]
transformers.ViTModel(transformers.ViTConfig(num_hidden_layers=int(layers)), add_pooling_layer=False).save_pretrained(folder)
transformers.ViTImageProcessorPil().save_pretrained(folder)
"""


def make_pictures(folder):
    from PIL import Image

    draw = random.Random(0)
    rows = []
    for number in range(options.pictures):
        small = Image.frombytes("RGB", (32, 32), draw.randbytes(32 * 32 * 3))
        small.resize((256, 256), Image.BICUBIC).save(folder / f"{number}.png")
        rows.append({"id": str(number), "image": f"{number}.png", "label": f"class{number % 10}"})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(folder, out):
    """Seconds of the pass and of every epoch's steps."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MMTUNE_CACHE": str(folder / "cache")}
    subprocess.run([str(program), "--threads", str(options.threads), "train", str(folder / "recipe.toml"), "--out", str(out)], check=True,
                   capture_output=True, env=environment)
    ends = [json.loads(line)["seconds"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    record = json.loads((out / "run.json").read_text())
    assert len(ends) == EPOCHS, ends
    return record["features"], [end - begin for begin, end in zip([0, *ends], ends)]


def measure(folder):
    subprocess.run([sys.executable, "-c", MAKE, str(folder / "vit"), str(options.layers)], check=True, capture_output=True)
    make_pictures(folder)
    steps = -(-options.pictures // BATCH)
    (folder / "recipe.toml").write_text(f'[backbone]\nmain = "{folder / "vit"}"\n[expert]\nmethod = "linear"\n[data]\ntrain = "{folder / "data.jsonl"}"\n'
                                        f'[train]\nepochs = {EPOCHS}\nbatch = {BATCH}\nlog_every = {steps}\n')
    features, epochs = train(folder, folder / "first")
    again, epochs_again = train(folder, folder / "second")
    assert features["kept"] == 0 and again["kept"] == options.pictures
    return features["seconds"] + epochs[0], statistics.median(epochs[1:]), again["seconds"] + epochs_again[0]


rounds = []
for _ in range(options.rounds):
    with tempfile.TemporaryDirectory() as folder:
        rounds.append(measure(pathlib.Path(folder)))
print(json.dumps({
    "work": f"linear head on a frozen ViT-B/16, {options.pictures} pictures",
    "first_epoch_over_second": round(statistics.median(first / second for first, second, _ in rounds), 1),
    "first_epoch_over_first_of_the_next_run": round(statistics.median(first / kept for first, _, kept in rounds), 1),
    "first_epoch_seconds": [one[0] for one in rounds], "second_epoch_seconds": [one[1] for one in rounds], "next_run_seconds": [one[2] for one in rounds],
}))
