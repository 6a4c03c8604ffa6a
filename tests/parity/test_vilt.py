"""ViLT by `mmtune forward` against transformers, on tiny random checkpoints: the model and its heads, masks, pictures of any size, gradients.
transformers takes the patches in a random order; rows of patches are compared by where the picture had them."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from compare import close, forward, randomise  # noqa: E402

SHAPES = [
    dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=48, patch_size=16),
    dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, image_size=32, patch_size=8, layer_norm_eps=1e-3, hidden_act="relu"),
    dict(hidden_size=20, num_hidden_layers=1, num_attention_heads=5, intermediate_size=30, image_size=20, patch_size=10, qkv_bias=False, num_channels=1,
         modality_type_vocab_size=3),
]


def config(shape, **changes):
    return transformers.ViltConfig(**dict(vocab_size=70, max_position_embeddings=12) | shape | changes)


def batch(cfg, texts=True, pictures=True):
    """Three texts, two of them padded, and pictures of three shapes: wider than the position table, its own, and less."""
    torch.manual_seed(1)
    ids = torch.randint(1, 70, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.long)
    if texts:
        mask[1, 5:], mask[2, 7:] = 0, 0
    side, rows = cfg.patch_size, cfg.image_size // cfg.patch_size
    grids = [(rows, rows + 2), (rows + 1, rows), (1, rows)] if pictures else [(rows, rows)] * 3
    height, width = max(g[0] for g in grids) * side, max(g[1] for g in grids) * side
    pixels = torch.zeros(3, cfg.num_channels, height, width)
    pixel_mask = torch.zeros(3, height, width, dtype=torch.long)
    for i, (h, w) in enumerate(grids):
        pixels[i, :, : h * side, : w * side] = torch.randn(cfg.num_channels, h * side, w * side)
        pixel_mask[i, : h * side, : w * side] = 1
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "pixel_mask": pixel_mask}, grids, (height // side, width // side)


class Order:
    """Records which patches transformers took, in its order."""

    def __init__(self, model):
        embeddings = model.embeddings
        original = embeddings.visual_embed

        def recorded(*args, **kwargs):
            out = original(*args, **kwargs)
            self.places, self.visible = out[2][0], out[1][:, 1:].bool()
            return out

        embeddings.visual_embed = recorded

    def by_place(self, rows, grids, example):
        """transformers' rows of an example's visible patches, line by line of the picture."""
        h, w = grids[example]
        found = {}
        for row, (r, c), seen in zip(rows, self.places[example].tolist(), self.visible[example].tolist()):
            if seen:
                found[r * w + c] = row
        assert sorted(found) == list(range(h * w))
        return torch.stack([found[i] for i in range(h * w)])


def compare_rows(ours, theirs, order, grids, words):
    assert ours.shape == theirs.shape
    close(ours[:, : words + 1], theirs[:, : words + 1])
    for example, (h, w) in enumerate(grids):
        close(ours[example, words + 1 : words + 1 + h * w], order.by_place(theirs[example, words + 1 :], grids, example))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("pooler", [True, False])
def test_model_and_gradients(succeeds, tmp_path, shape, texts, pictures, pooler):
    cfg = config(shape)
    model = randomise(transformers.ViltModel(cfg, add_pooling_layer=pooler))
    model.save_pretrained(tmp_path / "model")
    inputs, grids, _ = batch(cfg, texts, pictures)
    types = torch.randint(0, 2, (3, 9))
    order = Order(model)
    seen = {}
    words = model.embeddings.text_embeddings.word_embeddings
    words.register_forward_hook(lambda module, given, out: seen.update(words=out.detach().requires_grad_()) or seen["words"])
    pixels = inputs["pixel_values"].clone().requires_grad_()
    theirs = model(**inputs | {"pixel_values": pixels, "token_type_ids": types})
    last = theirs.last_hidden_state
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs | {"token_type_ids": types})
    assert set(ours) == {"last_hidden_state"} | ({"pooler_output"} if pooler else set())
    compare_rows(ours["last_hidden_state"], last.detach(), order, grids, 9)
    if pooler:
        close(ours["pooler_output"], theirs.pooler_output.detach())
    # A cotangent on the rows that both have in one place.
    cotangent = torch.zeros_like(last)
    cotangent[:, :10] = torch.randn(3, 10, cfg.hidden_size)
    last.backward(cotangent)
    given = {name: tensor for name, tensor in inputs.items() if name != "input_ids"} | {"inputs_embeds": seen["words"].detach(), "token_type_ids": types}
    ours = forward(succeeds, tmp_path, tmp_path / "model", given | {"grad.last_hidden_state": cotangent})
    close(ours["grad.inputs_embeds"], seen["words"].grad)
    # Patches of the margin are chosen at random there; their pixels are seen by their own rows alone, which nobody reads.
    close(ours["grad.pixel_values"] * inputs["pixel_mask"].unsqueeze(1), pixels.grad * inputs["pixel_mask"].unsqueeze(1))


def test_masks_may_be_left_out(succeeds, tmp_path):
    cfg = config(SHAPES[0])
    model = randomise(transformers.ViltModel(cfg))
    model.save_pretrained(tmp_path / "model")
    inputs, grids, _ = batch(cfg, texts=False, pictures=False)
    given = {name: inputs[name] for name in ("input_ids", "pixel_values")}
    order = Order(model)
    with torch.no_grad():
        theirs = model(**given)
    ours = forward(succeeds, tmp_path, tmp_path / "model", given)
    compare_rows(ours["last_hidden_state"], theirs.last_hidden_state, order, grids, 9)


def test_second_picture_of_a_pair(succeeds, tmp_path):
    cfg = config(SHAPES[2])
    model = randomise(transformers.ViltModel(cfg))
    model.save_pretrained(tmp_path / "model")
    inputs, _, _ = batch(cfg)
    with torch.no_grad():
        theirs = model(**inputs, image_token_type_idx=2)
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs | {"image_token_type_idx": torch.tensor([2])})
    close(ours["pooler_output"], theirs.pooler_output)


def heads():
    return [
        (transformers.ViltForQuestionAnswering, dict(num_labels=7)),
        (transformers.ViltForImageAndTextRetrieval, dict()),
        (transformers.ViltForMaskedLM, dict()),
    ]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_heads(succeeds, tmp_path, number, shape):
    kind, changes = heads()[number]
    cfg = config(shape, **changes)
    model = randomise(kind(cfg))
    model.save_pretrained(tmp_path / "model")
    inputs, _, _ = batch(cfg)
    with torch.no_grad():
        theirs = model(**inputs)
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs)
    assert set(ours) == {"last_hidden_state", "pooler_output", "logits"} - ({"pooler_output"} if kind is transformers.ViltForMaskedLM and "pooler_output" not in ours else set())
    close(ours["logits"], theirs.logits)


@pytest.mark.parametrize("masked", [False, True])
def test_head_over_two_pictures(succeeds, fails, tmp_path, masked):
    cfg = config(SHAPES[0], num_images=2, modality_type_vocab_size=3, num_labels=2)
    model = randomise(transformers.ViltForImagesAndTextClassification(cfg))
    model.save_pretrained(tmp_path / "model")
    first, _, _ = batch(cfg, pictures=masked)
    pixels = torch.stack([first["pixel_values"], first["pixel_values"].flip(0)], 1)
    masks = torch.stack([first["pixel_mask"], first["pixel_mask"].flip(0)], 1)
    inputs = {"input_ids": first["input_ids"], "attention_mask": first["attention_mask"], "pixel_values": pixels} | ({"pixel_mask": masks} if masked else {})
    with torch.no_grad():
        theirs = model(**inputs)
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs)
    close(ours["logits"], theirs.logits)
    save_file(inputs | {"pixel_values": pixels[:, :1].contiguous()}, tmp_path / "x.safetensors")
    message = fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
    assert "number of pictures" in message and "2" in message


def original(tensors):
    """The same tensors under the names of the released checkpoints, as section 7 of the specification lists them."""
    names = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("vilt.")
        parts = name.split(".")
        if name.startswith("encoder.layer."):
            block, rest = f"transformer.blocks.{parts[2]}", ".".join(parts[3:])
            if rest.startswith("attention.attention."):
                names.setdefault(f"{block}.attn.qkv.{parts[-1]}", {})[parts[5]] = tensor
                continue
            for theirs, ours in {"attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
                                 "layernorm_before": "norm1", "layernorm_after": "norm2"}.items():
                if rest.startswith(theirs + "."):
                    names[f"{block}.{ours}.{parts[-1]}"] = tensor
                    break
            else:
                raise AssertionError(name)
            continue
        for theirs, ours in {"embeddings.text_embeddings.": "text_embeddings.", "embeddings.token_type_embeddings.": "token_type_embeddings.",
                             "embeddings.cls_token": "transformer.cls_token", "embeddings.position_embeddings": "transformer.pos_embed",
                             "embeddings.patch_embeddings.projection.": "transformer.patch_embed.proj.", "layernorm.": "transformer.norm.",
                             "classifier.": "vqa_classifier."}.items():
            if name.startswith(theirs):
                name = ours + name[len(theirs):]
                break
        names[name] = tensor
    return {name: torch.cat([part["query"], part["key"], part["value"]]) if isinstance(part, dict) else part for name, part in names.items()}


@pytest.mark.parametrize("layout", ["plain", "half"])
def test_released_names(succeeds, tmp_path, layout):
    cfg = config(SHAPES[0], num_labels=5, layer_norm_eps=1e-12)
    model = randomise(transformers.ViltForQuestionAnswering(cfg))
    if layout == "half":
        model = model.half().float()
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = original(load_file(file)) | {"text_embeddings.position_ids": torch.arange(12)[None], "itm_score.fc.weight": torch.zeros(2, 32)}
    if layout == "half":
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm) and ("encoder.layer" in name or name == "vilt.layernorm"):
            module.eps = 1e-6  # what the released code has
    inputs, _, _ = batch(cfg)
    with torch.no_grad():
        theirs = model(**inputs)
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs)
    close(ours["logits"], theirs.logits)


def test_limit_of_patches(succeeds, tmp_path):
    """Of a picture with more patches an even spread is taken; the others keep theirs."""
    cfg = config(SHAPES[0], max_image_length=4)
    model = randomise(transformers.ViltModel(cfg))
    model.save_pretrained(tmp_path / "model")
    inputs, grids, _ = batch(cfg)
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs)["last_hidden_state"]
    assert ours.shape == (3, 9 + 1 + 4, 32)
    # The third picture, of three patches, sees nothing of the limit but one row of padding.
    alone = {name: tensor[2:] for name, tensor in inputs.items()}
    with torch.no_grad():
        theirs = model(**alone)
    close(ours[2:, :10], theirs.last_hidden_state[:, :10])


@pytest.mark.parametrize("change, part", [
    ({"image_size": 15}, "patch_size"),
    ({"modality_type_vocab_size": 1}, "modality_type_vocab_size"),
    ({"num_attention_heads": 5}, "num_attention_heads"),
    ({"image_size": 64}, "position_embeddings"),
])
def test_contradicting_configurations_are_refused(fails, tmp_path, change, part):
    transformers.ViltModel(config(SHAPES[0])).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    inputs, _, _ = batch(config(SHAPES[0]))
    save_file(inputs, tmp_path / "x.safetensors")
    assert part in fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")


@pytest.mark.parametrize("change, part", [
    ({"pixel_values": None}, "pixel_values"),
    ({"input_ids": torch.zeros(3, 13, dtype=torch.long), "attention_mask": None}, "13"),
    ({"pixel_values": torch.zeros(2, 3, 48, 48)}, "pixel_values"),
    ({"pixel_values": torch.zeros(3, 3, 48, 8)}, "patch"),
    ({"pixel_mask": torch.zeros(3, 64, 80, dtype=torch.long)}, "pixel_mask"),
    ({"pixel_mask": torch.tensor([[0, 1], [1, 1]]).repeat(3, 1, 1)}, "upper left"),
    ({"image_token_type_idx": torch.tensor([3])}, "image_token_type_idx"),
    ({"image_token_type_idx": torch.tensor([1.0])}, "image_token_type_idx"),
    ({"position_ids": torch.zeros(3, 9, dtype=torch.long)}, "position_ids"),
])
def test_wrong_inputs_are_refused(fails, tmp_path, change, part):
    cfg = config(SHAPES[0])
    transformers.ViltModel(cfg).save_pretrained(tmp_path / "model")
    inputs = batch(cfg)[0] | change
    save_file({name: tensor for name, tensor in inputs.items() if tensor is not None}, tmp_path / "x.safetensors")
    assert part in fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
