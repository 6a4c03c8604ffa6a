"""mmtune pretrain: the teacher against PyTorch's own layers, the written tower against transformers, resuming, mistakes."""

import json
import random
import signal

import pytest
from pretraining_support import lines_of, stop_and_resume

STAGES = [(1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80), (3, 5, 1, 6, 80, 112)]
STAGES += [(4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320)]


def teacher_layers():
    """(convolution, norm, shape, stride, groups, activated, residual after) of every convolution of EfficientNet-Lite0, in order."""
    yield "_conv_stem", "_bn0", (32, 3, 3, 3), 2, 1, True, None
    number = 0
    for repeats, kernel, stride, expansion, width, out in STAGES:
        for i in range(repeats):
            name, width = f"_blocks.{number}.", width if i == 0 else out
            inner = width * expansion
            if expansion > 1:
                yield name + "_expand_conv", name + "_bn0", (inner, width, 1, 1), 1, 1, True, None
            yield name + "_depthwise_conv", name + "_bn1", (inner, 1, kernel, kernel), stride if i == 0 else 1, inner, True, None
            yield name + "_project_conv", name + "_bn2", (out, inner, 1, 1), 1, 1, False, i > 0
            number += 1
    yield "_conv_head", "_bn1", (1280, 320, 1, 1), 1, 1, True, None


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Random weights with statistics that keep the signal alive."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tensors = {}
    for convolution, norm, shape, _, _, _, _ in teacher_layers():
        fan_in = shape[1] * shape[2] * shape[3]
        tensors[convolution + ".weight"] = torch.randn(shape) / fan_in**0.5
        tensors[norm + ".weight"] = torch.rand(shape[0]) + 0.8
        tensors[norm + ".bias"] = torch.randn(shape[0]) * 0.3 + 0.3
        tensors[norm + ".running_mean"] = torch.randn(shape[0]) * 0.1
        tensors[norm + ".running_var"] = torch.rand(shape[0]) + 0.5
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(tensors, path)
    return path, tensors


def teacher_map(tensors, pictures):
    """The last feature map of the same network out of PyTorch's layers, batch normalisation apart from the convolutions.

    [B, 3, S, S] in 0 … 1 → [B, cells, 1280].
    """
    import torch.nn.functional as F

    x, before = (pictures * 255 - 127) / 128, None
    for convolution, norm, shape, stride, groups, activated, residual in teacher_layers():
        if convolution.endswith(("_expand_conv", "_depthwise_conv")) and before is None:
            before = x
        padding = max((-(-x.shape[-1] // stride) - 1) * stride + shape[2] - x.shape[-1], 0)
        x = F.pad(x, (padding // 2, padding - padding // 2) * 2)
        x = F.conv2d(x, tensors[convolution + ".weight"], None, stride, 0, 1, groups)
        statistics = tensors[norm + ".running_mean"], tensors[norm + ".running_var"]
        x = F.batch_norm(x, *statistics, tensors[norm + ".weight"], tensors[norm + ".bias"], eps=1e-3)
        if activated:
            x = x.clamp(0, 6)
        if residual is not None:
            x, before = (x + before if residual else x), None
    return x.flatten(2).transpose(1, 2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """24 random pictures of 64 pixels with one or two texts each, some without."""
    from PIL import Image

    draw, folder = random.Random(1), tmp_path_factory.mktemp("pictures")
    rows = []
    for i in range(24):
        picture = Image.new("RGB", (64, 64), tuple(draw.randrange(256) for _ in range(3)))
        picture.paste(tuple(draw.randrange(256) for _ in range(3)), (8, 12, 8 + draw.randrange(16, 48), 56))
        picture.save(folder / f"{i}.png")
        texts = [["red", "a red square"], ["green"], [], ["blue"]][i % 4]
        rows.append({"id": f"p{i}", "image": f"{i}.png", "texts": texts, "weight": 1 + i % 2, "mirror": i % 3 > 0})
    (folder / "pictures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pictures.jsonl"


@pytest.fixture
def recipe(tmp_path, pictures, teacher, tiny_bert):
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
task = "pretrain"
data = {{ pictures = "{pictures}", workers = 2 }}
model = {{ image_size = 16, patch_size = 4, width = 24, layers = 2, heads = 2, inner = 32 }}
text.model = "{tiny_bert}"
teacher.weights = "{teacher[0]}"
views = {{ count = 2, size = 64 }}
train = {{ steps = 6, batch = 8, precision = "float32", log_every = 1, seed = 3 }}
"""
    )
    return path


def tensors_of(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_the_teacher_computes_what_pytorch_computes(mmtune, recipe, teacher, pictures, tmp_path):
    import torch
    from PIL import Image

    still = ["views.whole=1.0", "views.colour=0.0", "views.grey=0.0", "views.count=1", "train.steps=1"]
    done = mmtune("pretrain", recipe, *still, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    bank = tensors_of(tmp_path / "run" / "views" / "part-00000.safetensors")
    assert bank["views"].shape == (24, 1, 3, 16, 16) and bank["cells"].shape == (24, 1, 4, 256)
    maps = []
    for i, row in enumerate(json.loads(line) for line in pictures.read_text().splitlines()):
        content = bytearray(Image.open(pictures.parent / row["image"]).tobytes())
        picture = torch.frombuffer(content, dtype=torch.uint8).view(64, 64, 3).permute(2, 0, 1)[None].float() / 255
        view = bank["views"][i, 0] / 255
        if row["mirror"] and (view - torch.nn.functional.avg_pool2d(picture, 4)[0]).abs().max() > 0.01:
            picture = picture.flip(3)
        assert (view - torch.nn.functional.avg_pool2d(picture, 4)[0]).abs().max() <= 0.51 / 255
        maps.append(teacher_map(teacher[1], picture)[0])
        expected = maps[-1].mean(0)
        assert expected.std() > 0.05
        # The bank keeps float16.
        assert torch.allclose(bank["features"][i, 0].float(), expected, atol=2e-3, rtol=2e-3)
    # A random projection keeps distances, whatever its directions are.
    cells, maps = bank["cells"].float().flatten(0, 2), torch.cat(maps)
    distances = torch.stack([torch.pdist(cells), torch.pdist(maps)])
    assert torch.corrcoef(distances)[0, 1] > 0.95
    assert 0.8 < distances[0].norm() / distances[1].norm() * (1280 / 256) ** 0.5 < 1.25


def test_transformers_loads_the_tower(mmtune, recipe, tmp_path):
    import torch
    from PIL import Image
    from safetensors.torch import save_file
    from transformers import ViTImageProcessorPil, ViTModel

    done = mmtune("pretrain", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "model"
    model, report = ViTModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    model.eval()
    picture = Image.new("RGB", (40, 30), (200, 30, 90))
    pixels = ViTImageProcessorPil.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16)
    pixels = torch.cat([pixels, torch.randn(2, 3, 16, 16)])
    save_file({"pixel_values": pixels}, tmp_path / "in.safetensors")
    done = mmtune("forward", folder, "--inputs", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state
    assert torch.allclose(tensors_of(tmp_path / "out.safetensors")["last_hidden_state"], expected, atol=1e-4)
    projection = tensors_of(folder / "projection.safetensors")
    assert projection["text_projection.weight"].shape == projection["text_projection_mean.weight"].shape == (32, 24)
    assert projection["logit_scale"].shape == () and abs(projection["logit_scale"].item() - 20) < 1


def test_it_learns(mmtune, recipe, tmp_path):
    done = mmtune("pretrain", recipe, "train.steps=60", "train.warmup=0.1", "train.lr=3e-3", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows = lines_of(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 61))
    for term in ["text_loss", "teacher_loss", "patch_loss"]:
        assert sum(row[term] for row in rows[-10:]) < 0.9 * sum(row[term] for row in rows[:10])


def test_it_goes_on_from_a_tower(mmtune, recipe, tmp_path):
    import torch

    assert mmtune("pretrain", recipe, "--out", tmp_path / "first").returncode == 0
    first = tmp_path / "first" / "model"
    done = mmtune("pretrain", recipe, f"model.start={first}", "train.steps=1", "train.lr=1e-12", "train.seed=9", "--out", tmp_path / "second")
    assert done.returncode == 0, done.stderr
    before, after = tensors_of(first / "model.safetensors"), tensors_of(tmp_path / "second" / "model" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    done = mmtune("pretrain", recipe, f"model.start={first}", "model.width=48", "--out", tmp_path / "third")
    assert done.returncode == 1 and "misshapen" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_resumed_run_ends_with_the_same_bytes(program, mmtune, recipe, tmp_path, stop):
    options = [str(recipe), "train.steps=60"]
    stop_and_resume(program, mmtune, options, tmp_path, stop, ["model.safetensors", "projection.safetensors"])


def test_mistakes(refused, recipe, tmp_path):
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert "steps" in refused(2, "pretrain", recipe, "train.stepz=3", "--out", tmp_path / "a")
    assert "missing.jsonl" in refused(1, "pretrain", recipe, "data.pictures=missing.jsonl", "--out", tmp_path / "b")
    assert "EfficientNet-Lite0" in refused(1, "pretrain", recipe, f"teacher.weights={empty}", "--out", tmp_path / "c")


def test_a_broken_picture_is_named(mmtune, recipe, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    (tmp_path / "broken.jsonl").write_text('{"image": "broken.png", "texts": ["red"]}\n')
    done = mmtune("pretrain", recipe, f"data.pictures={tmp_path / 'broken.jsonl'}", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "broken.png" in done.stderr.splitlines()[-1]


def test_an_existing_run_is_not_overwritten(mmtune, refused, recipe, tmp_path):
    assert mmtune("pretrain", recipe, "train.steps=1", "--out", tmp_path / "run").returncode == 0
    assert "exists" in refused(1, "pretrain", recipe, "train.steps=1", "--out", tmp_path / "run")
    assert "another recipe" in refused(2, "pretrain", recipe, "train.steps=2", "--out", tmp_path / "run", "--resume")
