"""A TVP step through an InstructBLIP-7B-shaped checkpoint of random numbers (ViT-g, Q-Former, LLaMA-7B; about 16 GB of float16 on disk), batch 1.

    python bench/big.py --folder SCRATCH [--steps 2] [--threads 2] [--keep]

Makes the checkpoint under SCRATCH (and removes it afterwards, without --keep), trains `--steps` steps with train.weights = "f16" and
train.checkpointing, and tells the seconds of the last step, the process' peak memory, and the ratio to the operation bound: forward operations and
the same again for gradients of activations, at the rate of float32 products measured here. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import time

from pictures import draw_pictures
from processes import output_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--folder", type=pathlib.Path, required=True, help="on a disk with 17 GB of room")
parser.add_argument("--steps", type=int, default=2)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--layers", type=int, default=0, help="fewer in tower and language model, to try the script")
parser.add_argument("--keep", action="store_true")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"

MAKE = """
import json, sys, torch, transformers
from pathlib import Path
from safetensors.torch import save_file
folder, layers = Path(sys.argv[1]), int(sys.argv[2])
sys.path.insert(0, sys.argv[3])
from multimodal import write_processor, write_tokenizer
from tiny import make_tokenizer
write_tokenizer(folder)
write_processor(folder, 224, image_processor_type="BlipImageProcessor")
(folder / "qformer_tokenizer").mkdir(exist_ok=True)
make_tokenizer(folder / "qformer_tokenizer", 512)
text = transformers.LlamaConfig(vocab_size=32001, num_hidden_layers=layers or 32, bos_token_id=0, eos_token_id=2, pad_token_id=1)
vision = transformers.InstructBlipVisionConfig(num_hidden_layers=layers or 39)
config = transformers.InstructBlipConfig(vision_config=vision.to_dict(), qformer_config=transformers.InstructBlipQFormerConfig().to_dict(),
                                         text_config=text.to_dict(), num_query_tokens=32, image_token_index=4)
with torch.device("meta"):
    model = transformers.InstructBlipForConditionalGeneration(config)
config.architectures = ["InstructBlipForConditionalGeneration"]
config.save_pretrained(folder)
torch.manual_seed(0)
block = (torch.randn(1 << 25) * 0.02).half()
shard, held, number, places, total = {}, 0, 0, {}, 0

def flush():
    global shard, held, number
    if shard:
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        places.update({key: name for key in shard})
        shard, held, number = {}, 0, number + 1

for name, tensor in model.state_dict().items():
    count = tensor.numel()
    if name.endswith("position_ids"):
        continue
    if tensor.dim() == 1:
        made = torch.ones(count).half() if name.endswith("weight") else torch.zeros(count).half()
    else:
        made = block.repeat(-(-count // len(block)))[:count].reshape(tensor.shape).clone()
    shard[name], held, total = made, held + 2 * count, total + 2 * count
    if held > 2 << 30:
        flush()
flush()
(folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
print(total)
"""

RECIPE = """
task = "recognise"
[expert]
method = "tvp"
frame = 224
width = 30
[[source]]
model = "{folder}/model"
[data]
train = "{folder}/pictures.jsonl"
classes = ["red", "green"]
workers = 0
[train]
steps = {steps}
batch = 1
lr = 1.0
threads = {threads}
weights = "f16"
checkpointing = true
log_every = 1
eval_every = 0
"""


def forward_macs(tokens):
    layers = options.layers
    rows, width = 257, 1408
    vision = (layers or 39) * (rows * (4 * width * width + 2 * width * 6144) + 2 * rows * rows * width) + 256 * 3 * 14 * 14 * width
    queries, wide = 32 + tokens, 768
    former = 12 * (queries * 4 * wide * wide + queries * 2 * wide * 3072) + 6 * (32 * 2 * wide * wide + rows * 2 * width * wide)
    length = 32 + tokens
    language = (layers or 32) * length * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 4096 * 32001
    return vision + former + language


folder = options.folder.resolve()
model = folder / "model"
model.mkdir(parents=True, exist_ok=True)
size = int(output_of([sys.executable, "-c", MAKE, model, options.layers, ROOT / "tests"], options.threads).split()[-1])
draw_pictures(folder, 2 * -(-options.steps // 2), ["red", "green"])
recipe = folder / "recipe.toml"
recipe.write_text(RECIPE.format(folder=folder, steps=options.steps, threads=options.threads))
rate = float(output_of([sys.executable, ROOT / "bench" / "rates.py", options.threads, 2048, 5], options.threads))
begin = time.perf_counter()
shutil.rmtree(folder / "run", ignore_errors=True)
output_of([program, "--threads", options.threads, "train", recipe, "--out", folder / "run"], options.threads)
seconds = time.perf_counter() - begin
record = json.loads((folder / "run" / "run.json").read_text())
steps = [json.loads(line)["seconds"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines() if "loss" in json.loads(line)]
last = steps[-1] - steps[-2] if len(steps) > 1 else steps[-1]
tokens = 12  # of instruction and answer
bound = 4 * forward_macs(tokens) / rate
print(json.dumps({"work": "TVP step, InstructBLIP-7B-shaped checkpoint, batch 1, f16 weights and checkpointing", "checkpoint_bytes": size,
                  "peak_bytes": record["performance"]["peak_memory_bytes"], "last_step_seconds": last, "step_over_bound": round(last / bound, 2),
                  "run_seconds": seconds, "steps": steps, "gemm_flops": rate}))
if not options.keep:
    shutil.rmtree(folder)
