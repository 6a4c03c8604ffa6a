"""Decoding, resizing and processing of pictures against Pillow and transformers, on the same bytes."""

import io
import json
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

import pictures
from pictures import SHARED, run_tool


def by_pillow(data):
    """The picture, or None where Pillow refuses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, SyntaxError, ValueError):
            return None


def real_pictures(limit_per_set):
    """(name, bytes) of a sample of the data sets beside the repository, spread over each set."""
    found = []
    for manifest in sorted(SHARED.glob("data/*/manifest.jsonl")):
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if "shard" in row and str(row.get("member", "")).endswith((".jpg", ".jpeg", ".png", ".webp"))]
        for row in rows[:: max(len(rows) // limit_per_set, 1)][:limit_per_set]:
            with open(manifest.parent / row["shard"], "rb") as shard:
                shard.seek(row["offset"])
                found.append((f"{manifest.parent.name}/{row['member']}", shard.read(row["size"])))
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")

    def write(items):
        paths = []
        for index, (name, data) in enumerate(items):
            path = folder / f"{index:05d}_{name.replace('/', '_')}"
            path.write_bytes(data)
            paths.append(path)
        return paths

    return write


def assert_equal_pictures(items, results, expected):
    wrong = []
    for (name, _), got, want in zip(items, results, expected, strict=True):
        if want is None:
            if not isinstance(got, str):
                wrong.append(f"{name}: Pillow refuses it")
        elif isinstance(got, str):
            wrong.append(f"{name}: {got}")
        elif got.shape != want.shape:
            wrong.append(f"{name}: {got.shape} for {want.shape}")
        elif not np.array_equal(got, want):
            difference = np.abs(got.astype(int) - want.astype(int))
            wrong.append(f"{name}: {np.mean(difference > 0):.2%} of the values differ, by up to {difference.max()}")
    assert not wrong, f"{len(wrong)} of {len(items)}:\n" + "\n".join(wrong[:40])


@pytest.mark.parametrize("kind", ["jpegs", "oriented", "pngs", "webps"])
def test_decoding_equals_pillow(kind, store):
    items = list(getattr(pictures, kind)())
    assert_equal_pictures(items, run_tool(["decode"], store(items)), [by_pillow(data) for _, data in items])


def test_decoding_real_pictures_equals_pillow(store):
    items = real_pictures(40)
    if not items:
        pytest.skip(f"no data sets in {SHARED}")
    assert_equal_pictures(items, run_tool(["decode"], store(items)), [by_pillow(data) for _, data in items])


def truncations():
    """Pictures cut where pixels are missing; Pillow refuses them too."""
    for name, data in [*pictures.jpegs(), *pictures.pngs(), *pictures.webps()]:
        if name in ("jpeg_with_tail.jpg",) or "animated" in name:
            continue
        for share in (0.2, 0.5, 0.9):
            yield f"{share}_{name}", data[: int(len(data) * share)]


def test_truncated_pictures_are_refused(store):
    items = list(truncations())
    for (name, data), result in zip(items, run_tool(["decode"], store(items)), strict=True):
        if isinstance(result, str):
            continue
        # What is accepted has all its pixels, by Pillow's judgement too, and the same ones.
        want = by_pillow(data)
        assert want is not None and np.array_equal(result, want), name


def test_refusals_name_the_file_and_the_reason(store):
    rgb = pictures.encode(Image.fromarray(pictures.scene(30, 20)), "PNG")
    items = [
        ("empty.png", b"", "an empty file"),
        ("text.jpg", b"this is no picture", "not a picture"),
        ("gif.png", pictures.encode(Image.new("L", (3, 3)), "GIF"), "JPEG, PNG or WebP"),
        ("half.png", rgb[: len(rgb) // 2], "truncated"),
        ("huge.png", pictures.raw_png(100_000, 100_000, 8, 2, [b""]), "100000 x 100000"),
        ("flat.png", pictures.raw_png(0, 5, 8, 2, [b""]), "PNG"),
    ]
    paths = store([(name, data) for name, data, _ in items])
    for path, (_, _, reason), result in zip(paths, items, run_tool(["decode"], paths), strict=True):
        assert isinstance(result, str), path
        assert str(path) in result and reason in result and "\n" not in result


FILTERS = [
    Image.Resampling.NEAREST, Image.Resampling.LANCZOS, Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.HAMMING,
]  # fmt: skip


@pytest.mark.parametrize("resample", FILTERS, ids=lambda f: f.name.lower())
def test_resizing_equals_pillow(resample, store):
    random = np.random.default_rng(int(resample))
    sizes = [(1, 1), (1, 50), (50, 1), (2, 3), (5, 5), (224, 224), (640, 427), (3, 700), (11, 10), (33, 32)]
    sizes += [tuple(int(v) for v in random.integers(1, 200, 2)) for _ in range(12)]
    items = [(f"{w}x{h}.png", pictures.encode(Image.fromarray(pictures.scene(w, h, w)), "PNG")) for w, h in sizes]
    # Full contrast makes negative lobes overshoot both ways.
    items.append(("noise.png", pictures.encode(Image.fromarray((random.integers(0, 2, (90, 110, 3)) * 255).astype(np.uint8)), "PNG")))
    paths = store(items)
    images = [Image.open(io.BytesIO(data)).convert("RGB") for _, data in items]
    targets = [(1, 1), (224, 224), (7, 300), (300, 7), (110, 64), (50, 90)]
    targets += [tuple(int(v) for v in random.integers(1, 400, 2)) for _ in range(10)]
    for width, height in targets:
        expected = [np.asarray(image.resize((width, height), resample)) for image in images]
        named = [(f"{name} to {width}x{height}", data) for name, data in items]
        assert_equal_pictures(named, run_tool(["resize", width, height, int(resample)], paths), expected)


CONFIGS = {
    "standard": {},
    "imagenet": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3},
    "oblong": {"size": {"height": 90, "width": 161}, "resample": 1},
    "small": {"size": {"height": 32, "width": 32}, "resample": 0},
    "box": {"size": {"height": 64, "width": 64}, "resample": 4},
    "no_rescale": {"do_rescale": False},
    "no_normalize": {"do_normalize": False},
    "no_resize": {"do_resize": False},
    "nothing": {"do_resize": False, "do_rescale": False, "do_normalize": False},
    "factor": {"rescale_factor": 0.0078125, "image_mean": [0.1, 0.2, 0.3]},
}


CLIP_CONFIGS = {
    "standard": {},
    "small": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 36}},
    "number": {"size": 33, "crop_size": 33, "resample": 2},
    "padded": {"size": {"shortest_edge": 20}, "crop_size": {"height": 61, "width": 30}},
    "padded_oddly": {"do_resize": False, "crop_size": {"height": 90, "width": 101}},
    "fixed": {"size": {"height": 50, "width": 60}, "crop_size": {"height": 50, "width": 60}},
    "no_crop": {"do_center_crop": False, "size": {"shortest_edge": 48}},
    "no_normalize": {"do_normalize": False, "do_rescale": False},
}
VILT_CONFIGS = {
    "standard": {},
    "small": {"size": {"shortest_edge": 50}, "size_divisor": 8},
    "odd": {"size": {"shortest_edge": 33}, "size_divisor": 7, "resample": 2},
    "no_resize": {"do_resize": False, "do_normalize": False},
}
BLIP_CONFIGS = {
    "standard": {},
    "published": {"size": {"height": 224, "width": 224}, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]},
    "odd": {"size": {"height": 45, "width": 71}, "resample": 2},
}
VIT_CONFIGS = CONFIGS | {
    "swin": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": {"height": 224, "width": 224}},
    "proportions": {"size": {"shortest_edge": 50}},
    "cropped": {"size": {"height": 64, "width": 80}, "do_center_crop": True, "crop_size": {"height": 48, "width": 50}},
}


@pytest.mark.parametrize(
    ("family", "name"),
    [("ViT", name) for name in VIT_CONFIGS] + [("CLIP", name) for name in CLIP_CONFIGS] + [("Vilt", name) for name in VILT_CONFIGS]
    + [("Blip", name) for name in BLIP_CONFIGS],
)
def test_processors_equal_transformers(family, name, store, tmp_path):
    transformers = pytest.importorskip("transformers")
    configs = {"ViT": VIT_CONFIGS, "CLIP": CLIP_CONFIGS, "Vilt": VILT_CONFIGS, "Blip": BLIP_CONFIGS}[family]
    reference = getattr(transformers, f"{family}ImageProcessorPil")(**configs[name])
    reference.save_pretrained(tmp_path)
    items = [item for item in pictures.everything() if item[0].endswith(("_33x47_420.jpg", "exif_6.jpg", "rgb_64.png", "rgba_131.png"))]
    items += real_pictures(3)
    results = run_tool(["process", tmp_path], store(items), np.float32)
    for (label, data), got in zip(items, results, strict=True):
        want = reference(Image.fromarray(by_pillow(data)), return_tensors="np")["pixel_values"][0].astype(np.float32)
        assert got.shape == want.shape, label
        assert np.array_equal(got, want), f"{label}: off by up to {np.abs(got - want).max()}"


def test_a_picture_too_thin_for_its_proportions_is_refused(store, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    thin = pictures.encode(Image.new("RGB", (1, 20000)), "PNG")
    (result,) = run_tool(["process", tmp_path], store([("thin.png", thin)]), np.float32)
    assert isinstance(result, str) and "too thin" in result and "1 x 20000" in result


def test_a_padded_batch_equals_transformers(store, tmp_path, mmtune):
    """Pictures of three sizes: pixels and mask."""
    transformers = pytest.importorskip("transformers")
    from safetensors.numpy import load_file

    reference = transformers.ViltImageProcessorPil(size={"shortest_edge": 40}, size_divisor=8)
    reference.save_pretrained(tmp_path)
    made = [Image.fromarray(np.random.default_rng(i).integers(0, 256, size + (3,), dtype=np.uint8)) for i, size in enumerate([(30, 50), (70, 40), (45, 45)])]
    paths = store([(f"{i}.png", pictures.encode(image, "PNG")) for i, image in enumerate(made)])
    arguments = [item for path in paths for item in ("--image", path)]
    done = mmtune("preprocess", tmp_path, *arguments, "--out", tmp_path / "x.safetensors")
    assert done.returncode == 0, done.stderr
    ours, theirs = load_file(tmp_path / "x.safetensors"), reference(made, return_tensors="np")
    assert np.array_equal(ours["pixel_values"], theirs["pixel_values"]) and np.array_equal(ours["pixel_mask"], theirs["pixel_mask"])


def processor_with(folder, config, model=None):
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    if model is not None:
        (folder / "config.json").write_text(json.dumps(model))
    return pictures.subprocess.run([pictures.TOOL, "describe", folder], capture_output=True, text=True)


@pytest.mark.parametrize(
    "config",
    [
        {"image_processor_type": "ViTImageProcessor"},
        {"image_processor_type": "ViTImageProcessorFast", "size": 224, "crop_size": None, "do_center_crop": None},
        {"image_processor_type": "ViTImageProcessorPil", "size": [224, 224]},
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": 0.5},
    ],
)
def test_spellings_of_the_standard_processor(config, tmp_path):
    expected = (
        "ViTImageProcessor size=224x224 resample=bilinear rescale_factor=0.0039215686274509803 image_mean=0.5,0.5,0.5 image_std=0.5,0.5,0.5"
    )
    result = processor_with(tmp_path, config)
    assert (result.returncode, result.stdout.strip()) == (0, expected), result.stderr


def test_untyped_processor_follows_the_model(tmp_path):
    assert processor_with(tmp_path, {"size": 32}, {"model_type": "vit"}).stdout.startswith("ViTImageProcessor size=32x32")
    assert processor_with(tmp_path, {"size": 32}, {"model_type": "swin"}).stdout.startswith("ViTImageProcessor size=32x32")
    assert processor_with(tmp_path, {"size": 32}, {"model_type": "vilt"}).stdout.startswith("ViltImageProcessor size_divisor=32 size=shortest_edge:32")
    assert processor_with(tmp_path, {"size": 32}, {"model_type": "clip"}).stdout.startswith("CLIPImageProcessor size=shortest_edge:32")
    assert processor_with(tmp_path, {"size": 32}, {"model_type": "llava"}).stdout.startswith("CLIPImageProcessor size=shortest_edge:32")
    assert processor_with(tmp_path, {"size": 32}, {"model_type": "blip-2"}).stdout.startswith("BlipImageProcessor size=32x32 resample=bicubic")
    result = processor_with(tmp_path, {"size": 32}, {"model_type": "bert"})
    assert result.returncode == 1 and "bert" in result.stderr


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"image_processor_type": "FlavaImageProcessor"}, "FlavaImageProcessor"),
        ({"image_processor_type": 3}, "image_processor_type"),
        ({}, "image_processor_type is missing"),
        ([], "not a JSON object"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 224}}, "size"),
        ({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224, "longest_edge": 300}}, "size"),
        ({"image_processor_type": "CLIPImageProcessor", "crop_size": {"shortest_edge": 224}}, "crop_size"),
        ({"image_processor_type": "ViTImageProcessor", "size": 0}, "size"),
        ({"image_processor_type": "ViltImageProcessor", "size": {"height": 384, "width": 384}}, "shortest_edge"),
        ({"image_processor_type": "ViltImageProcessor", "size_divisor": -32}, "size_divisor"),
        ({"image_processor_type": "ViltImageProcessor", "size_divisor": 1.5}, "size_divisor"),
        ({"image_processor_type": "ViTImageProcessor", "size": 10**9}, "size"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "resample"),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": "yes"}, "do_resize"),
        ({"image_processor_type": "ViTImageProcessor", "do_center_crop": True}, "do_center_crop"),
        ({"image_processor_type": "ViTImageProcessor", "image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_processor_type": "ViTImageProcessor", "image_std": [0.5, 0, 0.5]}, "image_std"),
        ({"image_processor_type": "ViTImageProcessor", "rescale_factor": "1/255"}, "rescale_factor"),
    ],
)
def test_faulty_processor_files_are_refused_by_name(config, fault, tmp_path):
    result = processor_with(tmp_path, config)
    assert result.returncode == 1
    assert fault in result.stderr and "preprocessor_config.json" in result.stderr and result.stderr.count("\n") == 1
