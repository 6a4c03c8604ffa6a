"""What APT adds to the time of a frozen ViLT-B/32, against its own operations and against deep prompts at the same places.

    python bench/apt.py [--rounds 3] [--steps 8] [--threads 2]

Every row is `mmtune cost --measure` of one expert on the same random checkpoint, training step and forward pass, in turns. The extra time of an
expert is its time less that of the same backbone with one learned vector in front of the text, whose gradient goes through every block too and
which costs nothing else. "own" is the extra time over the expert's own operations at the matrix-product rate of the same process.

"deep prompts" are prompts that stand among the tokens of every block and pass through all of it, as published programs compute them; "keys and
values for every example" leaves out what nobody reads of them, "keys and values once" shares them between the examples of a batch. All are exact.
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
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--prompts", type=int, default=200)
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"

TEXT = 40
# As many positions as a prompt in front of the text takes with it.
MAKE = """
import sys, torch, transformers
torch.manual_seed(0)
folder, positions = sys.argv[1], int(sys.argv[2])
transformers.ViltModel(transformers.ViltConfig(max_position_embeddings=positions)).save_pretrained(folder)
transformers.ViltImageProcessorPil().save_pretrained(folder)
with open(folder + "/vocab.txt", "w") as file:
    file.write("\\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{i}" for i in range(30517)]) + "\\n")
"""
EXPERTS = {
    "frozen": 'method = "class_token"',
    "APT": f'method = "apt"\nprompts = {options.prompts}\nrank = 4',
    # All layers see as many rows more: what a prompt that passes through every block costs.
    "deep prompts": f'method = "prompt"\nlength = {options.prompts}',
    "deep prompts, keys and values for every example": f'method = "prompt"\nlength = {options.prompts}\ndeep = true\nonce = false',
    "deep prompts, keys and values once": f'method = "prompt"\nlength = {options.prompts}\ndeep = true\nonce = true',
}


def step_of(recipe, *flags):
    command = [program, "--threads", options.threads, "cost", recipe, "--measure", options.steps, "--batch", options.batch, "--tokens", TEXT, "--json"]
    return json.loads(output_of([*command, *flags], options.threads))["costs"][0]


with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, "-c", MAKE, folder, str(TEXT + options.prompts)], check=True, capture_output=True)
    recipes = {}
    for number, (name, expert) in enumerate(EXPERTS.items()):
        recipes[name] = pathlib.Path(folder) / f"recipe{number}.toml"
        recipes[name].write_text(f'[backbone]\nmain = "{folder}"\n[expert]\n{expert}\n[data]\ntrain = "none.jsonl"\n')
    for kind, flags in {"training step": [], "forward pass": ["--inference"]}.items():
        rounds = [{name: step_of(recipe, *flags) for name, recipe in recipes.items()} for _ in range(options.rounds)]
        extra = {name: [one[name]["step"]["seconds"] - one["frozen"]["step"]["seconds"] for one in rounds] for name in EXPERTS}
        row = {"work": f"ViLT-B/32, batch {options.batch}, {TEXT} tokens, {options.prompts} prompts: {kind}"}
        row["over_bound"] = {name: round(statistics.median(one[name]["step"]["seconds"] / one[name]["step"]["bound_seconds"] for one in rounds), 3) for name in EXPERTS}
        row["over_frozen"] = {name: round(statistics.median(one[name]["step"]["seconds"] / one["frozen"]["step"]["seconds"] for one in rounds), 3) for name in EXPERTS}
        # Forward and backward of an expert of which everything learns: three times its forward operations.
        passes = 1 if flags else 3
        own = [2 * passes * options.batch * one["APT"]["expert_macs"] / one["APT"]["step"]["gemm_flops"] for one in rounds]
        row["apt_extra_over_own"] = round(statistics.median(a / b for a, b in zip(extra["APT"], own)), 3)
        row["apt_extra_over"] = {name: round(statistics.median(a / b for a, b in zip(extra["APT"], extra[name])), 3) for name in list(EXPERTS)[2:]}
        row["seconds"] = {name: [round(one[name]["step"]["seconds"], 4) for one in rounds] for name in EXPERTS}
        print(json.dumps(row), flush=True)
