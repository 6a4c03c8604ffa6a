"""mmtune preprocess against transformers' tokenizer and image processor."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tiny import make_bert

TEXTS = ["what colour is the circle?", "Is it a SQUARE, or the other thing... 漢字 naïve", "", "[CLS] hello]", "-5", "a " * 60]


def preprocess(mmtune, tmp_path, model, *arguments):
    out = tmp_path / "out.safetensors"
    done = mmtune("preprocess", model, *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    return load_file(out)


def repeated(option, values):
    return [word for value in values for word in (option, str(value))]


def test_texts(mmtune, tmp_path, tiny_bert):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    got = preprocess(mmtune, tmp_path, tiny_bert, *repeated("--text", TEXTS))
    want = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="np")
    assert set(got) == {"input_ids", "token_type_ids", "attention_mask"}
    for name, array in got.items():
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, want[name])


@pytest.mark.parametrize("text", TEXTS)
def test_one_text(mmtune, tmp_path, tiny_bert, text):
    from transformers import AutoTokenizer

    want = AutoTokenizer.from_pretrained(tiny_bert)(text, truncation=True)
    got = preprocess(mmtune, tmp_path, tiny_bert, f"--text={text}" if text else "--text", *([] if text else [""]))
    assert got["input_ids"].tolist() == [want["input_ids"]]


def test_pairs_and_max_length(mmtune, tmp_path, tiny_bert):
    from transformers import AutoTokenizer

    pairs = list(reversed(TEXTS))
    got = preprocess(mmtune, tmp_path, tiny_bert, *repeated("--text", TEXTS), *repeated("--text-pair", pairs), "--max-length", 12)
    want = AutoTokenizer.from_pretrained(tiny_bert)(TEXTS, pairs, padding=True, truncation=True, max_length=12, return_tensors="np")
    for name, array in got.items():
        np.testing.assert_array_equal(array, want[name])


def test_images(mmtune, tmp_path, tiny_vit, colours):
    from PIL import Image
    from transformers import ViTImageProcessorPil

    paths = sorted((colours.parent / "images").iterdir())[:3]
    got = preprocess(mmtune, tmp_path, tiny_vit, *repeated("--image", paths))
    want = ViTImageProcessorPil.from_pretrained(tiny_vit)([Image.open(path) for path in paths], return_tensors="np")
    assert set(got) == {"pixel_values"}
    assert got["pixel_values"].dtype == np.float32
    np.testing.assert_allclose(got["pixel_values"], want["pixel_values"], rtol=0, atol=1e-5)


def test_data(mmtune, tmp_path, tiny_bert, tiny_vit, colours):
    from transformers import AutoTokenizer

    rows = [json.loads(line) for line in colours.read_text().splitlines()][:10]
    got = preprocess(mmtune, tmp_path, tiny_bert, "--data", colours, "--limit", 10)
    texts = [row["text"] for row in rows if "text" in row]
    want = AutoTokenizer.from_pretrained(tiny_bert)(texts, padding=True, return_tensors="np")
    np.testing.assert_array_equal(got["input_ids"], want["input_ids"])
    got = preprocess(mmtune, tmp_path, tiny_vit, "--data", colours, "--limit", 10)
    assert got["pixel_values"].shape == (sum("image" in row for row in rows), 3, 32, 32)


def test_json_answer(mmtune, tmp_path, tiny_bert):
    done = mmtune("preprocess", tiny_bert, "--text", "a", "--out", tmp_path / "x.safetensors", "--json")
    assert json.loads(done.stdout)["tensors"]["input_ids"] == {"dtype": "I64", "shape": [1, 3]}


def test_what_the_model_cannot_read(refused, tmp_path, tiny_bert, tiny_vit, colours):
    out = tmp_path / "x.safetensors"
    assert "preprocessor_config.json" in refused(1, "preprocess", tiny_bert, "--image", colours, "--out", out)
    assert str(tiny_vit) in refused(1, "preprocess", tiny_vit, "--text", "a", "--out", out)
    assert not out.exists()


def test_bad_images_are_named(refused, tmp_path, tiny_vit):
    out = tmp_path / "x.safetensors"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert "broken.png" in refused(1, "preprocess", tiny_vit, "--image", broken, "--out", out)
    assert "missing.png" in refused(1, "preprocess", tiny_vit, "--image", tmp_path / "missing.png", "--out", out)
    assert not out.exists()


def test_unwritable_output_is_named(refused, tmp_path, tiny_bert):
    assert "no/such/x.safetensors" in refused(1, "preprocess", tiny_bert, "--text", "a", "--out", tmp_path / "no/such/x.safetensors")


def test_an_unsupported_tokenizer_is_refused_by_name(refused, tmp_path):
    make_bert(tmp_path / "m")
    path = tmp_path / "m" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["type"] = "WordLevel"
    path.write_text(json.dumps(tokenizer))
    assert "WordLevel" in refused(1, "preprocess", tmp_path / "m", "--text", "a", "--out", tmp_path / "x.safetensors")
