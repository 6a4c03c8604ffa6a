"""Tiny random models in HuggingFace's layout, with tokenizer and preprocessor files, and tiny data sets: made at test time by
transformers and Pillow, the same every time.

A test folder gets the fixtures with `from tiny import *` in its conftest.py.
"""

import json
import random

import pytest

__all__ = ["make_bert", "make_vit", "make_tokenizer", "make_image_processor", "make_colours", "tiny_bert", "tiny_vit", "colours"]

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220)}
WORDS = "is it a the circle square picture of this what colour red green blue yes no small large dark light shape".split()


def make_tokenizer(folder, max_length=32):
    """WordPiece over a few words, all ASCII letters and digits as pieces, and some punctuation. Returns the vocabulary's size."""
    from transformers import BertTokenizer

    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = SPECIALS + list(".,?!-'") + list(characters) + ["##" + c for c in characters] + ["##ing", "##s"] + WORDS
    tokens = list(dict.fromkeys(tokens))
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, model_max_length=max_length)
    tokenizer.save_pretrained(folder)
    return len(tokens)


def make_bert(folder, seed=0, tokenizer=True, **changes):
    """A random BertModel; `changes` go to its BertConfig."""
    import torch
    from transformers import BertConfig, BertModel

    config = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "vocab_size": 200,
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        config["vocab_size"] = max(config["vocab_size"], make_tokenizer(folder))
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**config)).eval()
    model.save_pretrained(folder)
    return folder


def make_image_processor(folder, size=32, **changes):
    from transformers import ViTImageProcessorPil

    ViTImageProcessorPil(size={"height": size, "width": size}, **changes).save_pretrained(folder)


def make_vit(folder, seed=0, **changes):
    """A random ViTModel; `changes` go to its ViTConfig."""
    import torch
    from transformers import ViTConfig, ViTModel

    config = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    ViTModel(ViTConfig(**config)).eval().save_pretrained(folder)
    make_image_processor(folder, config["image_size"])
    return folder


def make_colours(folder, count=48, seed=0):
    """A data set that a random tower can learn: pictures of one colour, a question about it, and the colour as the label; every sixth
    row lacks its picture, every seventh its text. Writes data.jsonl with splits train and valid."""
    from PIL import Image

    draw = random.Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        name = list(COLOURS)[index % len(COLOURS)]
        pixel = tuple(min(255, max(0, value + draw.randint(-30, 30))) for value in COLOURS[name])
        size = (draw.randint(20, 60), draw.randint(20, 60))
        path = f"images/{index:03d}.png"
        Image.new("RGB", size, pixel).save(folder / path)
        row = {"id": f"c{index}", "split": "valid" if index % 4 == 3 else "train", "label": name}
        if index % 7 != 6:
            row["text"] = f"what colour is the {draw.choice(['circle', 'square', 'picture'])}?"
        if index % 6 != 5 or "text" not in row:
            row["image"] = path
        rows.append(row)
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return data


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """Folder of a tiny BERT with its tokenizer."""
    return make_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory):
    """Folder of a tiny ViT (32×32 pixels) with its image processor."""
    return make_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """Manifest of the data set of colours."""
    return make_colours(tmp_path_factory.mktemp("colours"))
