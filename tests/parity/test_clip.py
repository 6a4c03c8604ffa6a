"""CLIP by `mmtune forward` against transformers, on tiny random checkpoints: both towers, alone and together, outputs and gradients."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from compare import close, forward, randomise  # noqa: E402

END = 58
TEXT = [
    dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64),
    dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, hidden_act="gelu", layer_norm_eps=1e-3),
    dict(hidden_size=20, num_hidden_layers=1, num_attention_heads=5, intermediate_size=30, hidden_act="relu"),
]
IMAGE = [
    dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8),
    dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, image_size=30, patch_size=7, hidden_act="gelu"),
    dict(hidden_size=20, num_hidden_layers=1, num_attention_heads=5, intermediate_size=30, image_size=16, patch_size=4, num_channels=1),
]


def text_config(shape, end=END, **changes):
    return transformers.CLIPTextConfig(**dict(vocab_size=60, max_position_embeddings=16, bos_token_id=57, eos_token_id=end, projection_dim=12) | shape | changes)


def sentences(end=END):
    """Ids [4, 11] with the end at various places, and a mask: padding on the right, on the left, a hole, none."""
    torch.manual_seed(1)
    ids = torch.randint(3, 57, (4, 11))
    ids[:, 0] = 57
    ids[0, 6:] = end
    ids[1, 10] = end
    ids[2, 9] = end
    ids[3, 10] = end
    mask = torch.ones(4, 11, dtype=torch.long)
    mask[0, 7:] = 0
    mask[1, :3] = 0
    mask[2, 4] = 0
    return ids, mask


@pytest.mark.parametrize("shape", TEXT)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_text_tower(succeeds, tmp_path, shape, masked, projected):
    model = randomise((transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(text_config(shape)))
    model.save_pretrained(tmp_path / "model")
    ids, mask = sentences()
    inputs = {"input_ids": ids} | ({"attention_mask": mask} if masked else {})
    seen = {}
    encoder = model.text_model if projected else model
    encoder.embeddings.token_embedding.register_forward_hook(lambda module, given, out: seen.update(words=out.detach().requires_grad_()) or seen["words"])
    theirs = model(**inputs)
    visible = mask.bool() if masked else torch.ones_like(mask, dtype=torch.bool)
    cotangent = torch.randn_like(theirs.last_hidden_state) * visible.unsqueeze(2)
    theirs.last_hidden_state.backward(cotangent)
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs)
    close(ours["last_hidden_state"][visible], theirs.last_hidden_state[visible])
    assert set(ours) == {"last_hidden_state", "pooler_output"} | ({"text_embeds"} if projected else set())
    if projected:
        close(ours["text_embeds"], theirs.text_embeds)
    else:
        close(ours["pooler_output"], theirs.pooler_output)
    embedded = {name: tensor for name, tensor in inputs.items() if name != "input_ids"} | {"inputs_embeds": seen["words"].detach()}
    ours = forward(succeeds, tmp_path, tmp_path / "model", embedded | {"grad.last_hidden_state": cotangent})
    assert set(ours) == {"last_hidden_state", "grad.inputs_embeds"}
    close(ours["grad.inputs_embeds"], seen["words"].grad)


@pytest.mark.parametrize("end", [2, END, 59])
def test_both_rules_of_pooling(succeeds, tmp_path, end):
    """2: the first of the largest ids; otherwise the first end token; 59 stands in no sentence but one."""
    model = randomise(transformers.CLIPTextModel(text_config(TEXT[0], end)))
    model.save_pretrained(tmp_path / "model")
    ids, _ = sentences()
    ids[3, 4] = 59
    with torch.no_grad():
        theirs = model(input_ids=ids)
    close(forward(succeeds, tmp_path, tmp_path / "model", {"input_ids": ids})["pooler_output"], theirs.pooler_output)


def test_older_layout_of_the_text_tower(succeeds, tmp_path):
    model = randomise(transformers.CLIPTextModel(text_config(TEXT[0])))
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({"text_model." + name: tensor for name, tensor in load_file(file).items()}, file)
    ids, _ = sentences()
    with torch.no_grad():
        theirs = model(input_ids=ids)
    close(forward(succeeds, tmp_path, tmp_path / "model", {"input_ids": ids})["pooler_output"], theirs.pooler_output)


@pytest.mark.parametrize("shape", IMAGE)
@pytest.mark.parametrize("projected", [False, True])
def test_image_tower(succeeds, tmp_path, shape, projected):
    config = transformers.CLIPVisionConfig(**shape, projection_dim=12)
    model = randomise((transformers.CLIPVisionModelWithProjection if projected else transformers.CLIPVisionModel)(config))
    model.save_pretrained(tmp_path / "model")
    pixels = torch.randn(3, config.num_channels, config.image_size, config.image_size, requires_grad=True)
    theirs = model(pixels)
    pooled, name = (theirs.image_embeds, "image_embeds") if projected else (theirs.pooler_output, "pooler_output")
    hidden_cotangent, pooled_cotangent = torch.randn_like(theirs.last_hidden_state), torch.randn_like(pooled)
    torch.autograd.backward([theirs.last_hidden_state, pooled], [hidden_cotangent, pooled_cotangent])
    ours = forward(succeeds, tmp_path, tmp_path / "model", {
        "pixel_values": pixels.detach(), "grad.last_hidden_state": hidden_cotangent, f"grad.{name}": pooled_cotangent})
    close(ours["last_hidden_state"], theirs.last_hidden_state)
    close(ours[name], pooled)
    close(ours["grad.pixel_values"], pixels.grad)
    assert ("image_embeds" in ours) == projected


@pytest.mark.parametrize("number", range(3))
def test_both_towers(succeeds, tmp_path, number):
    config = transformers.CLIPConfig(text_config=text_config(TEXT[number]).to_dict(), vision_config=dict(IMAGE[2 - number]), projection_dim=9)
    model = randomise(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path / "model")
    ids, mask = sentences()
    vision = config.vision_config
    pixels = torch.randn(3, vision.num_channels, vision.image_size, vision.image_size, requires_grad=True)
    theirs = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    cotangent = torch.randn_like(theirs.logits_per_image)
    theirs.logits_per_image.backward(cotangent)
    ours = forward(succeeds, tmp_path, tmp_path / "model", {
        "input_ids": ids, "attention_mask": mask, "pixel_values": pixels.detach(), "grad.logits_per_image": cotangent})
    for name in ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        close(ours[name], getattr(theirs, name))
    close(ours["grad.pixel_values"], pixels.grad)
    # Each tower of the same folder on its own.
    with torch.no_grad():
        text = model.get_text_features(input_ids=ids, attention_mask=mask)
        image = model.get_image_features(pixel_values=pixels)
    ours = forward(succeeds, tmp_path, tmp_path / "model", {"input_ids": ids, "attention_mask": mask})
    close(ours["text_embeds"], text.pooler_output)
    ours = forward(succeeds, tmp_path, tmp_path / "model", {"pixel_values": pixels.detach()})
    close(ours["image_embeds"], image.pooler_output)


def test_configurations_of_early_checkpoints(succeeds, tmp_path):
    """They have the towers' sections twice; what stands under the longer names counts."""
    config = transformers.CLIPConfig(text_config=text_config(TEXT[1]).to_dict(), vision_config=transformers.CLIPVisionConfig(**IMAGE[0]).to_dict(), projection_dim=12)
    model = randomise(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model/config.json"
    written = json.loads(path.read_text())
    for part in ("text_config", "vision_config"):
        written[part + "_dict"] = written[part]
        written[part] = written[part] | {"hidden_act": "relu", "layer_norm_eps": 0.5, "num_hidden_layers": 1}
    path.write_text(json.dumps(written))
    inputs = {"pixel_values": torch.randn(2, 3, 32, 32), "input_ids": sentences()[0]}
    with torch.no_grad():
        theirs = transformers.CLIPModel.from_pretrained(tmp_path / "model").eval()(**inputs)
        close(model(**inputs).logits_per_image, theirs.logits_per_image)
    close(forward(succeeds, tmp_path, tmp_path / "model", inputs)["logits_per_image"], theirs.logits_per_image)


def test_a_model_without_its_text_tower_still_has_the_other(succeeds, fails, tmp_path):
    config = transformers.CLIPConfig(text_config=text_config(TEXT[0]).to_dict(), vision_config=dict(IMAGE[0]), projection_dim=9)
    model = randomise(transformers.CLIPForImageClassification(config))
    model.save_pretrained(tmp_path / "model")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = model.vision_model(pixels)
    close(forward(succeeds, tmp_path, tmp_path / "model", {"pixel_values": pixels})["pooler_output"], theirs.pooler_output)
    save_file({"input_ids": sentences()[0]}, tmp_path / "x.safetensors")
    message = fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
    assert "missing" in message and "text_model" in message


@pytest.mark.parametrize("change, part", [
    ({"vision_config": None}, "vision_config"),
    ({"vision_config": 3}, "vision_config"),
    ({"projection_dim": 0}, "projection_dim"),
    ({"projection_dim": 7}, "visual_projection.weight"),
])
def test_contradicting_configurations_are_refused(fails, tmp_path, change, part):
    config = transformers.CLIPConfig(text_config=text_config(TEXT[0]).to_dict(), vision_config=dict(IMAGE[0]), projection_dim=9)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    save_file({"pixel_values": torch.zeros(1, 3, 32, 32)}, tmp_path / "x.safetensors")
    assert part in fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")


@pytest.mark.parametrize("inputs, part", [
    ({"input_ids": torch.tensor([[1, 60]])}, "60"),
    ({"input_ids": torch.zeros(1, 17, dtype=torch.long)}, "17"),
    ({"input_ids": torch.zeros(1, 4, dtype=torch.long), "token_type_ids": torch.zeros(1, 4, dtype=torch.long)}, "token_type_ids"),
    ({"pixel_values": torch.zeros(1, 3, 32, 31)}, "[B, 3, 32, 32]"),
    ({"pixel_values": torch.zeros(1, 3, 32, 32), "inputs_embeds": torch.zeros(1, 4, 32)}, "input_ids"),
])
def test_wrong_inputs_are_refused(fails, tmp_path, inputs, part):
    config = transformers.CLIPConfig(text_config=text_config(TEXT[0]).to_dict(), vision_config=dict(IMAGE[0]), projection_dim=9)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "model")
    save_file(inputs, tmp_path / "x.safetensors")
    assert part in fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
