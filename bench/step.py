"""LoRA training steps: `mmtune cost --measure` against transformers + peft, in alternation, on the same random checkpoints and threads.

    python bench/step.py [--rounds 3] [--steps 8] [--threads 2]

Prints one JSON object a workload: the step against the operation bound, the ratio to the peer, and the peak memories; "float32" is the same
step with backbone.matmul_precision = "highest".
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
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--only", help="vit, bert, swin, clip, wav2vec2 or vilt")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"

MAKE = """
import sys, torch, transformers
torch.manual_seed(0)
family, folder = sys.argv[1:]
if family == "vit":
    model = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
    transformers.ViTImageProcessorPil().save_pretrained(folder)
elif family == "swin":
    model = transformers.SwinModel(transformers.SwinConfig(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32]), add_pooling_layer=True)
    transformers.ViTImageProcessorPil().save_pretrained(folder)
elif family == "clip":
    model = transformers.CLIPModel(transformers.CLIPConfig())
    transformers.CLIPImageProcessorPil().save_pretrained(folder)
    # Any vocabulary will do: the steps draw their ids.
    import json
    from tokenizers.pre_tokenizers import ByteLevel
    letters = sorted(ByteLevel.alphabet())
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    json.dump({word: number for number, word in enumerate(words)}, open(folder + "/vocab.json", "w"))
    open(folder + "/merges.txt", "w").write("#version: 0.2\\n")
elif family == "wav2vec2":
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config())
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
else:
    if family == "vilt":
        model = transformers.ViltModel(transformers.ViltConfig())
        transformers.ViltImageProcessorPil().save_pretrained(folder)
    else:
        model = transformers.BertModel(transformers.BertConfig())
    with open(folder + "/vocab.txt", "w") as file:
        file.write("\\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{i}" for i in range(30517)]) + "\\n")
model.save_pretrained(folder)
"""

# name, batch, tokens of a text, keys of [backbone] besides main
WORK = {
    "vit": ("LoRA r=8 (q, v), ViT-B/16, 224², batch 8", 8, 0, 'main_pooling="first"'),
    "bert": ("LoRA r=8 (q, v), BERT-base, 128 tokens, batch 16", 16, 128, 'main_pooling="pooler"'),
    "swin": ("LoRA r=8 (q, v), Swin-B, 224², batch 4", 4, 0, 'main_pooling="pooler"'),
    "clip": ("LoRA r=8 (q, v), CLIP ViT-B/32, both towers, 224² and 77 tokens, batch 16", 16, 77,
             'main_input="image"\ncondition="FOLDER"\ncondition_input="text"'),
    "vilt": ("LoRA r=8 (q, v), ViLT-B/32, 384² and 40 tokens, batch 8", 8, 40, ""),
    "wav2vec2": ("LoRA r=8 (q, v), Wav2Vec2-base, 4 s at 16 kHz, batch 4", 4, 0, 'main_input="audio"'),
}


def run(command):
    return json.loads(output_of(command, options.threads))


def measure(family, folder):
    name, batch, tokens, keys = WORK[family]
    subprocess.run([sys.executable, "-c", MAKE, family, folder], check=True, capture_output=True)
    recipe = pathlib.Path(folder) / "recipe.toml"
    recipe.write_text(f'[backbone]\nmain = "{folder}"\n{keys.replace("FOLDER", folder)}\n[expert]\nmethod = "lora"\nrank = 8\n[data]\ntrain = "none.jsonl"\n')
    ours, exact, theirs = [], [], []
    step = [program, "--threads", options.threads, "cost", recipe, "--measure", options.steps, "--batch", batch, "--tokens", tokens or 1, "--json"]
    for _ in range(options.rounds):
        ours.append(run(step)["costs"][0]["step"])
        exact.append(run([*step, "--matmul-precision", "highest"])["costs"][0]["step"])
        theirs.append(run([sys.executable, ROOT / "bench" / "peer_step.py", folder, "--batch", batch, "--tokens", tokens, "--steps",
                           options.steps, "--threads", options.threads]))
    over_peer = lambda steps, key: round(statistics.median(a[key] / b[key] for a, b in zip(steps, theirs)), 3)
    return {
        "work": name,
        "step_over_bound": round(statistics.median(one["ratio"] for one in ours), 3),
        "step_over_peer": over_peer(ours, "seconds"),
        "peak_over_peer": over_peer(ours, "peak_bytes"),
        "float32_step_over_bound": round(statistics.median(one["ratio"] for one in exact), 3),
        "float32_step_over_peer": over_peer(exact, "seconds"),
        "ours": {"seconds": [one["seconds"] for one in ours], "peak_bytes": ours[0]["peak_bytes"], "gemm_flops": ours[0]["gemm_flops"]},
        "peer": {"seconds": [one["seconds"] for one in theirs], "peak_bytes": theirs[0]["peak_bytes"], "attention": theirs[0]["attention"]},
    }


for family in WORK:
    if options.only in (None, family):
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(family, folder)), flush=True)
