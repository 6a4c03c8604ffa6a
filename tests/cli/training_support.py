"""What the tests of train, eval and predict share: tiny random checkpoints, made-up data that can be learned, and the program."""

import json
import os
import random
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")).resolve() / "mmtune"

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
FILLERS = "the a this that one box ball cup lamp chair is was seems looks very quite small large old new".split()


def mmtune(*arguments, check=None, **options):
    """Runs the program; `check` is the exit code that is expected."""
    environment = {**os.environ, "MMTUNE_CACHE": options.pop("cache", "/nonexistent"), **options.pop("env", {})}
    result = subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300, **options)
    if check is not None:
        assert result.returncode == check, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def make_text_model(folder, seed=0, layers=2, width=32):
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *FILLERS, "not", "and"]
    config = BertConfig(vocab_size=len(words), hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
                        intermediate_size=2 * width, max_position_embeddings=64, initializer_range=0.2)
    BertModel(config).save_pretrained(folder)
    (Path(folder) / "vocab.txt").write_text("\n".join(words) + "\n")
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 64}))
    return Path(folder)


def make_image_model(folder, seed=0, layers=2, width=32):
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(seed)
    config = ViTConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=2 * width, image_size=16,
                       patch_size=4, initializer_range=0.2)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return Path(folder)


def make_clip(folder, seed=0, layers=2, width=32):
    """A whole CLIP with a byte-pair tokenizer of its own, trained on the sentences of these tests."""
    import torch
    from bpe_models import clip_like
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(seed)
    rng = random.Random(seed)
    made = clip_like([sentence(colour, rng) for colour in COLOURS for _ in range(200)] + ["a photo of a red, green, blue thing."] * 9, size=600)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(made))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 24}))
    tower = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 2 * width}
    config = CLIPConfig(
        text_config=tower | {"vocab_size": len(made["model"]["vocab"]), "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 1},
        vision_config=tower | {"image_size": 16, "patch_size": 4},
        projection_dim=24,
        logit_scale_init_value=2.0,
    )
    model = CLIPModel(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() > 1:
                tensor.normal_(0.0, 0.15)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def sentence(colour, rng):
    words = rng.choices(FILLERS, k=rng.randint(2, 9))
    words.insert(rng.randrange(len(words) + 1), colour)
    return " ".join(words)


def write_jsonl(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(path)


def make_texts(path, count, seed):
    rng = random.Random(seed)
    colours = list(COLOURS)
    rows = [{"id": f"t{seed}-{i}", "text": sentence(colours[i % 3], rng), "label": colours[i % 3]} for i in range(count)]
    return write_jsonl(path, rows)


def make_picture(path, colour, rng):
    from PIL import Image

    base = COLOURS[colour]
    image = Image.new("RGB", (20, 20))
    image.putdata([tuple(min(255, max(0, c + rng.randint(-20, 20))) for c in base) for _ in range(400)])
    image.save(path)


def make_pictures(folder, count, seed, text_share=0.0, picture_share=1.0):
    """A manifest of pictures whose label is the colour; some rows also or only have a text that names it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    colours = list(COLOURS)
    rows = []
    for i in range(count):
        colour = colours[i % 3]
        row = {"id": f"p{seed}-{i}", "label": colour}
        if rng.random() < picture_share:
            make_picture(folder / f"{i}.png", colour, rng)
            row["image"] = f"{i}.png"
        if rng.random() < text_share or "image" not in row:
            row["text"] = sentence(colour, rng)
        rows.append(row)
    return write_jsonl(folder / "manifest.jsonl", rows)


def write_recipe(path, **sections):
    """Sections as nested dictionaries → TOML (only what these tests need)."""

    def value(v):
        if isinstance(v, bool):
            return "true" if v else "false"
        if isinstance(v, (list, tuple)):
            return "[" + ", ".join(value(item) for item in v) + "]"
        if isinstance(v, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {value(item)}" for k, item in v.items()) + "}"
        return json.dumps(str(v)) if isinstance(v, (str, Path)) else repr(v)

    lines = [f'task = "{sections.pop("task", "classify")}"']
    for name, section in sections.items():
        for table in section if isinstance(section, list) else [section]:
            lines.append(f"[[{name}]]" if isinstance(section, list) else f"[{name}]")
            lines += [f"{key} = {value(v)}" for key, v in table.items()]
    Path(path).write_text("\n".join(lines) + "\n")
    return Path(path)


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def trained_files(run):
    """Everything that a training learned, as bytes by name."""
    run = Path(run)
    files = sorted((run / "expert").rglob("*.safetensors")) + [run / "head.safetensors"]
    assert len(files) > 1, "no expert was saved"
    return {str(file.relative_to(run)): file.read_bytes() for file in files}
