"""What APT adds to the time of a frozen ViLT-B/32, against its own operations and against deep prompts at the same places.

    python bench/apt.py [--model vilt] [--rounds 3] [--steps 8] [--threads 2]

With --model meter: METER's six co-attention layers in each direction at 384 pixels, behind encoders of one block each (the experts stand on the
co-attention layers alone; what is below costs every row the same). Its deep prompts stand among the keys and values of both attentions of every
layer, the 24 places that APT has.

Every row is `mmtune cost --measure` of one expert on the same random checkpoint, training step and forward pass, in turns. The extra time of an
expert in a step is its time less that of the same backbone with one learned vector in front of the text, whose gradient goes through every
block too and which costs nothing else; in a forward pass it is its time less that of passes without the expert, in turns with them in one
process. Such differences are small, so they are taken between the fastest steps of all rounds: other work on a machine slows a step and never
hastens one. "own" is the extra time over the expert's own operations at the fastest rate of matrix products.

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
parser.add_argument("--model", choices=["vilt", "meter"], default="vilt")
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
# The released checkpoints' names; a vocabulary of 1,000, since nothing depends on it.
MAKE_METER = """
import sys, torch
torch.manual_seed(0)
folder, positions, width, inner = sys.argv[1], int(sys.argv[2]) + 2, 768, 3072
tensors = {}
def linear(name, out, size):
    tensors[name + ".weight"], tensors[name + ".bias"] = torch.randn(out, size) * 0.02, torch.zeros(out)
def norm(name):
    tensors[name + ".weight"], tensors[name + ".bias"] = torch.ones(width), torch.zeros(width)
def attention(name):
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        linear(f"{name}.{part}", width, width)
    norm(f"{name}.output.LayerNorm")
def feed_forward(name):
    linear(f"{name}.intermediate.dense", inner, width)
    linear(f"{name}.output.dense", width, inner)
    norm(f"{name}.output.LayerNorm")
embeddings = "text_transformer.embeddings"
for name, rows in {"word": 1000, "position": positions, "token_type": 1}.items():
    tensors[f"{embeddings}.{name}_embeddings.weight"] = torch.randn(rows, width) * 0.02
norm(f"{embeddings}.LayerNorm")
attention("text_transformer.encoder.layer.0.attention")
feed_forward("text_transformer.encoder.layer.0")
visual, block = "vit_model.visual", "vit_model.visual.transformer.resblocks.0"
tensors[f"{visual}.class_embedding"] = torch.randn(width) * 0.02
tensors[f"{visual}.positional_embedding"] = torch.randn(24 * 24 + 1, width) * 0.02
tensors[f"{visual}.conv1.weight"] = torch.randn(width, 3, 16, 16) * 0.02
for name in (f"{visual}.ln_pre", f"{visual}.ln_post", f"{block}.ln_1", f"{block}.ln_2"):
    norm(name)
tensors[f"{block}.attn.in_proj_weight"], tensors[f"{block}.attn.in_proj_bias"] = torch.randn(3 * width, width) * 0.02, torch.zeros(3 * width)
linear(f"{block}.attn.out_proj", width, width)
linear(f"{block}.mlp.c_fc", inner, width)
linear(f"{block}.mlp.c_proj", width, inner)
linear("cross_modal_text_transform", width, width)
linear("cross_modal_image_transform", width, width)
tensors["token_type_embeddings.weight"] = torch.randn(2, width) * 0.02
for stream in ("text", "image"):
    for layer in range(6):
        name = f"cross_modal_{stream}_layers.{layer}"
        attention(f"{name}.attention")
        attention(f"{name}.crossattention")
        feed_forward(name)
    linear(f"cross_modal_{stream}_pooler.dense", width, width)
torch.save({"state_dict": tensors}, folder + "/meter.ckpt")
with open(folder + "/vocab.txt", "w") as file:
    file.write("\\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{i}" for i in range(995)]) + "\\n")
with open(folder + "/tokenizer_config.json", "w") as file:
    file.write('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
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


def make_model(folder):
    """The model's folder and its name in the table."""
    script = MAKE if options.model == "vilt" else MAKE_METER
    subprocess.run([sys.executable, "-c", script, folder, str(TEXT + options.prompts)], check=True, capture_output=True)
    if options.model == "vilt":
        return folder, "ViLT-B/32"
    output_of([program, "import", f"{folder}/meter.ckpt", "--tokenizer", folder, "--out", f"{folder}/model"], options.threads)
    pathlib.Path(folder, "meter.ckpt").unlink()
    # A layer of it has two attentions, so that prompts' keys and values are made for every example.
    del EXPERTS["deep prompts, keys and values once"]
    return f"{folder}/model", "METER's co-attention layers, 384²"


with tempfile.TemporaryDirectory() as folder:
    model, described = make_model(folder)
    recipes = {}
    for number, (name, expert) in enumerate(EXPERTS.items()):
        recipes[name] = pathlib.Path(folder) / f"recipe{number}.toml"
        recipes[name].write_text(f'[backbone]\nmain = "{model}"\n[expert]\n{expert}\n[data]\ntrain = "none.jsonl"\n')
    for kind, flags in {"training step": [], "forward pass": ["--inference"]}.items():
        rounds = [{name: step_of(recipe, *flags) for name, recipe in recipes.items()} for _ in range(options.rounds)]
        steps = {name: [one[name]["step"] for one in rounds] for name in EXPERTS}
        fastest = {name: min(step["fastest_seconds"] for step in found) for name, found in steps.items()}
        # What a pass without the expert took is the pass less what the expert added.
        without = {name: min(step["fastest_seconds"] - step["extra_seconds"] for step in found) if flags else fastest["frozen"]
                   for name, found in steps.items()}
        extra = {name: fastest[name] - without[name] for name in EXPERTS}
        rate = max(step["fastest_gemm_flops"] for found in steps.values() for step in found)
        row = {"work": f"{described}, batch {options.batch}, {TEXT} tokens, {options.prompts} prompts: {kind}"}
        row["over_bound"] = {name: round(statistics.median(one[name]["step"]["seconds"] / one[name]["step"]["bound_seconds"] for one in rounds), 3) for name in EXPERTS}
        row["over_frozen"] = {name: round(statistics.median(one[name]["step"]["seconds"] / one["frozen"]["step"]["seconds"] for one in rounds), 3) for name in EXPERTS}
        # Forward and backward of an expert of which everything learns: three times its forward operations.
        passes = 1 if flags else 3
        own = 2 * passes * options.batch * rounds[0]["APT"]["expert_macs"] / rate
        row["apt_extra_over_own"] = round(extra["APT"] / own, 3)
        row["apt_extra_over"] = {name: round(extra["APT"] / extra[name], 3) for name in list(EXPERTS)[2:]}
        row["extra_over_frozen"] = {name: round(extra[name] / without[name], 3) for name in EXPERTS}
        row["seconds"] = {name: [round(one[name]["step"]["seconds"], 4) for one in rounds] for name in EXPERTS}
        print(json.dumps(row), flush=True)
