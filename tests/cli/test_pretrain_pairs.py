"""mmtune pretrain with task = "pretrain_pairs": what is written opens in transformers, learns, resumes, and says what is wrong."""

import json
import random
import signal

import pytest
from pretraining_support import lines_of, stop_and_resume
from tiny import make_bert, make_vit


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of one colour, with its name; a quarter without a text."""
    from PIL import Image

    draw, folder = random.Random(1), tmp_path_factory.mktemp("pairs")
    colours = {"red square": (220, 40, 40), "green circle": (40, 180, 60), "blue": (40, 70, 220)}
    rows = []
    for i in range(24):
        name = [*colours, None][i % 4]
        colour = colours.get(name, (0, 0, 0))
        Image.new("RGB", (40, 40), tuple(max(0, min(255, c + draw.randrange(-20, 20))) for c in colour)).save(folder / f"{i}.png")
        rows.append({"id": f"p{i}", "image": f"{i}.png", "texts": [name] if name else []})
    (folder / "pictures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pictures.jsonl"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return make_bert(tmp_path_factory.mktemp("words"))


@pytest.fixture
def recipe(tmp_path, pictures, words):
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
task = "pretrain_pairs"
data = {{ pictures = "{pictures}", workers = 2 }}
tasks.measured = 64
train = {{ steps = 6, batch = 16, precision = "float32", log_every = 1, seed = 3 }}
[model]
image_size = 16
patch_size = 4
width = 32
layers = 2
heads = 2
inner = 48
vocabulary = 200
words = "{words}"
"""
    )
    return path


def test_transformers_loads_the_model(mmtune, recipe, tmp_path):
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file
    from transformers import BertTokenizer, ViltForMaskedLM, ViltImageProcessorPil

    done = mmtune("pretrain", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "model"
    model, report = ViltForMaskedLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert set(report["unexpected_keys"]) <= {"rank_output.weight", "rank_output.bias", "mlm_score.bias"}
    tokenizer = BertTokenizer.from_pretrained(folder)
    text = tokenizer(["a red circle", "no blue"], padding=True, return_tensors="pt")
    pixels = ViltImageProcessorPil.from_pretrained(folder)([Image.new("RGB", (16, 16), c) for c in ("red", "blue")], return_tensors="pt")
    assert pixels["pixel_values"].shape == (2, 3, 16, 16)
    inputs = {"input_ids": text["input_ids"], "attention_mask": text["attention_mask"], "pixel_values": pixels["pixel_values"]}
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "in.safetensors")
    assert mmtune("forward", folder, "--inputs", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors").returncode == 0
    outputs = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        words = model.eval()(**inputs).logits
    real = text["attention_mask"].bool()
    assert torch.allclose(outputs["logits"][real], words[:, : real.shape[1]][real], atol=1e-4)


def test_it_learns(mmtune, recipe, tmp_path):
    done = mmtune("pretrain", recipe, "train.steps=150", "train.lr=3e-3", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows = lines_of(tmp_path / "run")
    assert sum(row["word_loss"] for row in rows[-10:]) < 0.6 * sum(row["word_loss"] for row in rows[:10])
    measured = json.loads((tmp_path / "run" / "run.json").read_text())["measured"]
    assert measured["masked_words_accuracy"] > 0.4 and 0 <= measured["matching_accuracy"] <= 1


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_a_resumed_run_ends_with_the_same_bytes(program, mmtune, recipe, tmp_path, stop):
    stop_and_resume(program, mmtune, [recipe, "train.steps=60"], tmp_path, stop, ["model.safetensors"])


def test_it_begins_with_a_vit(mmtune, recipe, tmp_path):
    import torch
    from safetensors.torch import load_file

    vit = make_vit(tmp_path / "vit", hidden_size=32, num_attention_heads=2, intermediate_size=48, image_size=16, patch_size=4, num_hidden_layers=1)
    options = [f"model.start={vit}", "train.steps=1", "train.lr=1e-12"]
    done = mmtune("pretrain", recipe, *options, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    start, model = load_file(vit / "model.safetensors"), load_file(tmp_path / "run" / "model" / "model.safetensors")
    taken = [name for name in start if not name.startswith("pooler.")]
    assert len(taken) == 4 + 16 + 2
    for name in taken:
        assert torch.equal(model["vilt." + name], start[name].half()), name
    done = mmtune("pretrain", recipe, *options, "model.width=64", "--out", tmp_path / "other")
    assert done.returncode == 1 and "misshapen" in done.stderr


def test_mistakes(refused, recipe, tmp_path):
    assert "vocabulary" in refused(2, "pretrain", recipe, "model.vocabulary=5", "--out", tmp_path / "a")
    assert "image_size" in refused(2, "pretrain", recipe, "model.image_size=8", "--out", tmp_path / "d")
    assert "single characters" in refused(2, "pretrain", recipe, "model.vocabulary=150", "model.words=" + str(letters(tmp_path)), "--out", tmp_path / "b")
    (tmp_path / "one.jsonl").write_text('{"image": "recipe.toml", "texts": []}\n')
    assert "two different texts" in refused(1, "pretrain", recipe, f"data.pictures={tmp_path / 'one.jsonl'}", "--out", tmp_path / "c")


def letters(folder):
    """A BERT with more single characters than fit."""
    from transformers import BertTokenizer

    model = make_bert(folder / "letters", tokenizer=False, vocab_size=400)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [chr(c) for c in range(33, 127)] + ["##" + chr(c) for c in range(33, 127)]
    BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, do_lower_case=False).save_pretrained(model)
    return model


def test_ranking_begins_with_its_matching(mmtune, recipe, pictures, tmp_path):
    import torch
    from safetensors.torch import load_file

    assert mmtune("pretrain", recipe, "--out", tmp_path / "run").returncode == 0
    model = tmp_path / "run" / "model"
    rows = [json.loads(line) for line in pictures.read_text().splitlines()]
    pairs = [{"image": str(pictures.parent / row["image"]), "text": row["texts"][0]} for row in rows if row["texts"]][:8]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "rank.toml").write_text(
        f'task = "retrieve"\nbackbone.main = "{model}"\nretrieve.negatives = 2\nexpert.method = "linear"\n'
        f'data.train = "{tmp_path / "pairs.jsonl"}"\ntrain = {{ steps = 1, batch = 4, lr = 1e-12 }}\n'
    )
    done = mmtune("train", tmp_path / "rank.toml", "--out", tmp_path / "ranking")
    assert done.returncode == 0, done.stderr
    assert "image-text matching" in done.stderr
    head, known = load_file(tmp_path / "ranking" / "head.safetensors"), load_file(model / "model.safetensors")
    assert torch.allclose(head["weight"], known["rank_output.weight"].float(), atol=1e-6)
    assert torch.allclose(head["bias"], known["rank_output.bias"].float(), atol=1e-6)


def test_the_bundled_model_computes_what_transformers_computes(mmtune, tmp_path):
    import pathlib

    import torch
    from safetensors.torch import load_file, save_file
    from transformers import BertTokenizer, ViltForMaskedLM

    folder = pathlib.Path(__file__).resolve().parents[2] / "models" / "mmtune-vilt-small-64"
    model = ViltForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = BertTokenizer.from_pretrained(folder)(["a red square left of a blue circle", "there are two [MASK]"], padding=True, return_tensors="pt")
    inputs = {"input_ids": text["input_ids"], "attention_mask": text["attention_mask"], "pixel_values": torch.rand(2, 3, 64, 64) * 2 - 1}
    save_file(inputs, tmp_path / "in.safetensors")
    assert mmtune("forward", folder, "--inputs", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors").returncode == 0
    with torch.no_grad():
        expected = model(**inputs).logits[:, : text["input_ids"].shape[1]]
    real = text["attention_mask"].bool()
    assert torch.allclose(load_file(tmp_path / "out.safetensors")["logits"][real], expected[real], atol=1e-3)
    # The words that a sentence of its grammar needs stand in its vocabulary.
    assert "[UNK]" not in BertTokenizer.from_pretrained(folder).tokenize("a zebra at the bottom right, there are no pictures!")
