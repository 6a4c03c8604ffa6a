#!/usr/bin/env python3
"""Measures an image tower as its model card reports it: linear-probe accuracy on the test splits of the data packs, beside a tower of the
same shape with random weights, raw pixels and the packs' floors, and zero-shot accuracy by class names.

The probes are `mmtune train` and `mmtune eval` on recipes/linear_probe.toml, the learning rate chosen on the validation split. They see
what raw pixels show too, where things are: a feature is all tokens of a picture, one behind the other. Features are computed once. Raw pixels are 32×32 thumbnails under multinomial logistic regression, its penalty chosen the same way. Zero-shot
compares the projected feature with the text encoder's embeddings of the class names. Writes a Markdown table and a JSON file.

Needs requirements/test.txt and requirements/demo.txt, and for Omniglot what tools/prepare_pretraining.py made.
"""

import argparse
import io
import json
import pathlib
import subprocess
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Of ../shared/data/README.md; Omniglot has none.
FLOORS = {"eurosat": 0.496, "fashion_mnist": 0.811, "caltech20": 0.423, "flowers5": 0.340, "clothing10": 0.268}
RATES = ["1e-4", "3e-4"]
PENALTIES = [1e-2, 1e-1, 1.0]


class Set:
    def __init__(self, name, manifest, label):
        self.name, self.manifest, self.label = name, manifest, label

    def rows(self, split):
        lines = self.manifest.read_text(encoding="utf-8").splitlines()
        return [row for row in map(json.loads, lines) if row["split"] == split]

    def pictures(self, split):
        from PIL import Image

        for row in self.rows(split):
            shard = row["shard"] if "shard" in row else row["image"].split("#")[0]
            with open(self.manifest.parent / shard, "rb") as file:
                file.seek(row["offset"])
                yield Image.open(io.BytesIO(file.read(row["size"]))).convert("RGB")

    def labels(self, split):
        return [row[self.label] for row in self.rows(split)]


def data_sets(data, prepared):
    sets = [Set(name, data / name / "manifest.jsonl", "class_name") for name in FLOORS]
    omniglot = prepared / "omniglot.jsonl"
    if not omniglot.exists():
        raise SystemExit(f"{omniglot}: missing; make it with: python tools/prepare_pretraining.py")
    return sets + [Set("omniglot, alphabet", omniglot, "alphabet"), Set("omniglot, character", omniglot, "character")]


def call(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def probe(program, model, one, folder):
    """Test accuracy of the linear probe that validates best."""
    best = None
    for rate in RATES:
        run = folder / f"run-{rate}"
        settings = [f"backbone.main={model}", f"data.train={one.manifest}", f"data.columns.label={one.label}", f"train.lr={rate}", "eval.bootstrap=0"]
        call(program, "train", ROOT / "recipes/linear_probe.toml", *settings, "--out", run)
        valid = json.loads((run / "run.json").read_text())["best"]["value"]
        if best is None or valid > best[0]:
            best = valid, run
    answer = json.loads(call(program, "eval", best[1], "--data", one.manifest, "data.where.split=test", "eval.bootstrap=0", "--json"))
    return answer["metrics"]["accuracy"]["value"]


def logistic(features, labels, classes, penalty):
    """Multinomial logistic regression, mean loss + penalty / 2 · |W|², by L-BFGS. Returns a function from features to classes."""
    import torch

    weight = torch.zeros(features.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(features @ weight + bias, labels) + penalty / 2 * weight.pow(2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return lambda rows: (rows @ weight + bias).argmax(1)


def pixel_probe(one):
    """The same for raw pixels."""
    import torch

    def pixels(split):
        return torch.from_numpy(np.stack([np.asarray(picture.resize((32, 32)), dtype=np.float32).ravel() for picture in one.pictures(split)]))

    names = sorted(set(one.labels("train")))
    labels = {split: torch.tensor([names.index(name) for name in one.labels(split)]) for split in ["train", "val", "test"]}
    train = pixels("train")
    mean, deviation = train.mean(0), train.std(0) + 1e-5
    best = None
    for penalty in PENALTIES:
        predict = logistic((train - mean) / deviation, labels["train"], len(names), penalty)
        score = (predict((pixels("val") - mean) / deviation) == labels["val"]).float().mean().item()
        if best is None or score > best[0]:
            best = score, predict
    return (best[1]((pixels("test") - mean) / deviation) == labels["test"]).float().mean().item()


def random_tower(model, folder):
    """A tower of the same shape that has learned nothing."""
    import shutil

    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    ViTModel(ViTConfig.from_pretrained(model), add_pooling_layer=False).to(torch.float32).save_pretrained(folder)
    shutil.copy(model / "preprocessor_config.json", folder)
    return folder


def class_phrases(one):
    """The texts of each class, as tools/prepare_pretraining.py phrases them."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("prepare_pretraining", ROOT / "tools/prepare_pretraining.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pack = "omniglot_small1" if one.name.startswith("omniglot") else one.name
    return {name: module.class_texts(pack, name)[0] for name in sorted(set(one.labels("train")))}


def zero_shot(model, text_encoder, one):
    """(accuracy by class names on the test split, chance)."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer, ViTImageProcessorPil, ViTModel

    tower = ViTModel.from_pretrained(model, add_pooling_layer=False, dtype=torch.float32).eval()
    processor = ViTImageProcessorPil.from_pretrained(model)
    tokenizer, encoder = AutoTokenizer.from_pretrained(text_encoder), AutoModel.from_pretrained(text_encoder).eval()
    projection = load_file(model / "projection.safetensors")["text_projection_mean.weight"].float()
    phrases = class_phrases(one)
    with torch.no_grad():
        batch = tokenizer(list(phrases.values()), padding=True, return_tensors="pt")
        mask = batch["attention_mask"][..., None].float()
        texts = (encoder(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        pictures, features = list(one.pictures("test")), []
        for begin in range(0, len(pictures), 128):
            features.append(tower(**processor(pictures[begin : begin + 128], return_tensors="pt")).last_hidden_state[:, 1:].mean(1))
        scores = torch.nn.functional.normalize(torch.cat(features) @ projection.T) @ torch.nn.functional.normalize(texts).T
    names = list(phrases)
    right = [names[i] == label for i, label in zip(scores.argmax(1).tolist(), one.labels("test"))]
    return float(np.mean(right)), 1 / len(names)


def number(value):
    return "–" if value is None else f"{value:.3f}"


def table(results):
    lines = ["| test split | floor | raw pixels | random tower | this tower | zero-shot (chance) |", "|---|---|---|---|---|---|"]
    for name, one in results.items():
        zero = f"{one['zero_shot']:.3f} ({one['chance']:.3f})" if one.get("zero_shot") is not None else "–"
        cells = [number(one[key]) for key in ["floor", "pixels", "random"]]
        lines.append(f"| {name} | {' | '.join(cells)} | **{number(one['tower'])}** | {zero} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/mmtune-vit-small-64", help="the tower's folder")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/mmtune")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT.parent / "shared/data", help="the data packs")
    parser.add_argument("--prepared", type=pathlib.Path, default=ROOT / "build/pretraining", help="what prepare_pretraining.py made")
    parser.add_argument("--only", help="measure the sets whose name contains this")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers here too")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        random = random_tower(options.model, folder / "random")
        for one in data_sets(options.data.resolve(), options.prepared.resolve()):
            if options.only and options.only not in one.name:
                continue
            result = {"floor": FLOORS.get(one.name), "pixels": pixel_probe(one)}
            result["random"] = probe(options.program, random, one, folder / one.name / "random")
            result["tower"] = probe(options.program, options.model, one, folder / one.name / "tower")
            if one.label != "character":  # characters have no names
                result["zero_shot"], result["chance"] = zero_shot(options.model, options.prepared / "minilm", one)
            results[one.name] = result
            print(one.name, {key: value if value is None else round(value, 3) for key, value in result.items()}, flush=True)
    print("\n" + table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
