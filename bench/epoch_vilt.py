"""One LoRA r=8 epoch of a random ViLT-B/32 on real captions and photographs of many shapes: `mmtune train` against transformers + peft.

    python bench/epoch_vilt.py [--rounds 3] [--threads 2] [--pairs 64] [--shared ../shared]

The pairs are photographs of ../shared/data/coco_cc, each with the question that one of its captions makes, in batches of 8, shuffled. The peer's
processor and tokenizer pad each batch to its largest picture and longest text, which is what makes padding cost; both sides decode and resize. Dropout is
off on both. mmtune's time is the run's own, the peer's that of its loop: neither counts imports and reading the model. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile

from processes import output_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--pairs", type=int, default=64)
parser.add_argument("--shared", type=pathlib.Path, default=ROOT.parent / "shared")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"
source = options.shared / "data" / "coco_cc"
if not source.is_dir():
    sys.exit(f"no photographs in {source}")

# The words of the captions make the vocabulary, so that a text has as many tokens as words.
MAKE = """
import json, sys, torch, transformers
folder, data = sys.argv[1:]
torch.manual_seed(0)
words = sorted({word for line in open(data) for word in json.loads(line)["text"].split()})
vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + words
open(folder + "/vocab.txt", "w").write("\\n".join(vocabulary) + "\\n")
# As many words as the published model has.
config = transformers.ViltConfig(hidden_dropout_prob=0.0)
transformers.ViltModel(config).save_pretrained(folder)
transformers.ViltImageProcessorPil().save_pretrained(folder)
transformers.BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=40).save_pretrained(folder)
"""

PEER = """
import json, random, sys, time, peft, torch, transformers
from PIL import Image
folder, data, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(1)
rows = [json.loads(line) for line in open(data)]
classes = sorted({row["label"] for row in rows})
vilt = transformers.ViltModel.from_pretrained(folder)
vilt = peft.get_peft_model(vilt, peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"])).eval()
head = torch.nn.Linear(vilt.config.hidden_size, len(classes))
tokenizer, processor = transformers.BertTokenizer.from_pretrained(folder), transformers.ViltImageProcessorPil.from_pretrained(folder)
trainable = [p for p in [*vilt.parameters(), *head.parameters()] if p.requires_grad]
optimiser = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.01, fused=True)
random.Random(1).shuffle(rows)
begin = time.perf_counter()
for start in range(0, len(rows), 8):
    part = rows[start:start + 8]
    texts = tokenizer([row["text"] for row in part], padding=True, truncation=True, max_length=40, return_tensors="pt")
    pictures = processor([Image.open(row["image"]).convert("RGB") for row in part], return_tensors="pt")
    optimiser.zero_grad()
    pooled = vilt(**texts, pixel_values=pictures["pixel_values"], pixel_mask=pictures["pixel_mask"]).pooler_output
    torch.nn.functional.cross_entropy(head(pooled), torch.tensor([classes.index(row["label"]) for row in part])).backward()
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    optimiser.step()
print(json.dumps({"seconds": time.perf_counter() - begin}))
"""


def write_pairs(folder):
    with tarfile.open(source / "images.tar") as archive:
        archive.extractall(folder / "images", filter="data")
    files = {path.stem: path for path in (folder / "images").rglob("*.jpg")}
    rows = []
    for number, line in enumerate(open(source / "manifest.jsonl", encoding="utf-8")):
        row = json.loads(line)
        for caption, text in enumerate(row["captions"]):
            words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
            rows.append({"image": str(files[row["id"].split("/")[-1]]), "text": " ".join(words[:30]), "label": f"class {(number + caption) % 2}"})
    step = max(1, len(rows) // options.pairs)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::step][:options.pairs]))


def ours(folder, name, *changes):
    run = folder / name
    output_of([program, "--threads", options.threads, "train", folder / "recipe.toml", *changes, "--out", run], options.threads)
    seconds = json.loads((run / "run.json").read_text())["training_seconds"]
    subprocess.run(["rm", "-rf", str(run)], check=True)
    return seconds


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_pairs(folder)
    (folder / "model").mkdir()
    subprocess.run([sys.executable, "-c", MAKE, folder / "model", folder / "data.jsonl"], check=True, capture_output=True)
    (folder / "recipe.toml").write_text(
        f'task = "classify"\nbackbone.main = "{folder / "model"}"\nexpert = {{ method = "lora", rank = 8, alpha = 16, targets = ["query", "value"] }}\n'
        f'data = {{ train = "{folder / "data.jsonl"}", workers = 1 }}\ntrain = {{ epochs = 1, batch = 8, lr = 1e-3 }}\n'
    )
    mine, exact, rounded, theirs = [], [], [], []
    for _ in range(options.rounds):
        mine.append(ours(folder, "run"))
        exact.append(ours(folder, "exact", "backbone.matmul_precision=highest"))
        rounded.append(ours(folder, "rounded", "backbone.matmul_precision=medium"))
        theirs.append(json.loads(output_of([sys.executable, "-c", PEER, folder / "model", folder / "data.jsonl", options.threads], options.threads))["seconds"])
    ratio = lambda runs: round(statistics.median(b / a for a, b in zip(runs, theirs)), 2)
    print(json.dumps({
        "work": f"one LoRA r=8 epoch of ViLT-B/32 on {options.pairs} captions and photographs of COCO, batch 8",
        "speed_over_peer": ratio(mine), "float32_speed_over_peer": ratio(exact), "medium_speed_over_peer": ratio(rounded),
        "ours": mine, "float32": exact, "medium": rounded, "peer": theirs,
    }))
