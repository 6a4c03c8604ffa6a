"""Scoring all pairs of pictures and texts with one backbone that reads both (ViLT): `mmtune eval` of a ranking against a plain loop in PyTorch.

    python bench/retrieve.py [--pairs 150] [--rounds 3] [--threads 2] [--model models/mmtune-vilt-small-64]

Both score the same drawn pictures and the same sentences with the same weights and head, in turns, in processes of their own. There are two loops:
one pair at a time (over a tenth of the pictures, since it takes long), and a picture at a time with all texts in batches of 64, padded, as careful
scripts on transformers do. They are timed without their imports and without reading the model; mmtune's time is `eval`'s own, decoding and
tokenising included. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile

from processes import output_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--pairs", type=int, default=150, help="of pictures and of texts: all are scored with all, and time goes with the square")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models" / "mmtune-vilt-small-64")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"

PEER = """
import json, sys, time, torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BertTokenizer, ViltForImageAndTextRetrieval, ViltImageProcessorPil
model_folder, run, data, threads, batch, pictures = sys.argv[1:]
batch, pictures = int(batch), int(pictures)
torch.set_num_threads(int(threads))
rows = [json.loads(line) for line in open(data)]
model = ViltForImageAndTextRetrieval.from_pretrained(model_folder, dtype=torch.float32).eval()
head = load_file(run + "/head.safetensors")
model.rank_output.weight.data, model.rank_output.bias.data = head["weight"], head["bias"]
tokenizer, processor = BertTokenizer.from_pretrained(model_folder), ViltImageProcessorPil.from_pretrained(model_folder)
begin = time.perf_counter()
scores = torch.empty(pictures, len(rows))
with torch.inference_mode():
    for i, row in enumerate(rows[:pictures]):
        pixels = processor(Image.open(row["image"]).convert("RGB"), return_tensors="pt")
        for start in range(0, len(rows), batch):
            texts = tokenizer([other["text"] for other in rows[start:start + batch]], padding=True, return_tensors="pt")
            count = texts["input_ids"].shape[0]
            scores[i, start:start + count] = model(**texts, pixel_values=pixels["pixel_values"].expand(count, -1, -1, -1),
                                                   pixel_mask=pixels["pixel_mask"].expand(count, -1, -1)).logits[:, 0]
seconds = time.perf_counter() - begin
rank = (scores > scores.diag()[:, None]).sum(1)
print(json.dumps({"seconds_a_pair": seconds / scores.numel(), "recall": (rank < 10).float().mean().item()}))
"""


def draw_data(folder):
    from PIL import Image, ImageDraw

    draw, rows = random.Random(1), []
    words = "red green blue dark bright small large round square picture left right above below of a the one two three".split()
    for i in range(options.pairs):
        picture = Image.new("RGB", (64, 64), tuple(draw.randrange(256) for _ in range(3)))
        corner = draw.randrange(8, 40), draw.randrange(8, 40)
        ImageDraw.Draw(picture).ellipse((*corner, corner[0] + 20, corner[1] + 20), fill=tuple(draw.randrange(256) for _ in range(3)))
        picture.save(folder / f"{i}.png")
        rows.append({"image": str(folder / f"{i}.png"), "text": f"{i} " + " ".join(draw.choice(words) for _ in range(draw.randrange(3, 14)))})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    draw_data(folder)
    (folder / "recipe.toml").write_text(
        f'task = "retrieve"\nbackbone.main = "{options.model.resolve()}"\nexpert.method = "linear"\nretrieve.negatives = 2\n'
        f'data.train = "{folder / "data.jsonl"}"\ntrain = {{ steps = 1, batch = 4 }}\n'
    )
    output_of([program, "train", folder / "recipe.toml", "--out", folder / "run"], options.threads)
    evaluate = [program, "--threads", options.threads, "eval", folder / "run", "--data", folder / "data.jsonl", "--json"]
    peer = [sys.executable, "-c", PEER, options.model, folder / "run", folder / "data.jsonl", options.threads]
    found = lambda command: json.loads(output_of(command, options.threads))
    ours, exact, single, batched = [], [], [], []
    for _ in range(options.rounds):
        ours.append(found(evaluate))
        single.append(found([*peer, 1, max(options.pairs // 10, 1)]))
        exact.append(found([*evaluate, "--matmul-precision", "highest"]))
        batched.append(found([*peer, 64, options.pairs]))
    # A loop over pairs scores a part of them, so that the time of one pair is compared.
    ratio = lambda runs, peers: round(statistics.median(b["seconds_a_pair"] * options.pairs**2 / a["seconds"] for a, b in zip(runs, peers)), 2)
    print(json.dumps({
        "work": f"scores of {options.pairs} × {options.pairs} pairs, {options.model.name}",
        "times_as_fast_as_single": ratio(ours, single),
        "times_as_fast_as_batched": ratio(ours, batched),
        "float32_times_as_fast_as_single": ratio(exact, single),
        "float32_times_as_fast_as_batched": ratio(exact, batched),
        "ours": {"seconds_a_pair": [one["seconds"] / options.pairs**2 for one in ours], "metrics": ours[0].get("metrics")},
        "peer": {"single": single, "batched": batched},
    }))
