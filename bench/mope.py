"""MoPE's training step, Swin-B at 224² with BERT-base and 128 tokens, against the same equations in plain PyTorch (bench/mope_peer.py); what 64
experts cost beside 4; and the second epoch of a run whose text tower is frozen against its first, pass over that tower included.

    python bench/mope.py [--rounds 3] [--steps 4] [--threads 2] [--pairs 256]

Checkpoints are random (their arithmetic is a trained one's). The epochs read real sentences and pictures of ../shared/data/nlvr (MMTUNE_SHARED
names another place) with a BERT-base and the bundled picture tower, and are left out where the data is not there. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from processes import output_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--pairs", type=int, default=256)
parser.add_argument("--tiny", action="store_true", help="two layers of a narrow model, to try the script")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"
nlvr = pathlib.Path(os.environ.get("MMTUNE_SHARED", ROOT.parent / "shared")) / "data" / "nlvr"

MAKE = """
import sys, torch, transformers
torch.manual_seed(0)
folder, tiny = sys.argv[1], sys.argv[2] == "True"
swin = dict(embed_dim=32, depths=[2, 2], num_heads=[2, 4], image_size=56) if tiny else dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32])
bert = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128) if tiny else {}
transformers.SwinModel(transformers.SwinConfig(**swin), add_pooling_layer=False).save_pretrained(folder + "/swin")
transformers.ViTImageProcessorPil(size={"height": 56, "width": 56} if tiny else None).save_pretrained(folder + "/swin")
transformers.BertModel(transformers.BertConfig(**bert), add_pooling_layer=False).save_pretrained(folder + "/bert")
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(33, 127)), *("##" + chr(c) for c in range(97, 123))]
open(folder + "/bert/vocab.txt", "w").write("\\n".join(words) + "\\n")
"""

RECIPE = """
[backbone]
main = "{main}"
condition = "{folder}/bert"
condition_pooling = "first"
matmul_precision = "{precision}"
[[expert]]
method = "mope"
experts = {experts}
prompt_length = 6
tower = "main"
"""
TEXT_PROMPTS = """
[[expert]]
method = "prompt"
tower = "condition"
deep = true
length = 4
dropout = 0.1
"""


def run(command):
    return json.loads(output_of(command, options.threads))


def step(folder, experts, precision="high"):
    recipe = folder / f"{experts}-{precision}.toml"
    recipe.write_text(RECIPE.format(main=folder / "swin", folder=folder, experts=experts, precision=precision) + TEXT_PROMPTS +
                      '[data]\ntrain = "none.jsonl"\n')
    return run([program, "--threads", options.threads, "cost", recipe, "--measure", options.steps, "--batch", 4, "--tokens", 128,
                "--classes", 23, "--json"])["costs"][0]["step"]


def epochs(folder):
    """Seconds of the pass and the first epoch together, and of later epochs."""
    rows = [json.loads(line) for line in (nlvr / "manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"][:options.pairs]
    for row in rows:
        row["shard"] = str(nlvr / row["shard"])
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe, out, batch, count = folder / "epochs.toml", folder / "run", 32, 4
    steps = -(-options.pairs // batch)
    recipe.write_text(RECIPE.format(main="mmtune-vit-small-64", folder=folder, experts=4, precision="high").replace(
        "[backbone]", '[backbone]\nmain_input = "image"\nmain_pooling = "mean"') +
        f'[data]\ntrain = "{folder / "pairs.jsonl"}"\ncolumns = {{ text = "sentence" }}\n[train]\nepochs = {count}\nbatch = {batch}\nlog_every = {steps}\n')
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MMTUNE_CACHE": str(folder / "cache")}
    done = subprocess.run([str(program), "--threads", str(options.threads), "train", str(recipe), "--out", str(out)], capture_output=True,
                          text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    ends = [json.loads(line)["seconds"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(ends) == count, ends
    seconds = [end - begin for begin, end in zip([0, *ends], ends)]
    return json.loads((out / "run.json").read_text())["features"]["seconds"] + seconds[0], statistics.median(seconds[1:])


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    subprocess.run([sys.executable, "-c", MAKE, name, str(options.tiny)], check=True, capture_output=True)
    ours, exact, many, peers = [], [], [], []
    for _ in range(options.rounds):
        ours.append(step(folder, 4))
        many.append(step(folder, 64))
        peers.append(run([sys.executable, ROOT / "bench" / "mope_peer.py", folder / "swin", folder / "bert", "--steps", options.steps,
                          "--threads", options.threads]))
        exact.append(step(folder, 4, "highest"))
    middle = lambda values: round(statistics.median(values), 3)
    result = {
        "work": "MoPE step, Swin-B 224² + BERT-base, 128 tokens, K = 4, l = 6, batch 4",
        "step_over_bound": middle(one["ratio"] for one in ours),
        "step_over_peer": middle(a["seconds"] / b["seconds"] for a, b in zip(ours, peers)),
        "peak_over_peer": middle(a["peak_bytes"] / b["peak_bytes"] for a, b in zip(ours, peers)),
        "peak_bytes": ours[0]["peak_bytes"],
        "float32_step_over_bound": middle(one["ratio"] for one in exact),
        "float32_step_over_peer": middle(a["seconds"] / b["seconds"] for a, b in zip(exact, peers)),
        "step_of_64_experts_over_4": middle(a["seconds"] / b["seconds"] for a, b in zip(many, ours)),
        "peer": {"seconds": [one["seconds"] for one in peers], "peak_bytes": peers[0]["peak_bytes"], "trainable": peers[0]["trainable"]},
    }
    if (nlvr / "manifest.jsonl").exists():
        first, later = epochs(folder)
        result["first_epoch_over_later"] = round(first / later, 2)
    print(json.dumps(result))
