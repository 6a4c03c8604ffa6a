"""mmtune inspect: checkpoints, safetensors files, experts, runs and data."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tiny import make_bert


def as_json(mmtune, *arguments):
    done = mmtune("inspect", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_checkpoint(mmtune, tiny_bert):
    from transformers import BertModel

    model = BertModel.from_pretrained(tiny_bert)
    got = as_json(mmtune, tiny_bert)
    assert got["kind"] == "checkpoint"
    assert got["config"]["model_type"] == "bert"
    assert got["parameters"] == sum(p.numel() for p in model.parameters())
    assert {t["name"]: t["shape"] for t in got["tensors"]} == {n: list(p.shape) for n, p in model.named_parameters()}
    assert got["dtypes"] == {"F32": {"tensors": len(got["tensors"]), "parameters": got["parameters"]}}
    assert got["tokenizer"]["model_max_length"] == 32

    text = mmtune("inspect", tiny_bert).stdout
    assert "architecture" in text
    assert "bert (BertModel)" in text
    assert "encoder.layer.{0, 1}.attention.self.query.weight" in text
    assert "encoder.layer.1.attention.self.query.weight" in mmtune("inspect", tiny_bert, "--tensors").stdout


def test_image_checkpoint(mmtune, tiny_vit):
    got = as_json(mmtune, tiny_vit)
    assert got["config"]["model_type"] == "vit"
    assert "error" not in got["image_processor"]
    assert "32, patches of 8" in mmtune("inspect", tiny_vit).stdout


def test_sharded_checkpoint(mmtune, tmp_path, tiny_bert):
    from transformers import BertModel

    BertModel.from_pretrained(tiny_bert).save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    got = as_json(mmtune, tmp_path / "sharded")
    assert len(got["files"]) > 1
    assert got["parameters"] == as_json(mmtune, tiny_bert)["parameters"]


def test_half_precision(mmtune, tmp_path):
    from transformers import BertModel

    make_bert(tmp_path / "full", tokenizer=False)
    BertModel.from_pretrained(tmp_path / "full").bfloat16().save_pretrained(tmp_path / "half")
    assert set(as_json(mmtune, tmp_path / "half")["dtypes"]) == {"BF16"}


def test_safetensors_file(mmtune, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"b": np.zeros((2, 3), np.float16), "a.0.w": np.ones(4, np.int64)}, path, metadata={"made by": "a test"})
    got = as_json(mmtune, path)
    assert got["kind"] == "safetensors"
    assert got["metadata"] == {"made by": "a test"}
    assert sorted((t["name"], t["dtype"], t["shape"]) for t in got["tensors"]) == [("a.0.w", "I64", [4]), ("b", "F16", [2, 3])]
    assert got["parameters"] == 10
    assert got["bytes"] == 2 * 6 + 8 * 4


def test_peft_expert(mmtune, tmp_path, tiny_bert):
    peft = pytest.importorskip("peft")
    from transformers import BertModel

    config = peft.LoraConfig(r=3, target_modules=["query", "value"])
    peft.get_peft_model(BertModel.from_pretrained(tiny_bert), config).save_pretrained(tmp_path)
    got = as_json(mmtune, tmp_path)
    assert got["kind"] == "expert"
    assert got["config"]["peft_type"] == "LORA"
    assert got["parameters"] == 2 * 2 * 2 * 3 * 32
    assert "peft_type" in mmtune("inspect", tmp_path).stdout


def test_data(mmtune, colours):
    rows = [json.loads(line) for line in colours.read_text().splitlines()]
    got = as_json(mmtune, colours)
    assert got["kind"] == "data"
    assert got["rows"] == len(rows)
    assert got["splits"] == {s: sum(r["split"] == s for r in rows) for s in ("train", "valid")}
    assert got["labels"] == {c: sum(r["label"] == c for r in rows) for c in ("red", "green", "blue")}
    both = sum("text" in r and "image" in r for r in rows)
    assert got["modalities"]["text + image"] == both
    assert sum(got["modalities"].values()) == len(rows)
    assert got["unusable"] == 0
    lengths = sorted(len(r["text"]) for r in rows if "text" in r)
    assert got["text_lengths"]["text"]["min"] == lengths[0]
    assert got["text_lengths"]["text"]["max"] == lengths[-1]
    assert got["text_lengths"]["text"]["p50"] in lengths


def test_csv_and_foreign_fields(mmtune, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("sentence,verdict\nhello,1\nworld,2\n")
    got = as_json(mmtune, path)
    assert got["fields"] == {"sentence": 2, "verdict": 2}
    assert got["unusable"] == 2
    assert "data.columns" in got["first_problem"]


def test_image_folder(mmtune, colours):
    got = as_json(mmtune, colours.parent / "images")
    assert got["modalities"] == {"image": got["rows"]}


def test_multi_label_rows(mmtune, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n{"text": "c", "labels": ["x"]}\n')
    got = as_json(mmtune, path)
    assert got["multi_label"] is True
    assert got["labels"] == {"x": 2, "y": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.safetensors", b"", "x.safetensors: "),
        ("x.safetensors", b"\xff" * 64, "x.safetensors: "),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', "x.jsonl:2"),
        ("x.jsonl", b'{"a": 1, "a": 2}\n', "x.jsonl:1"),
        ("x.bin", b"PK\x03\x04" + b"\0" * 60, "safetensors"),
        ("x.xyz", b"?", "x.xyz: "),
    ],
)
def test_damaged_files_are_named(refused, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refused(1, "inspect", path)


def test_what_is_not_there(refused, tmp_path):
    assert "no such model" in refused(1, "inspect", tmp_path / "nothing")


def test_a_checkpoint_without_weights(refused, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert str(tmp_path) in refused(1, "inspect", tmp_path)


def test_a_damaged_tokenizer_does_not_hide_the_rest(mmtune, tmp_path):
    make_bert(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    got = as_json(mmtune, tmp_path)
    assert "tokenizer.json" in got["tokenizer"]["error"]
    assert got["parameters"] > 0


def test_run_folder(mmtune, refused, tmp_path, tiny_bert):
    peft = pytest.importorskip("peft")
    from transformers import BertModel

    run = tmp_path / "run"
    peft.get_peft_model(BertModel.from_pretrained(tiny_bert), peft.LoraConfig(r=2, target_modules=["query"])).save_pretrained(run / "expert")
    (run / "recipe.toml").write_text('task = "classify"\n')
    record = {"state": "finished", "step": 7, "total_steps": 9, "best": {"metric": "accuracy", "value": 0.5, "step": 3}, "data": 5}
    (run / "run.json").write_text(json.dumps(record))
    got = as_json(mmtune, run)
    assert got["kind"] == "run"
    assert got["record"] == record
    assert len(got["experts"]) == 1
    text = mmtune("inspect", run).stdout
    for words in ("finished", "7 of 9", "accuracy 0.5000 at step 3", "LORA"):
        assert words in text
    (run / "recipe.toml").write_text("task = \n")
    assert "recipe.toml:1:" in refused(2, "inspect", run)
    (run / "recipe.toml").unlink()
    (run / "run.json").write_text("[1]")
    assert mmtune("inspect", run).returncode == 0
    (run / "run.json").write_text("[1")
    assert "run.json" in refused(1, "inspect", run)
