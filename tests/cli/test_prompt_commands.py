"""mmtune prompt apply and show, the import of the released prompt's format, and a prompt as an expert on a picture tower."""

import json
import os
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from training_support import ROOT, make_image_model, make_pictures, mmtune

torch = pytest.importorskip("torch")
from PIL import Image  # noqa: E402

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def border(frame, width, seed=0):
    """Random numbers around a hole of zeros."""
    delta = numpy.random.default_rng(seed).normal(0.0, 0.3, (3, frame, frame)).astype("float32")
    delta[:, width : frame - width, width : frame - width] = 0
    return delta


@pytest.fixture
def prompt(tmp_path):
    save_file({"perturbation": border(28, 4)}, tmp_path / "prompt.safetensors")
    return tmp_path / "prompt.safetensors"


def picture(path, width, height, mode="RGB", seed=0):
    channels = len(mode)
    values = numpy.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype="uint8")
    Image.fromarray(values, mode).save(path)
    return path


def reference(path, side, frame):
    """The released path: resize by the shorter side (Pillow's bicubic), centre, frame in black."""
    image = Image.open(path).convert("RGB")
    w, h = image.size
    size = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    image = image.resize(size, Image.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    values = numpy.asarray(image.crop((left, top, left + side, top + side)), dtype="float32").transpose(2, 0, 1) / 255
    pad = (frame - side) // 2
    return numpy.pad(values, ((0, 0), (pad, pad), (pad, pad)))


@pytest.mark.parametrize("width,height", [(20, 20), (33, 47), (61, 22), (1, 1)])
def test_apply_gives_the_models_input(tmp_path, prompt, width, height):
    image = picture(tmp_path / "image.png", width, height)
    mmtune("prompt", "apply", prompt, image, "-o", tmp_path / "out.safetensors", check=0)
    out = load_file(tmp_path / "out.safetensors")
    expected = reference(image, 20, 28) + load_file(prompt)["perturbation"]
    assert numpy.abs(out["prompted"][0] - expected).max() < 1e-6
    normalised = (expected - numpy.reshape(MEAN, (3, 1, 1))) / numpy.reshape(STD, (3, 1, 1))
    assert numpy.abs(out["pixel_values"][0] - normalised).max() < 1e-5


def test_alpha_is_dropped_as_by_pillow(tmp_path, prompt):
    image = picture(tmp_path / "image.png", 24, 24, "RGBA")
    mmtune("prompt", "apply", prompt, image, "-o", tmp_path / "out.safetensors", check=0)
    expected = reference(image, 20, 28) + load_file(prompt)["perturbation"]
    assert numpy.abs(load_file(tmp_path / "out.safetensors")["prompted"][0] - expected).max() < 1e-6


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_picture_of_one_pixel_fills_the_square(tmp_path, prompt, mode):
    colour = {"RGB": (10, 120, 250), "RGBA": (10, 120, 250, 0), "LA": (77, 3)}[mode]
    Image.new(mode, (1, 1), colour).save(tmp_path / "one.png")
    mmtune("prompt", "apply", prompt, tmp_path / "one.png", "-o", tmp_path / "out.safetensors", check=0)
    out = load_file(tmp_path / "out.safetensors")["prompted"][0] - load_file(prompt)["perturbation"]
    expected = numpy.array(colour[:3] if mode != "LA" else colour[:1] * 3, "float32") / 255
    assert numpy.abs(out[:, 4:24, 4:24] - expected[:, None, None]).max() < 1e-6
    assert numpy.abs(out[:, :4]).max() < 1e-6  # the frame is black


def test_a_picture_says_what_is_clipped(tmp_path, prompt):
    image = picture(tmp_path / "image.png", 20, 20)
    result = mmtune("prompt", "apply", prompt, image, "-o", tmp_path / "out.png", check=0)
    prompted = reference(image, 20, 28) + load_file(prompt)["perturbation"]
    levels = numpy.round(prompted.astype("float64") * 255)
    clipped = int(((levels < 0) | (levels > 255)).sum())
    assert f"8 bits clip {clipped} of {levels.size} values" in result.stderr
    shown = numpy.asarray(Image.open(tmp_path / "out.png")).transpose(2, 0, 1)
    assert numpy.abs(shown - levels.clip(0, 255)).max() <= 1
    mmtune("prompt", "apply", prompt, image, "-o", tmp_path / "out.jpg", check=0)
    assert Image.open(tmp_path / "out.jpg").size == (28, 28)


def test_another_size_is_resized_and_said(tmp_path, prompt):
    image = picture(tmp_path / "image.png", 20, 20)
    result = mmtune("prompt", "apply", prompt, image, "-o", tmp_path / "out.safetensors", "--size", 42, check=0)
    assert "28" in result.stderr and "42" in result.stderr and "resized" in result.stderr
    prompted = torch.from_numpy(reference(image, 20, 28) + load_file(prompt)["perturbation"])[None]
    resized = torch.nn.functional.interpolate(prompted, size=(42, 42), mode="bicubic", align_corners=False)
    expected = (resized - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert (torch.from_numpy(load_file(tmp_path / "out.safetensors")["pixel_values"]) - expected).abs().max() < 1e-5


def test_apply_for_a_model(tmp_path, prompt):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {"image_size": 28}}))
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}))
    image = picture(tmp_path / "image.png", 20, 20)
    mmtune("prompt", "apply", prompt, image, "-o", tmp_path / "out.safetensors", "--model", tmp_path / "model", check=0)
    out = load_file(tmp_path / "out.safetensors")
    expected = (out["prompted"] - 0.5) / numpy.reshape([0.25, 0.5, 1.0], (3, 1, 1))
    assert numpy.abs(out["pixel_values"] - expected).max() < 1e-5


def test_show(tmp_path, prompt):
    page, png, svg = tmp_path / "page.html", tmp_path / "p.png", tmp_path / "p.svg"
    text = mmtune("prompt", "show", prompt, "--html", page, "--png", png, "--svg", svg, check=0).stdout
    assert "border of width 4" in text and "frame 28" in text
    delta = load_file(prompt)["perturbation"]
    shown = json.loads(mmtune("prompt", "show", prompt, "--json", check=0).stdout)
    hole = numpy.zeros((28, 28), bool)
    hole[4:24, 4:24] = True
    assert shown["numbers"] == 3 * int((~hole).sum())
    assert shown["l2"] == pytest.approx(float(numpy.linalg.norm(delta)), rel=1e-5)
    outside = ((delta < 0) | (delta > 1))[:, ~hole].mean()
    assert shown["outside_0_1"] == pytest.approx(float(outside), rel=1e-6)
    for channel, said in zip(delta, shown["channels"]):
        values = channel[~hole].astype("float64")
        assert said["min"] == pytest.approx(values.min(), rel=1e-6)
        assert said["mean"] == pytest.approx(values.mean(), rel=1e-4, abs=1e-6)
        assert said["std"] == pytest.approx(values.std(ddof=1), rel=1e-4)
    # Parseval: the rings hold the power of whole circles only, so the sum is at most the whole.
    assert shown["power"][0][0] == pytest.approx(float(delta[0].sum()) ** 2, rel=1e-3, abs=1e-4)
    assert Image.open(png).size == (28, 28)
    html = page.read_text()
    assert "data:image/png;base64," in html and "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert svg.read_text().startswith("<svg") or "<svg" in svg.read_text()[:200]


def test_the_released_format_is_imported_without_running_anything(tmp_path):
    delta = border(28, 4)
    torch.save({"perturbation": torch.from_numpy(delta)}, tmp_path / "checkpoint_best.pth")
    refused = mmtune("prompt", "show", tmp_path / "checkpoint_best.pth", check=1)
    assert "mmtune import" in refused.stderr and "pickle" in refused.stderr
    said = mmtune("import", tmp_path / "checkpoint_best.pth", "--out", tmp_path / "prompt", check=0).stdout
    assert "border of width 4" in said and "frame of 28" in said
    config = json.loads((tmp_path / "prompt" / "adapter_config.json").read_text())
    assert config["peft_type"] == "MMTUNE_VISUAL_PROMPT" and config["width"] == 4 and config["image_size"] == 20
    kept = load_file(tmp_path / "prompt" / "adapter_model.safetensors")
    assert list(kept) == ["base_model.model.perturbation"]
    assert (kept["base_model.model.perturbation"] == delta).all()
    mmtune("prompt", "show", tmp_path / "prompt", check=0)


def test_a_border_that_the_zeros_contradict_is_told(tmp_path):
    torch.save({"perturbation": torch.from_numpy(border(28, 4))}, tmp_path / "p.pth")
    mmtune("import", tmp_path / "p.pth", "--out", tmp_path / "prompt", check=0)
    config = json.loads((tmp_path / "prompt" / "adapter_config.json").read_text())
    config["width"], config["image_size"] = 6, 16
    (tmp_path / "prompt" / "adapter_config.json").write_text(json.dumps(config))
    result = mmtune("prompt", "show", tmp_path / "prompt", check=0)
    assert "border of 4" in result.stderr and "says 6" in result.stderr


@pytest.mark.parametrize(
    "name,content,words",
    [
        ("prompt.png", "picture", "8 bits cannot hold"),
        ("flat.safetensors", {"perturbation": numpy.zeros((3, 28), "float32")}, "[3, F, F]"),
        ("oblong.safetensors", {"perturbation": numpy.zeros((3, 28, 20), "float32")}, "[3, F, F]"),
        ("other.safetensors", {"weight": numpy.zeros((3, 28, 28), "float32")}, "no visual prompt"),
        ("nan.safetensors", {"perturbation": numpy.full((3, 8, 8), numpy.nan, "float32")}, "NaN"),
        ("missing.safetensors", None, "no such prompt"),
    ],
)
def test_what_is_no_prompt(tmp_path, name, content, words):
    path = tmp_path / name
    if content == "picture":
        picture(path, 28, 28)
    elif content is not None:
        save_file(content, path)
    result = mmtune("prompt", "show", path, check=1)
    assert words in result.stderr and name in result.stderr
    assert result.stderr.count("\n") == 1


def test_mistakes_of_arguments(tmp_path, prompt):
    image = picture(tmp_path / "image.png", 20, 20)
    assert "-o OUT" in mmtune("prompt", "apply", prompt, image, check=2).stderr
    assert ".safetensors" in mmtune("prompt", "apply", prompt, image, "-o", tmp_path / "out.gif", check=2).stderr
    assert "PROMPT IMAGE" in mmtune("prompt", "apply", prompt, "-o", tmp_path / "out.png", check=2).stderr
    assert "broken.png" in mmtune("prompt", "apply", prompt, tmp_path / "broken.png", "-o", tmp_path / "out.png", check=1).stderr
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    assert "broken.png" in mmtune("prompt", "apply", prompt, tmp_path / "broken.png", "-o", tmp_path / "out.png", check=1).stderr
    assert not (tmp_path / "out.png").exists()


def test_the_released_prompt(tmp_path):
    shared = Path(os.environ.get("MMTUNE_SHARED", ROOT.parent / "shared")) / "data" / "tvp_prompt"
    if not shared.is_dir():
        pytest.skip("the released visual prompt, third parties' data, is not there")
    shown = json.loads(mmtune("prompt", "show", shared / "official_visual_prompt.safetensors", "--json", check=0).stdout)
    told = json.loads((shared / "official_visual_prompt.json").read_text())["stats"]
    assert shown["numbers"] == told["border_elements"] and shown["width"] == 30 and shown["image_size"] == 164
    assert shown["l2"] == pytest.approx(told["l2"], rel=1e-6)
    assert shown["outside_0_1"] == pytest.approx(told["border_fraction_outside_0_1"], rel=1e-6)
    for mine, theirs in zip(shown["channels"], told["per_channel_border"]):
        for key in ("min", "max", "mean", "std", "l2"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("form", ["border", "full", "vp_padding", "vp_fixed_patch", "vp_random_patch"])
def test_as_an_expert_on_a_picture_tower(tmp_path, form):
    """Learns colours through a frozen random ViT; the run opens again, and its prompt shows."""
    model = make_image_model(tmp_path / "vit")
    data = make_pictures(tmp_path / "data", 24, 0)
    (tmp_path / "recipe.toml").write_text(
        f"""
[backbone]
main = "{model}"
[expert]
method = "visual_prompt"
form = "{form}"
width = 2
[data]
train = "{data}"
[train]
epochs = 2
batch = 8
lr = 0.05
threads = 1
"""
    )
    mmtune("train", tmp_path / "recipe.toml", "--out", tmp_path / "run", check=0)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    numbers = {"border": 3 * 256, "full": 3 * 256, "vp_padding": 3 * (2 * 2 * 16 + 2 * 12 * 2), "vp_fixed_patch": 12, "vp_random_patch": 12}
    assert record["experts"][0]["parameters"] == numbers[form]
    kept = load_file(tmp_path / "run" / "expert" / "adapter_model.safetensors")
    if form == "border":
        delta = kept["base_model.model.perturbation"]
        assert (delta[:, 2:14, 2:14] == 0).all() and (delta[:, :2] != 0).any()
    metrics = json.loads(mmtune("eval", tmp_path / "run", "--data", data, "--json", check=0).stdout)
    assert metrics["examples"] == 24
    mmtune("prompt", "show", tmp_path / "run", check=0)


def test_together_with_lora(tmp_path):
    model = make_image_model(tmp_path / "vit")
    data = make_pictures(tmp_path / "data", 24, 0)
    (tmp_path / "recipe.toml").write_text(
        f"""
[backbone]
main = "{model}"
[[expert]]
method = "visual_prompt"
width = 2
[[expert]]
method = "lora"
rank = 2
targets = ["query"]
[data]
train = "{data}"
[train]
epochs = 1
batch = 8
threads = 1
"""
    )
    mmtune("train", tmp_path / "recipe.toml", "--out", tmp_path / "run", check=0)
    mmtune("eval", tmp_path / "run", "--data", data, check=0)
    odd = mmtune("train", tmp_path / "recipe.toml", "expert.0.image_size=11", "--out", tmp_path / "odd", check=2)
    assert "odd" in odd.stderr and "image_size" in odd.stderr
