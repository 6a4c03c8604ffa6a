"""Two MPI processes of one thread each against one process with two threads: the same LoRA training, the same batches.

    python bench/mpi.py [--rounds 3] [--steps 12] [--batch 16]

LoRA r=8 on a random BERT-base with texts of about 128 tokens. A step's time is run.json's median, of the leading process; all processes
wait for each other in every step. Prints one JSON object.
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
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--layers", type=int, default=12, help="fewer, to try the script")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"

MAKE = """
import sys, torch, transformers
torch.manual_seed(0)
folder, layers = sys.argv[1:]
transformers.BertModel(transformers.BertConfig(num_hidden_layers=int(layers))).save_pretrained(folder)
with open(folder + "/vocab.txt", "w") as file:
    file.write("\\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{i}" for i in range(30517)]) + "\\n")
"""


def train(recipe, out, processes, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    launcher = ["mpirun", "-np", str(processes), "--oversubscribe", "--bind-to", "core"] if processes > 1 else []
    done = subprocess.run([*launcher, str(program), "--threads", str(threads), "train", str(recipe), "--out", str(out)], capture_output=True,
                          text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads((out / "run.json").read_text())["performance"]


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    subprocess.run([sys.executable, "-c", MAKE, str(folder / "bert"), str(options.layers)], check=True, capture_output=True)
    draw = random.Random(0)
    with open(folder / "data.jsonl", "w", encoding="utf-8") as file:
        for number in range(options.batch * options.steps):
            text = " ".join(f"word{draw.randrange(30000)}" for _ in range(126))
            file.write(json.dumps({"id": str(number), "text": text, "label": f"class{number % 4}"}) + "\n")
    recipe = folder / "recipe.toml"
    recipe.write_text(f'[backbone]\nmain = "{folder / "bert"}"\nmax_length = 128\n[expert]\nmethod = "lora"\nrank = 8\n'
                      f'[data]\ntrain = "{folder / "data.jsonl"}"\n[train]\nsteps = {options.steps}\nbatch = {options.batch}\n')
    pairs = [(train(recipe, folder / f"one{n}", 1, 2), train(recipe, folder / f"two{n}", 2, 1)) for n in range(options.rounds)]
print(json.dumps({
    "work": f"LoRA r=8, BERT-base, 128 tokens, batch {options.batch}: two MPI processes against two threads",
    "speed_over_threads": round(statistics.median(one["median_step_seconds"] / two["median_step_seconds"] for one, two in pairs), 3),
    "threads_seconds": [one["median_step_seconds"] for one, _ in pairs], "mpi_seconds": [two["median_step_seconds"] for _, two in pairs],
}))
