"""The graph of 200 tasks whose embeddings have a million values each: seconds, and memory beside the embeddings' own.

    python bench/graph.py [--tasks 200] [--values 1000000] [--threads 2]

The embeddings are made up (squares of random numbers in the shapes of LoRA's tensors) and lie on disk. `peak_over_two` is the program's peak memory, above
that of a graph of two tiny tasks, over the size of two embeddings. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("--tasks", type=int, default=200)
parser.add_argument("--values", type=int, default=1_000_000)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()
PROGRAM = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"


def embedding(path, name, values, seed):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    parts = 64
    tensors = {f"encoder.layer.{i // 4}.attention.self.part{i % 4}.lora_A.weight": torch.randn(8, values // parts // 8).square() for i in range(parts)}
    info = {"format": "mmtune-task-embedding", "format_version": 1, "mmtune": "bench", "task": name, "run": name, "expert": name, "kind": "lora",
            "modality": "text", "backbones": ["b"], "backbone_names": ["b"], "options": "made up", "examples": 1, "batch": 1, "mean_loss": 1.0, "looped": ""}
    save_file(tensors, path, {"format": "pt", "mmtune": json.dumps(info)})


def build(folder, files):
    """Seconds and peak memory in bytes."""
    code = ("import resource, subprocess, sys\ndone = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
            "sys.exit(done.stderr) if done.returncode else print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)")
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, PROGRAM, "--threads", str(options.threads), "graph", "build", *files, "--out", folder / "graph.json"],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - begin, int(done.stdout)


with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    files = [folder / f"task{i}.safetensors" for i in range(options.tasks)]
    for i, path in enumerate(files):
        embedding(path, f"task{i}", options.values, i)
    tiny = [folder / "tiny0.safetensors", folder / "tiny1.safetensors"]
    for i, path in enumerate(tiny):
        embedding(path, f"tiny{i}", 512, i)
    _, floor = build(folder, tiny)
    seconds, peak = build(folder, files)
    pairs = options.tasks * (options.tasks - 1) // 2
    print(json.dumps({"work": f"graph of {options.tasks} tasks, {options.values:,} values each", "seconds": seconds, "pairs": pairs,
                      "values_per_second": pairs * options.values / seconds, "peak_over_two": (peak - floor) / (2 * 4 * options.values),
                      "threads": options.threads}))
