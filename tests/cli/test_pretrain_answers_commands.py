"""mmtune pretrain of models that speak of pictures: tiny ones, on made-up pictures."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from training_support import PROGRAM, ROOT, make_pictures, mmtune, write_jsonl

pytest.importorskip("torch")
from multimodal import write_tokenizer  # noqa: E402

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 128}
OPT = {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
       "max_position_embeddings": 64, "bos_token_id": 2, "pad_token_id": 1, "eos_token_id": 2}
T5 = {"model_type": "t5", "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2,
      "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 1, "pad_token_id": 1, "eos_token_id": 2}
QFORMER = {"model_type": "blip_2_qformer", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
           "encoder_hidden_size": 32, "cross_attention_frequency": 1, "vocab_size": 40, "max_position_embeddings": 32}
CLIP_TEXT = {"model_type": "clip_text_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 3, "pad_token_id": 1}


def config_of(kind, words):
    if kind == "llava":
        return {"model_type": "llava", "image_token_index": 4, "vision_feature_layer": -1, "vision_config": VISION | {"model_type": "clip_vision_model"},
                "text_config": LLAMA | {"vocab_size": words}}
    if kind == "clip":
        return {"model_type": "clip", "projection_dim": 24, "vision_config": VISION | {"model_type": "clip_vision_model"},
                "text_config": CLIP_TEXT | {"vocab_size": words}}
    text = OPT if kind == "opt" else T5
    return {"model_type": "blip-2", "image_token_index": 4, "num_query_tokens": 4, "vision_config": VISION | {"model_type": "blip_2_vision_model"},
            "qformer_config": QFORMER, "text_config": text | {"vocab_size": words}}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    manifest = make_pictures(folder / "data", 24, 0)
    rows = []
    for line in manifest.read_text().splitlines():
        row = json.loads(line)
        colour = row["label"]
        rows.append({"image": str(folder / "data" / row["image"]), "id": row["id"], "texts": [f"this is a photo of a {colour} thing"],
                     "questions": [["This is a photo of a", colour], ["Is this red?", "yes" if colour == "red" else "no"]]})
    return write_jsonl(folder / "pictures.jsonl", rows), manifest


def recipe(tmp_path, pictures, kind, steps=60, lr=5e-3):
    words = write_tokenizer(tmp_path / "tokenizer")
    if kind == "clip":
        made = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())
        made["post_processor"] = {"type": "RobertaProcessing", "sep": ["<unk>", 3], "cls": ["<s>", 0], "trim_offsets": False, "add_prefix_space": False}
        (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps(made))
    (tmp_path / "model.json").write_text(json.dumps(config_of(kind, words)))
    path = tmp_path / "recipe.toml"
    path.write_text(f"""
task = "{'contrast' if kind == 'clip' else 'answer'}"
[data]
pictures = "{pictures[0]}"
workers = 0
[model]
config = "{tmp_path / 'model.json'}"
tokenizer = "{tmp_path / 'tokenizer'}"
[train]
steps = {steps}
batch = 16
lr = {lr}
threads = 1
log_every = 1
seed = 1
""")
    return path


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["contrast_loss" if "contrast_loss" in row else "answer_loss"] for row in rows]


@pytest.mark.parametrize("kind", ["llava", "opt", "t5", "clip"])
def test_the_loss_falls_and_the_model_opens(tmp_path, pictures, kind):
    # For its first hundred steps a CLIP gives all texts one embedding, and with longer ones it stays there.
    steps, lr = (400, 1e-3) if kind == "clip" else (60, 5e-3)
    mmtune("pretrain", recipe(tmp_path, pictures, kind, steps, lr), "--out", tmp_path / "run", check=0)
    seen = losses(tmp_path / "run")
    assert len(seen) == steps and sum(seen[-10:]) < 0.8 * sum(seen[:10])
    model = tmp_path / "run" / "model"
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= {file.name for file in model.iterdir()}
    assert all(str(tensor.dtype) == "float16" for tensor in load_file(model / "model.safetensors").values())
    mmtune("inspect", model, check=0)
    if kind == "clip":
        return
    # A prompt is trained through it.
    (tmp_path / "prompt.toml").write_text(f"""
[expert]
method = "tvp"
frame = 32
width = 4
[[source]]
model = "{model}"
[data]
train = "{pictures[1]}"
[train]
steps = 2
threads = 1
""")
    mmtune("train", tmp_path / "prompt.toml", "--out", tmp_path / "prompt", check=0)
    mmtune("eval", tmp_path / "prompt", "--data", pictures[1], check=0)


def test_transformers_opens_what_was_written(tmp_path, pictures):
    from transformers import Blip2ForConditionalGeneration, CLIPModel, LlavaForConditionalGeneration

    classes = {"llava": LlavaForConditionalGeneration, "opt": Blip2ForConditionalGeneration, "t5": Blip2ForConditionalGeneration, "clip": CLIPModel}
    for kind, model in classes.items():
        folder = tmp_path / kind
        folder.mkdir()
        mmtune("pretrain", recipe(folder, pictures, kind, steps=1), "--out", folder / "run", check=0)
        _, report = model.from_pretrained(folder / "run" / "model", output_loading_info=True)
        missing = [name for name in report["missing_keys"] if "post_layernorm" not in name and "position_ids" not in name]
        assert not missing, (kind, missing)
        assert not report["unexpected_keys"], (kind, report["unexpected_keys"])


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, pictures):
    path = recipe(tmp_path, pictures, "llava", steps=40)
    mmtune("pretrain", path, "--out", tmp_path / "whole", check=0)
    process = subprocess.Popen([str(PROGRAM), "pretrain", str(path), "--out", str(tmp_path / "cut")], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    if process.wait(timeout=120) != 0:
        mmtune("pretrain", path, "--out", tmp_path / "cut", "--resume", check=0)
    for name in ("whole", "cut"):
        assert json.loads((tmp_path / name / "run.json").read_text())["state"] == "finished"
    whole, cut = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_mistakes(tmp_path, pictures):
    path = recipe(tmp_path, pictures, "llava")
    wrong = mmtune("pretrain", path, "task=contrast", "--out", tmp_path / "a", check=2)
    assert "clip" in wrong.stderr
    silent = write_jsonl(tmp_path / "silent.jsonl", [{"image": str(Path(pictures[1]).parent / "0.png")}])
    none = mmtune("pretrain", path, f"data.pictures={silent}", "--out", tmp_path / "b", check=1)
    assert "no questions" in none.stderr
    broken = write_jsonl(tmp_path / "broken.jsonl", [{"image": str(Path(pictures[1]).parent / "0.png"), "questions": [["what?"]]}])
    pair = mmtune("pretrain", path, f"data.pictures={broken}", "--out", tmp_path / "c", check=1)
    assert "questions" in pair.stderr and "broken.jsonl:1" in pair.stderr
    small = json.loads((tmp_path / "model.json").read_text())
    small["text_config"]["vocab_size"] = 20
    (tmp_path / "model.json").write_text(json.dumps(small))
    words = mmtune("pretrain", path, "--out", tmp_path / "d", check=2)
    assert "vocab_size" in words.stderr and "20" in words.stderr


def test_bundled_configurations_are_small():
    """What the recipes of the bundled models make is at most 8 MB in half precision."""
    from transformers import AutoConfig, Blip2ForConditionalGeneration, CLIPModel, LlavaForConditionalGeneration

    classes = {"llava": LlavaForConditionalGeneration, "blip2_opt": Blip2ForConditionalGeneration, "blip2_t5": Blip2ForConditionalGeneration,
               "clip": CLIPModel}
    for name, model in classes.items():
        read = json.loads((ROOT / "recipes" / "pretrain" / f"{name}.json").read_text())
        config = AutoConfig.for_model(**read)
        count = sum(parameter.numel() for parameter in model(config).parameters())
        assert 2 * count <= 8_000_000, (name, count)
