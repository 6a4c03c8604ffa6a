"""A TVP training step through a LLaVA with ViT-B/16 and a LLaMA of 12 layers and width 768 (random weights), against plain PyTorch.

    python bench/tvp.py [--rounds 3] [--steps 6] [--threads 2] [--batch 4]

Both take the same step on the same pictures: the framed picture with its prompt, the answer's loss, feature consistency over the projected visual
tokens, the normalised update. The peer is written with transformers as one would: the weights need no gradients, the prompted picture is
encoded for the loss and again for the consistency, the clean one in every step. mmtune's step is run.json's median; its clean features are
kept from a pass of their own. The bound: forward operations of tower, projection and language model and the same again for gradients of
activations, at the rate of float32 products measured beside the peer's steps. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from pictures import draw_pictures
from processes import output_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--layers", type=int, default=12, help="fewer, to try the script")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"
WIDTH, PATCHES = 768, 196
CLASSES = ["red", "green", "blue", "yellow"]

MAKE = """
import sys, torch, transformers
sys.path.insert(0, sys.argv[3])
from multimodal import write_processor, write_tokenizer
folder, layers = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
words = write_tokenizer(folder)
vision = transformers.CLIPVisionConfig(num_hidden_layers=layers, image_size=224, patch_size=16)
llama = transformers.LlamaConfig(vocab_size=max(words, 2000), hidden_size=768, intermediate_size=2048, num_hidden_layers=layers, num_attention_heads=12,
                                 bos_token_id=0, eos_token_id=2, pad_token_id=1, max_position_embeddings=512)
config = transformers.LlavaConfig(vision_config=vision, text_config=llama, image_token_index=4)
transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
write_processor(folder, 224)
"""

PEER = """
import json, resource, statistics, sys, time
import torch, transformers
from tokenizers import Tokenizer
sys.path.insert(0, sys.argv[5])
from rates import product_rate
folder, steps, batch, threads = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(threads)
model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
model.requires_grad_(False)
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
before, behind = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("USER:", "This is a photo of a ASSISTANT:"))
answer = tokenizer.encode("red", add_special_tokens=False).ids + [2]
ids = [0, *before, *[4] * 196, *behind, *answer]
labels = [-100] * (len(ids) - len(answer)) + answer
ids, labels = torch.tensor([ids] * batch), torch.tensor([labels] * batch)
delta, mask = torch.zeros(3, 224, 224, requires_grad=True), torch.ones(3, 224, 224)
mask[:, 30:-30, 30:-30] = 0
mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
pictures = torch.rand(steps + 1, batch, 3, 224, 224)

def features(pixels):
    found = model.get_image_features(pixel_values=pixels)
    found = found if isinstance(found, (list, tuple)) else getattr(found, "pooler_output", found)
    return torch.stack(list(found)) if isinstance(found, (list, tuple)) else found

times, rates = [], []
for step in range(steps + 1):
    begin = time.perf_counter()
    with torch.no_grad():
        clean = features((pictures[step] - mean) / std)
    prompted = (pictures[step] + delta - mean) / std
    task = model(input_ids=ids, pixel_values=prompted, labels=labels).loss
    moved = features(prompted)
    fca = (moved - clean).pow(2).sum(-1).add(1e-12).sqrt().mean()
    (gradient,) = torch.autograd.grad(task + 0.005 * fca, delta)
    with torch.no_grad():
        delta -= mask * gradient / (gradient.norm() + 1e-10)
    times.append(time.perf_counter() - begin)
    rates.append(product_rate())
print(json.dumps({"seconds": statistics.median(times[1:]), "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                  "flops": statistics.median(rates), "tokens": ids.shape[1]}))
"""

RECIPE = """
task = "recognise"
[expert]
method = "tvp"
frame = 224
width = 30
fca = 0.005
[[source]]
model = "{folder}/model"
[data]
train = "{folder}/pictures.jsonl"
classes = ["red", "green", "blue", "yellow"]
workers = 1
[train]
epochs = 2
batch = {batch}
lr = 1.0
threads = {threads}
"""


def bound_flops(tokens):
    """Of a step: forward and gradients of activations of all that lies above the pixels. LLaVA reads the last layer of the tower but one."""
    macs = PATCHES * 3 * 16 * 16 * WIDTH
    rows = PATCHES + 1
    macs += (options.layers - 1) * (rows * (4 * WIDTH * WIDTH + 2 * WIDTH * 3072) + 2 * rows * rows * WIDTH)
    macs += PATCHES * 2 * WIDTH * WIDTH
    # A row of the causal attention sees half of the others.
    macs += options.layers * (tokens * (4 * WIDTH * WIDTH + 3 * WIDTH * 2048) + tokens * tokens * WIDTH)
    return 2 * 2 * options.batch * macs


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    subprocess.run([sys.executable, "-c", MAKE, str(folder / "model"), str(options.layers), str(ROOT / "tests")], check=True, capture_output=True)
    draw_pictures(folder, options.batch * options.steps, CLASSES)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder, batch=options.batch, threads=options.threads))

    def ours(number, precision):
        out = folder / f"{precision}{number}"
        output_of([program, "--threads", options.threads, "train", recipe, f"train.matmul_precision={precision}", "--out", out], options.threads)
        return json.loads((out / "run.json").read_text())["performance"]

    fast, exact, peers = [], [], []
    for number in range(options.rounds):
        fast.append(ours(number, "high"))
        peers.append(json.loads(output_of([sys.executable, "-c", PEER, folder / "model", options.steps, options.batch, options.threads, ROOT / "bench"],
                                          options.threads)))
        exact.append(ours(number, "highest"))
    middle = lambda values: round(statistics.median(values), 3)
    bounds = [bound_flops(one["tokens"]) / one["flops"] for one in peers]
    print(json.dumps({
        "work": f"TVP step, LLaVA of ViT-B/16 and a LLaMA of 12 layers and width 768, batch {options.batch}",
        "step_over_bound": middle(one["median_step_seconds"] / bound for one, bound in zip(fast, bounds)),
        "step_over_peer": middle(a["median_step_seconds"] / b["seconds"] for a, b in zip(fast, peers)),
        "peak_over_peer": middle(a["peak_memory_bytes"] / b["peak_bytes"] for a, b in zip(fast, peers)),
        "float32_step_over_bound": middle(one["median_step_seconds"] / bound for one, bound in zip(exact, bounds)),
        "float32_step_over_peer": middle(a["median_step_seconds"] / b["seconds"] for a, b in zip(exact, peers)),
        "peer": peers, "ours": fast, "float32": exact,
    }))
