"""What a user types at export, import and merge, and what bad input gets: one line that names the fault, and nothing half-written."""

import json
import shutil
import struct

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from training_support import make_image_model, make_pictures, make_text_model, make_texts, mmtune  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A text model, a run with LoRA and a head that transformers has, and the run's PEFT folder."""
    folder = tmp_path_factory.mktemp("exchange")
    make_text_model(folder / "model")
    make_text_model(folder / "other", seed=9)
    make_texts(folder / "data.jsonl", 12, 1)
    trained(folder, "run", 'method = "lora"\nrank = 4\nalpha = 8')
    mmtune("export", folder / "run", "--out", folder / "peft", check=0)
    return folder


def trained(folder, name, expert, pooling="pooler", more=""):
    (folder / "recipe.toml").write_text(f'[backbone]\nmain = "{folder / "model"}"\nmain_pooling = "{pooling}"\n[expert]\n{expert}\n{more}\n'
                                        f'[data]\ntrain = "{folder / "data.jsonl"}"\n[train]\nsteps = 1\nbatch = 4\nthreads = 1\n')
    mmtune("train", folder / "recipe.toml", "--out", folder / name, check=0)
    return folder / name


def refused(folder, *arguments, code=1):
    """The message of a call that must fail and leave nothing behind."""
    before = sorted(path.name for path in folder.iterdir())
    result = mmtune(*arguments)
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == before
    return result.stderr


def changed(place, tmp_path, tensors=None, **config):
    """A copy of the PEFT folder with another configuration or other tensors."""
    shutil.copytree(place / "peft", tmp_path / "peft")
    path = tmp_path / "peft/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if tensors:
        path = tmp_path / "peft/adapter_model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors(load_file(path)).items()}, path)
    return tmp_path / "peft"


def refused_import(place, tmp_path, folder, *more, model="model", code=1):
    return refused(tmp_path, "import", folder, "--backbone", place / model, "--out", tmp_path / "out", *more, code=code)


def test_export_says_how_to_open_the_folder(place, tmp_path):
    out = mmtune("export", place / "run", "--out", tmp_path / "peft", check=0).stdout
    assert "BertForSequenceClassification" in out and "PeftModel.from_pretrained" in out and "num_labels=3" in out
    assert sorted(path.name for path in (tmp_path / "peft").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["task_type"] == "SEQ_CLS"


def test_help_has_examples():
    for command in ("export", "import", "merge"):
        assert f"mmtune {command} " in mmtune(command, "--help", check=0).stdout


@pytest.mark.parametrize("command", ["export", "merge"])
def test_an_existing_folder_is_left_alone(place, tmp_path, command):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    assert "exists already" in refused(tmp_path, command, place / "run", "--out", tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("method", ["adapter", "prompt", "bitfit", "full", "linear"])
def test_kinds_that_peft_does_not_have(place, tmp_path, method):
    run = trained(place, f"kind-{method}", f'method = "{method}"') if not (place / f"kind-{method}").exists() else place / f"kind-{method}"
    message = refused(tmp_path, "export", run, "--out", tmp_path / "out")
    assert f"PEFT has no expert of kind {method}" in message
    assert ("mmtune merge" in message) == (method in ("bitfit", "full", "linear"))


@pytest.mark.parametrize("method", ["adapter", "prefix", "prompt"])
def test_kinds_that_no_weight_can_say(place, tmp_path, method):
    run = place / f"kind-{method}"
    if not run.exists():
        trained(place, run.name, f'method = "{method}"\nlength = 2' if method != "adapter" else f'method = "{method}"')
    message = refused(tmp_path, "merge", run, "--out", tmp_path / "out")
    assert f"kind {method} cannot be folded" in message and "depends on the input" in message


@pytest.mark.parametrize("command", ["export", "merge"])
def test_heads_that_transformers_does_not_have(place, tmp_path, command):
    run = place / "mean"
    if not run.exists():
        trained(place, "mean", 'method = "lora"', pooling="mean")
    message = refused(tmp_path, command, run, "--out", tmp_path / "out")
    assert "no model of transformers computes this head" in message and "--no-head" in message and 'pooling "pooler"' in message
    mmtune(command, run, "--out", tmp_path / "out", "--no-head", check=0)


def test_several_experts_are_exported_one_by_one(place, tmp_path):
    run = place / "two"
    if not run.exists():
        (place / "two.toml").write_text(
            f'[backbone]\nmain = "{place / "model"}"\nmain_pooling = "pooler"\n[[expert]]\nmethod = "lora"\n[[expert]]\nmethod = "ia3"\n'
            f'[data]\ntrain = "{place / "data.jsonl"}"\n[train]\nsteps = 1\nbatch = 4\nthreads = 1\n')
        mmtune("train", place / "two.toml", "--out", run, check=0)
    message = refused(tmp_path, "export", run, "--out", tmp_path / "out", code=2)
    assert "main-lora" in message and "main-ia3" in message
    mmtune("export", run, "--out", tmp_path / "ia3", "--expert", "main-ia3", check=0)
    assert json.loads((tmp_path / "ia3/adapter_config.json").read_text())["peft_type"] == "IA3"
    mmtune("merge", run, "--out", tmp_path / "merged", check=0)


def test_a_merged_number_that_is_not_finite(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    path = tmp_path / "run/head.safetensors"
    head = load_file(path)
    head["weight"][0, 0] = float("inf")
    save_file(head, path)
    assert "classifier.weight" in refused(tmp_path, "merge", tmp_path / "run", "--out", tmp_path / "out")


def test_a_read_only_folder(place, tmp_path):
    (tmp_path / "blocked").write_text("a file, and no folder")
    refused(tmp_path, "export", place / "run", "--out", tmp_path / "blocked/out")
    refused(tmp_path, "merge", place / "run", "--out", tmp_path / "blocked/out")


# ---- folders that come from elsewhere


def test_an_adapter_of_another_model(place, tmp_path):
    message = refused_import(place, tmp_path, changed(place, tmp_path), model="other")
    assert "another backbone" in message and "fingerprint" in message


def test_an_adapter_of_another_architecture(place, tmp_path):
    make_image_model(tmp_path / "vit")
    path = changed(place, tmp_path) / "adapter_model.safetensors"
    save_file(load_file(path), path)  # a folder of PEFT's own: nothing says which model it belongs to
    message = refused(tmp_path, "import", tmp_path / "peft", "--backbone", tmp_path / "vit", "--out", tmp_path / "out")
    assert "missing" in message and "not used" in message and "bert.encoder.layer.0" in message


def test_another_rank_than_the_configuration_says(place, tmp_path):
    message = refused_import(place, tmp_path, changed(place, tmp_path, r=6))
    assert "of another shape" in message and "expected [6, 32], got [4, 32]" in message and "lora_A" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(place, tmp_path, value):
    def spoil(tensors):
        name = next(name for name in tensors if "lora_B" in name)
        tensors[name][1, 1] = value
        return tensors

    message = refused_import(place, tmp_path, changed(place, tmp_path, spoil))
    assert "NaN or infinite" in message and "lora_B" in message


def test_a_missing_key(place, tmp_path):
    gone = []

    def spoil(tensors):
        gone.append(sorted(tensors)[3])
        return {name: tensor for name, tensor in tensors.items() if name != gone[0]}

    message = refused_import(place, tmp_path, changed(place, tmp_path, spoil))
    assert "missing" in message and gone[0] in message


def test_a_missing_module(place, tmp_path):
    message = refused_import(place, tmp_path, changed(place, tmp_path, lambda all: {k: v for k, v in all.items() if "layer.1.attention.self.query" not in k}))
    assert "missing" in message and "layer.1.attention.self.query.lora_A.weight" in message and "layer.1.attention.self.query.lora_B.weight" in message


def test_a_misspelt_key(place, tmp_path):
    message = refused_import(place, tmp_path, changed(place, tmp_path, lambda all: {k.replace("layer.0.attention.self.query.lora_A", "layer.0.attention.self.qeury.lora_A"): v
                                                                                   for k, v in all.items()}))
    assert "missing" in message and "self.query.lora_A.weight" in message and "not used" in message and "qeury" in message


def test_a_head_with_a_missing_tensor(place, tmp_path):
    message = refused_import(place, tmp_path, changed(place, tmp_path, lambda all: {k: v for k, v in all.items() if "classifier.bias" not in k}))
    assert "the head is none that mmtune has" in message and "classifier.weight" in message


@pytest.mark.parametrize("config", [
    {"peft_type": "VERA"}, {"peft_type": 3}, {"target_modules": None}, {"target_modules": ["nothing"]}, {"target_modules": "(unclosed"}, {"r": "four"}, {"r": 0},
    {"rank_pattern": {"query": "two"}}, {"rank_pattern": ["query"]}, {"alpha_pattern": {"[": 2}}, {"bias": "some"}, {"init_lora_weights": "pissa"}, {"layer_replication": [[0, 2]]},
    {"trainable_token_indices": [1]}, {"target_parameters": ["x"]}, {"a_key_of_the_future": True}, {"layers_to_transform": "first"}, {"modules_to_save": "classifier"},
    {"exclude_modules": [1]}, {"fan_in_fan_out": True}, {"lora_bias": True},
])
def test_configurations_that_would_be_misread(place, tmp_path, config):
    message = refused_import(place, tmp_path, changed(place, tmp_path, **config))
    assert next(iter(config)) in message and "adapter_config.json" in message


def test_a_hostile_expression_ends(place, tmp_path):
    refused_import(place, tmp_path, changed(place, tmp_path, target_modules="(([a-z.0-9]*)*)*X"))


def test_a_pickle(place, tmp_path):
    folder = changed(place, tmp_path)
    torch.save({"x": torch.zeros(1)}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    message = refused_import(place, tmp_path, folder)
    assert "adapter_model.bin" in message and "pickle" in message and "convert" in message


@pytest.mark.parametrize("damage", ["truncated", "no_json", "list", "empty"])
def test_damaged_folders(place, tmp_path, damage):
    folder = changed(place, tmp_path)
    tensors, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-5])
    if damage == "no_json":
        config.write_text("{")
    if damage == "list":
        config.write_text("[]")
    if damage == "empty":
        tensors.write_bytes(struct.pack("<Q", 2) + b"{}")
    refused_import(place, tmp_path, folder)


@pytest.mark.parametrize("classes", ["a,b", "a,b,c,d", "a,a,b"])
def test_classes_that_do_not_fit(place, tmp_path, classes):
    assert "3 different names" in refused_import(place, tmp_path, changed(place, tmp_path), "--classes", classes, code=2)


def test_no_such_folder(place, tmp_path):
    assert "adapter_config.json" in refused_import(place, tmp_path, tmp_path / "nothing")


def test_two_towers(place, tmp_path):
    make_image_model(tmp_path / "vit")
    make_pictures(tmp_path / "pictures", 6, 2, text_share=1.0)
    data = next((tmp_path / "pictures").glob("*.jsonl"))
    (tmp_path / "recipe.toml").write_text(f'[backbone]\nmain = "{place / "model"}"\ncondition = "{tmp_path / "vit"}"\n[expert]\nmethod = "lora"\n'
                                          f'[data]\ntrain = "{data}"\n[train]\nsteps = 1\nbatch = 3\nthreads = 1\n')
    mmtune("train", tmp_path / "recipe.toml", "--out", tmp_path / "run", check=0)
    assert "two towers" in refused(tmp_path, "export", tmp_path / "run", "--out", tmp_path / "out", "--expert", "main-lora")
    mmtune("export", tmp_path / "run", "--out", tmp_path / "text", "--expert", "main-lora", "--no-head", check=0)
    mmtune("export", tmp_path / "run", "--out", tmp_path / "image", "--expert", "condition-lora", "--no-head", check=0)
    assert "--tower" in refused(tmp_path, "merge", tmp_path / "run", "--out", tmp_path / "out", "--no-head", code=2)
    mmtune("merge", tmp_path / "run", "--out", tmp_path / "merged", "--no-head", "--tower", "condition", check=0)
    assert json.loads((tmp_path / "merged/config.json").read_text())["model_type"] == "vit"
