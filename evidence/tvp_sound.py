"""Does a border in the frame of a spectrogram transfer from one sound encoder to another?

    tools/mnist_fsdd.py ../shared/data/mnist_fsdd data/mnist_fsdd
    python evidence/tvp_sound.py [--data data/mnist_fsdd] [--out runs/tvp_sound] [--threads 2] [--seeds 1,2,3]

For every seed two encoders of different architecture learn spoken digits whole, a recording a row: the bundled ViT, and a Swin from nothing (which
transformers makes: tools/setup.sh test). Both are merged into checkpoints and frozen with their heads; a border of TVP's form is trained
through each, and every border is tried on both. Prints accuracy on the test recordings as mean and standard deviation over the
seeds. What is done already is not done again.
"""

import argparse
import json
import pathlib
import sys

from plans import ROOT, program, spread

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data/mnist_fsdd"))
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/tvp_sound"))
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seeds", default="1,2,3")
parser.add_argument("--epochs", type=int, default=40, help="of every training; a tenth of them for a first look")
options = parser.parse_args()
mmtune = program(options.threads)


def recordings(split):
    """A manifest with every recording once: pairs repeat them."""
    path, seen = options.out / f"{split}.jsonl", {}
    for line in (options.data / f"{split}.jsonl").read_text().splitlines():
        row = json.loads(line)
        picture = str((options.data / row["image_pair"]).resolve())
        seen.setdefault(picture, {"id": pathlib.Path(picture).stem, "image": picture, "label": row["label"]})
    path.write_text("".join(json.dumps(row) + "\n" for row in seen.values()))
    return path


def swin(folder, seed):
    """Windows and merged patches where the ViT has a class token; smaller patches, other widths."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import SwinConfig, SwinModel, ViTImageProcessor

    torch.manual_seed(seed)
    config = SwinConfig(image_size=64, patch_size=4, embed_dim=48, depths=[2, 4, 2], num_heads=[3, 6, 12], window_size=4, drop_path_rate=0.0)
    SwinModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def train(recipe, out, *changes):
    if not (out / "head.safetensors").exists():
        mmtune("train", ROOT / recipe, *changes, f"data.train={train_data}", f"data.valid={valid_data}", "backbone.main_input=image",
               f"train.epochs={options.epochs}", "backbone.matmul_precision=medium", "--out", out, "--resume")
    return out


options.out.mkdir(parents=True, exist_ok=True)
train_data, valid_data, test_data = (recordings(split) for split in ("train", "valid", "test"))
found = {}
for seed in map(int, options.seeds.split(",")):
    folder = options.out / f"seed-{seed}"
    bases = {"vit": "mmtune-vit-small-64", "swin": swin(folder / "swin-base", seed)}
    prompts = {}
    for name, base in bases.items():
        rate = "3e-4" if name == "vit" else "1e-3"
        encoder = train("recipes/tvp/spoken_digits_encoder.toml", folder / name, f"backbone.main={base}", f"train.lr={rate}", f"train.seed={seed}")
        merged = folder / f"{name}-merged"
        if not merged.exists():
            mmtune("merge", encoder, "--dtype", "f32", "--out", merged)
        prompts[name] = train("recipes/tvp/spoken_digits.toml", folder / f"border-of-{name}", f"backbone.main={merged}", f"train.seed={seed}")
    matrix = json.loads(mmtune("prompt", "transfer", *prompts.values(), "--models", *prompts.values(), "--data", test_data, "--json",
                               "--html", folder / "matrix.html"))
    for row in matrix["blocks"][0]["rows"]:
        for name, cell in zip(prompts, row["cells"]):
            found.setdefault(row["prompt"], {}).setdefault(name, []).append(cell["metrics"]["accuracy"]["value"])
    print(f"seed {seed}: done", file=sys.stderr, flush=True)


print("| picture | on the ViT | on the Swin |\n|---|---|---|")
for row, cells in found.items():
    print(f"| {row} | {spread(cells['vit'], 4)} | {spread(cells['swin'], 4)} |")
