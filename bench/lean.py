"""A BERT-large-sized checkpoint trained with LoRA: `--weights f16` with gradient checkpointing, against transformers + peft in float32.

    python bench/lean.py [--rounds 3] [--steps 4] [--threads 2] [--batch 8] [--tokens 128]

LoRA r=8 on query and value of 24 layers, batch 8 of 128 tokens, no padding, no dropout on either side; a random checkpoint, saved in float32,
so that ours converts it while opening. Both sides run alternately, each in a process of its own; the memory is the whole process' peak.
Prints one JSON object.
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
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--tokens", type=int, default=128)
parser.add_argument("--layers", type=int, default=24, help="fewer, to try the script")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"

MAKE = """
import sys, torch, transformers
torch.manual_seed(0)
folder, layers = sys.argv[1:]
config = transformers.BertConfig(hidden_size=1024, num_hidden_layers=int(layers), num_attention_heads=16, intermediate_size=4096)
transformers.BertModel(config).save_pretrained(folder)
with open(folder + "/vocab.txt", "w") as file:
    file.write("\\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{i}" for i in range(30517)]) + "\\n")
"""


def run(command):
    return json.loads(output_of(command, options.threads))


def ours(recipe, *more):
    return run([program, "--threads", options.threads, "cost", recipe, *more, "--measure", options.steps, "--batch", options.batch,
                "--tokens", options.tokens, "--json"])["costs"][0]["step"]


with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, "-c", MAKE, folder, str(options.layers)], check=True, capture_output=True)
    recipe = pathlib.Path(folder) / "recipe.toml"
    recipe.write_text(f'[backbone]\nmain = "{folder}"\nmain_pooling = "pooler"\n[expert]\nmethod = "lora"\nrank = 8\n[data]\ntrain = "none.jsonl"\n')
    lean, plain, peer = [], [], []
    for _ in range(options.rounds):
        lean.append(ours(recipe, "train.checkpointing=true", "--weights", "f16"))
        peer.append(run([sys.executable, ROOT / "bench" / "peer_step.py", folder, "--batch", options.batch, "--tokens", options.tokens,
                         "--steps", options.steps, "--threads", options.threads]))
        plain.append(ours(recipe))
ratio = lambda a, b, key_a, key_b: round(statistics.median(x[key_a] / y[key_b] for x, y in zip(a, b)), 3)
print(json.dumps({
    "work": f"LoRA r=8 (q, v) on a BERT-large-sized checkpoint, batch {options.batch} × {options.tokens} tokens, f16 weights and checkpointing",
    "peak_over_peer": ratio(lean, peer, "peak_bytes", "peak_bytes"), "step_over_peer": ratio(lean, peer, "seconds", "seconds"),
    "plain_peak_over_peer": ratio(plain, peer, "peak_bytes", "peak_bytes"), "plain_step_over_peer": ratio(plain, peer, "seconds", "seconds"),
    "lean": lean, "plain": plain, "peer": peer,
}))
