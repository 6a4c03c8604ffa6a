"""mmtune import FILE: published checkpoints, pickled by torch.save, as model folders; nothing in them is executed."""

import json
import math

import pytest

from training_support import make_text_model, mmtune

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402


def vilt_tensors(width=32, layers=2, side=3, patch=16, positions=8, vocabulary=40):
    torch.manual_seed(0)
    linear = lambda out, inner: (torch.randn(out, inner) * 0.1, torch.randn(out) * 0.1)  # noqa: E731
    tensors = {
        "text_embeddings.word_embeddings.weight": torch.randn(vocabulary, width),
        "text_embeddings.position_embeddings.weight": torch.randn(positions, width),
        "text_embeddings.token_type_embeddings.weight": torch.randn(2, width),
        "text_embeddings.position_ids": torch.arange(positions)[None],
        "text_embeddings.LayerNorm.weight": torch.ones(width),
        "text_embeddings.LayerNorm.bias": torch.zeros(width),
        "token_type_embeddings.weight": torch.randn(2, width),
        "transformer.cls_token": torch.randn(1, 1, width),
        "transformer.pos_embed": torch.randn(1, side * side + 1, width),
        "transformer.patch_embed.proj.weight": torch.randn(width, 3, patch, patch) * 0.05,
        "transformer.patch_embed.proj.bias": torch.randn(width),
        "transformer.norm.weight": torch.ones(width),
        "transformer.norm.bias": torch.zeros(width),
    }
    for layer in range(layers):
        block = f"transformer.blocks.{layer}"
        for name, (out, inner) in {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}.items():
            tensors[f"{block}.{name}.weight"], tensors[f"{block}.{name}.bias"] = linear(out, inner)
        for norm in ("norm1", "norm2"):
            tensors[f"{block}.{norm}.weight"], tensors[f"{block}.{norm}.bias"] = torch.ones(width), torch.zeros(width)
    tensors["pooler.dense.weight"], tensors["pooler.dense.bias"] = linear(width, width)
    return tensors


def meter_tensors(encoder="clip", width=64, layers=2, vocabulary=40, positions=20, side=3, patch=8):
    torch.manual_seed(1)
    tensors = {}

    def linear(name, out, inner):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.randn(out, inner) * 0.1, torch.randn(out) * 0.1

    def norm(name, size=width):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.ones(size), torch.zeros(size)

    def attention(name):
        for part in ("query", "key", "value"):
            linear(f"{name}.self.{part}", width, width)
        linear(f"{name}.output.dense", width, width)
        norm(f"{name}.output.LayerNorm")

    def feed_forward(name):
        linear(f"{name}.intermediate.dense", 2 * width, width)
        linear(f"{name}.output.dense", width, 2 * width)
        norm(f"{name}.output.LayerNorm")

    embeddings = "text_transformer.embeddings"
    for name, rows in {"word": vocabulary, "position": positions, "token_type": 1}.items():
        tensors[f"{embeddings}.{name}_embeddings.weight"] = torch.randn(rows, width)
    norm(f"{embeddings}.LayerNorm")
    attention("text_transformer.encoder.layer.0.attention")
    feed_forward("text_transformer.encoder.layer.0")
    if encoder == "clip":
        visual = "vit_model.visual"
        tensors[f"{visual}.class_embedding"] = torch.randn(64)
        tensors[f"{visual}.positional_embedding"] = torch.randn(side * side + 1, 64)
        tensors[f"{visual}.conv1.weight"] = torch.randn(64, 3, patch, patch) * 0.05
        for name in ("ln_pre", "ln_post"):
            norm(f"{visual}.{name}", 64)
        block = f"{visual}.transformer.resblocks.0"
        tensors[f"{block}.attn.in_proj_weight"], tensors[f"{block}.attn.in_proj_bias"] = torch.randn(192, 64) * 0.1, torch.randn(192) * 0.1
        linear(f"{block}.attn.out_proj", 64, 64)
        linear(f"{block}.mlp.c_fc", 256, 64)
        linear(f"{block}.mlp.c_proj", 64, 256)
        for name in ("ln_1", "ln_2"):
            norm(f"{block}.{name}", 64)
        image_width = 64
    else:
        tensors["vit_model.patch_embed.proj.weight"], tensors["vit_model.patch_embed.proj.bias"] = torch.randn(8, 3, 4, 4) * 0.1, torch.randn(8)
        norm("vit_model.patch_embed.norm", 8)
        for stage, (depth, heads) in enumerate(zip((1, 2, 1, 1), (1, 2, 2, 4))):
            size = 8 << stage
            for number in range(depth):
                block = f"vit_model.layers.{stage}.blocks.{number}"
                linear(f"{block}.attn.qkv", 3 * size, size)
                linear(f"{block}.attn.proj", size, size)
                linear(f"{block}.mlp.fc1", 4 * size, size)
                linear(f"{block}.mlp.fc2", size, 4 * size)
                norm(f"{block}.norm1", size)
                norm(f"{block}.norm2", size)
                tensors[f"{block}.attn.relative_position_bias_table"] = torch.randn(9, heads)
                tensors[f"{block}.attn.relative_position_index"] = torch.zeros(4, 4, dtype=torch.long)
            if stage < 3:
                norm(f"vit_model.layers.{stage}.downsample.norm", 4 * size)
                tensors[f"vit_model.layers.{stage}.downsample.reduction.weight"] = torch.randn(2 * size, 4 * size) * 0.1
        norm("vit_model.norm", 64)
        image_width = 64
    linear("cross_modal_text_transform", width, width)
    linear("cross_modal_image_transform", width, image_width)
    tensors["token_type_embeddings.weight"] = torch.randn(2, width)
    for stream in ("text", "image"):
        for layer in range(layers):
            name = f"cross_modal_{stream}_layers.{layer}"
            attention(f"{name}.attention")
            attention(f"{name}.crossattention")
            feed_forward(name)
        linear(f"cross_modal_{stream}_pooler.dense", width, width)
    return tensors


def save(tensors, path, **more):
    torch.save({"epoch": 3, "state_dict": tensors, "callbacks": {pytest.Item: {"best": 1}}, **more}, path)
    return path


def forward(folder, tmp_path, inputs, check=0):
    save_file(inputs, tmp_path / "x.safetensors")
    done = mmtune("forward", folder, "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors", check=check)
    return load_file(tmp_path / "y.safetensors") if check == 0 else done.stderr


def test_vilt(tmp_path):
    tensors = vilt_tensors()
    file = save(tensors, tmp_path / "vilt.ckpt", hyper_parameters={"config": {"num_heads": 4}})
    make_text_model(tmp_path / "tokenizer")
    told = json.loads(mmtune("import", file, "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "model", "--json", check=0).stdout)
    assert told["architecture"] == "vilt" and told["tensors"] == len(tensors)
    written = load_file(tmp_path / "model/model.safetensors")
    assert written.keys() == tensors.keys() and all(torch.equal(written[name], tensors[name]) for name in tensors)
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert (config["num_attention_heads"], config["image_size"], config["num_hidden_layers"]) == (4, 48, 2)
    assert (tmp_path / "model/vocab.txt").exists()
    outputs = forward(tmp_path / "model", tmp_path, {"input_ids": torch.tensor([[3, 4, 5]]), "pixel_values": torch.randn(1, 3, 64, 48)})
    assert outputs["last_hidden_state"].shape == (1, 3 + 1 + 12, 32)
    assert "vilt" in mmtune("inspect", tmp_path / "model", check=0).stdout


@pytest.mark.parametrize("encoder", ["clip", "swin"])
def test_meter_at_two_sizes(tmp_path, encoder):
    file = save(meter_tensors(encoder), tmp_path / "meter.ckpt")
    usual, larger = (24, 40) if encoder == "clip" else (64, 96)
    rows = {}
    for name, size in ("usual", usual), ("larger", larger):
        extra = [] if name == "usual" else ["--image-size", size]
        mmtune("import", file, "--out", tmp_path / name, "--image-encoder", encoder, *extra, check=0)
        outputs = forward(tmp_path / name, tmp_path, {"input_ids": torch.tensor([[0, 7, 2, 1]]), "attention_mask": torch.tensor([[1, 1, 1, 0]]),
                                                      "pixel_values": torch.ones(1, 3, size, size)})
        rows[name] = outputs["image_hidden_state"].shape[1]
        assert outputs["last_hidden_state"].shape == (1, 4, 64) and outputs["pooler_output"].shape == (1, 128)
        assert all(math.isfinite(value) for value in outputs["pooler_output"].flatten().tolist())
    assert rows == ({"usual": 10, "larger": 26} if encoder == "clip" else {"usual": 4, "larger": 9})


def test_padding_of_a_text_changes_nothing(tmp_path):
    mmtune("import", save(meter_tensors(), tmp_path / "meter.ckpt"), "--out", tmp_path / "model", check=0)
    pixels = torch.randn(1, 3, 24, 24)
    short = forward(tmp_path / "model", tmp_path, {"input_ids": torch.tensor([[0, 7, 2]]), "pixel_values": pixels})
    padded = forward(tmp_path / "model", tmp_path, {"input_ids": torch.tensor([[0, 7, 2, 1, 1]]), "attention_mask": torch.tensor([[1, 1, 1, 0, 0]]), "pixel_values": pixels})
    assert torch.allclose(short["pooler_output"], padded["pooler_output"], atol=1e-5)
    assert torch.allclose(short["image_hidden_state"], padded["image_hidden_state"], atol=1e-5)


def test_the_other_image_encoder_is_refused(tmp_path):
    file = save(meter_tensors("swin"), tmp_path / "meter.ckpt")
    message = mmtune("import", file, "--out", tmp_path / "model", "--image-encoder", "clip", check=1).stderr
    assert "swin" in message and "clip" in message and not (tmp_path / "model").exists()
    mmtune("import", file, "--out", tmp_path / "model", check=0)
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["vision_config"] = {"model_type": "clip_vision_model", "hidden_size": 64, "image_size": 64, "patch_size": 8}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    message = forward(tmp_path / "model", tmp_path, {"input_ids": torch.tensor([[0, 2]]), "pixel_values": torch.zeros(1, 3, 64, 64)}, check=1)
    assert "another image encoder" in message and "swin" in message


def test_a_table_that_is_no_square_is_refused(tmp_path):
    tensors = meter_tensors()
    mmtune("import", save(tensors, tmp_path / "meter.ckpt"), "--out", tmp_path / "model", check=0)
    tensors["vit_model.visual.positional_embedding"] = torch.randn(8, 64)
    assert "positional_embedding" in mmtune("import", save(tensors, tmp_path / "odd.ckpt"), "--out", tmp_path / "odd", check=1).stderr
    save_file(tensors, tmp_path / "model/model.safetensors")
    message = forward(tmp_path / "model", tmp_path, {"input_ids": torch.tensor([[0, 2]]), "pixel_values": torch.zeros(1, 3, 24, 24)}, check=1)
    assert "cannot be interpolated" in message and "positional_embedding" in message


class Trap:
    def __reduce__(self):
        import os

        return os.system, ("touch sprung",)


def test_nothing_is_executed(tmp_path):
    tensors = vilt_tensors()
    file = save(tensors, tmp_path / "a.ckpt", hyper_parameters={"trap": Trap()})
    mmtune("import", file, "--out", tmp_path / "model", check=0, cwd=tmp_path)
    message = mmtune("import", save(tensors | {"pooler.dense.bias": Trap()}, tmp_path / "b.ckpt"), "--out", tmp_path / "other", check=1, cwd=tmp_path).stderr
    assert "pooler.dense.bias" in message and "posix.system" in message and message.count("\n") == 1
    assert not (tmp_path / "sprung").exists() and not (tmp_path / "other").exists()


@pytest.mark.parametrize("what, part", [
    ("legacy", "PyTorch 1.6"),
    ("module", "torch.nn.modules.linear.Linear"),
    ("tensors of something else", "no published model"),
    ("lacking", "transformer.pos_embed"),
    ("truncated", "damaged"),
])
def test_other_files_are_refused(tmp_path, what, part):
    path = tmp_path / "file.ckpt"
    tensors = vilt_tensors()
    if what == "legacy":
        torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)
    elif what == "module":
        torch.save(torch.nn.Linear(2, 2), path)
    elif what == "tensors of something else":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    elif what == "lacking":
        del tensors["transformer.pos_embed"]
        save(tensors, path)
    else:
        save(tensors, path)
        path.write_bytes(path.read_bytes()[:-100])
    message = mmtune("import", path, "--out", tmp_path / "model", check=1).stderr
    assert part in message and message.count("\n") == 1 and not (tmp_path / "model").exists()


@pytest.mark.parametrize("arguments, part", [
    (["--backbone", "x"], "--backbone"),
    (["--heads", 5], "--heads"),
    (["--image-encoder", "clip"], "--image-encoder"),
])
def test_arguments_that_do_not_fit_a_file(tmp_path, arguments, part):
    done = mmtune("import", save(vilt_tensors(), tmp_path / "a.ckpt"), "--out", tmp_path / "model", *arguments)
    assert done.returncode in (1, 2) and part in done.stderr


def test_arguments_that_do_not_fit_a_folder(tmp_path):
    assert "--backbone" in mmtune("import", tmp_path, "--out", tmp_path / "run", check=2).stderr
    assert "--heads" in mmtune("import", tmp_path, "--backbone", "x", "--heads", 2, "--out", tmp_path / "run", check=2).stderr


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    """An imported METER with a tokenizer, and pictures of colours with a text each."""
    from training_support import make_pictures

    folder = tmp_path_factory.mktemp("meter")
    make_text_model(folder / "tokenizer")
    save(meter_tensors(), folder / "meter.ckpt")
    mmtune("import", folder / "meter.ckpt", "--tokenizer", folder / "tokenizer", "--out", folder / "model", check=0)
    make_pictures(folder / "data", 24, seed=1, text_share=1.0)
    return folder


KINDS = [
    {"method": "full", "targets": ["*pooler.dense.*", "token_type_embeddings.weight"]},
    {"method": "bitfit"},
    {"method": "lora", "targets": ["query", "value"]},
    {"method": "adapter"},
    {"method": "prefix", "length": 3},
    {"method": "prompt", "length": 3, "deep": True},
    {"method": "prompt", "length": 3},
    {"method": "apt", "prompts": 5, "rank": 2},
    {"method": "class_token"},
]


@pytest.mark.parametrize("expert", KINDS, ids=lambda one: "-".join(str(value) for value in one.values() if not isinstance(value, list)))
def test_experts_on_the_co_attention_layers(meter, tmp_path, expert):
    from training_support import write_recipe

    made = write_recipe(tmp_path / "recipe.toml", backbone={"main": meter / "model"}, expert=expert,
                        data={"train": meter / "data/manifest.jsonl", "workers": 0}, train={"epochs": 1, "batch": 8, "threads": 1})
    mmtune("train", made, "--out", tmp_path / "run", check=0)
    answer = json.loads(mmtune("eval", tmp_path / "run", "--data", meter / "data/manifest.jsonl", "--json", check=0).stdout)
    assert 0 <= answer["metrics"]["accuracy"]["value"] <= 1
    if expert["method"] in ("lora", "apt"):
        cost = json.loads(mmtune("cost", made, "--tokens", 7, "--json", check=0).stdout)["costs"][0]
        d, image, text = 64, 10, 7
        if expert["method"] == "apt":
            assert cost["expert_macs"] == sum(4 * (2 * n * 5 * d + 2 * 5 * d * 2) for n in (text, image))
        else:
            # Query and value of each attention; the values of a cross-attention are the other stream's.
            assert cost["expert_macs"] == 2 * 8 * (2 * d) * 4 * (text + image)


def learned(meter, tmp_path, expert, **train):
    from training_support import write_recipe

    tmp_path.mkdir(exist_ok=True)
    made = write_recipe(tmp_path / "recipe.toml", backbone={"main": meter / "model"}, expert=expert,
                        data={"train": meter / "data/manifest.jsonl", "workers": 0},
                        train={"epochs": 3, "batch": 8, "threads": 1, "lr": 1e-2, "log_every": 1} | train)
    mmtune("train", made, "--out", tmp_path / "run", check=0)
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    return tmp_path / "run", [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("expert", [{"method": "apt", "prompts": 5, "rank": 2}, {"method": "prompt", "length": 3, "deep": True},
                                    {"method": "prompt", "length": 3, "dropout": 0.2}, {"method": "lora", "dropout": 0.1}],
                         ids=lambda one: "-".join(map(str, one.values())))
def test_checkpointing_changes_nothing_but_memory(meter, tmp_path, expert):
    plain, losses = learned(meter, tmp_path / "plain", expert)
    again, same = learned(meter, tmp_path / "again", expert, checkpointing=True)
    assert same == pytest.approx(losses, rel=1e-5)
    first, second = (load_file(next(run.glob("expert/**/adapter_model.safetensors"))) for run in (plain, again))
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-4) for name in first)


def test_a_ladder_beside_each_stream(meter, tmp_path):
    run, losses = learned(meter, tmp_path, {"method": "ladder", "reduction": 4}, epochs=12)
    assert losses[-1] < losses[0] / 2
    names = set(load_file(next(run.glob("expert/**/adapter_model.safetensors"))))
    assert any("ladder.0.start" in name for name in names) and any("ladder.1.end" in name for name in names)
    assert any("cross_modal_text_layers.1.ladder" in name for name in names) and any("cross_modal_image_layers.0.ladder" in name for name in names)
    first, second = (mmtune("predict", run, "--data", meter / "data/manifest.jsonl", check=0).stdout for _ in range(2))
    assert first == second
    cost = json.loads(mmtune("cost", tmp_path / "recipe.toml", "--tokens", 7, "--json", check=0).stdout)["costs"][0]
    side, d, text, image, layers = 16, 64, 7, 10, 2
    rung = lambda rows: rows * (d * side + 4 * side * side + 8 * side * side) + 2 * rows * rows * side  # noqa: E731
    assert cost["expert_macs"] == sum(2 * rows * d * side + layers * rung(rows) for rows in (text, image))
