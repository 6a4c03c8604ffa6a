"""Swin by `mmtune forward` against transformers, on tiny random checkpoints of several shapes; prompts against a reference in torch."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from compare import close, forward, randomise  # noqa: E402

SWIN = {
    "plain": dict(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4),
    "window_is_the_map": dict(image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4),
    "padded_windows": dict(image_size=40, patch_size=2, embed_dim=12, depths=[1, 3], num_heads=[3, 2], window_size=3, hidden_act="gelu_new", mlp_ratio=2.5),
    "odd_maps": dict(image_size=30, patch_size=2, embed_dim=8, depths=[2, 2, 2], num_heads=[1, 2, 4], window_size=3, qkv_bias=False, layer_norm_eps=1e-3),
    "one_channel": dict(image_size=24, patch_size=4, embed_dim=8, depths=[2], num_heads=[4], window_size=2, num_channels=1),
    "absolute": dict(image_size=32, patch_size=4, embed_dim=8, depths=[2], num_heads=[4], window_size=4, use_absolute_embeddings=True),
}


def compare(succeeds, tmp_path, model, size):
    pixels = torch.randn(2, model.config.num_channels, *size, requires_grad=True)
    theirs = model(pixels)
    hidden, pooled = torch.randn_like(theirs.last_hidden_state), torch.randn_like(theirs.pooler_output)
    torch.autograd.backward([theirs.last_hidden_state, theirs.pooler_output], [hidden, pooled])
    ours = forward(succeeds, tmp_path, tmp_path / "model", {
        "pixel_values": pixels.detach(), "grad.last_hidden_state": hidden, "grad.pooler_output": pooled})
    close(ours["last_hidden_state"], theirs.last_hidden_state)
    close(ours["pooler_output"], theirs.pooler_output)
    close(ours["grad.pixel_values"], pixels.grad)


@pytest.mark.parametrize("name", SWIN)
def test_swin(succeeds, tmp_path, name):
    model = randomise(transformers.SwinModel(transformers.SwinConfig(**SWIN[name])))
    model.save_pretrained(tmp_path / "model")
    compare(succeeds, tmp_path, model, [SWIN[name]["image_size"]] * 2)


@pytest.mark.parametrize("size", [(33, 50), (47, 26), (61, 61)])
def test_pictures_of_other_sizes(succeeds, tmp_path, size):
    """No multiples of the patch, of the window or of two."""
    model = randomise(transformers.SwinModel(transformers.SwinConfig(**SWIN["odd_maps"])))
    model.save_pretrained(tmp_path / "model")
    compare(succeeds, tmp_path, model, size)


def test_task_checkpoint(succeeds, tmp_path):
    model = randomise(transformers.SwinForImageClassification(transformers.SwinConfig(**SWIN["plain"])))
    model.save_pretrained(tmp_path / "model")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = model.swin(pixels)
    close(forward(succeeds, tmp_path, tmp_path / "model", {"pixel_values": pixels})["last_hidden_state"], theirs.last_hidden_state)


def test_windows_larger_than_the_map(succeeds, tmp_path):
    """transformers cannot run these; a window of the map's size with the middle of the table is the same model."""
    shape = SWIN["window_is_the_map"] | dict(depths=[2], num_heads=[2])
    model = randomise(transformers.SwinModel(transformers.SwinConfig(**shape | dict(image_size=8))))
    model.save_pretrained(tmp_path / "model")
    file, config = tmp_path / "model" / "model.safetensors", tmp_path / "model" / "config.json"
    tensors = load_file(file)
    for name, table in tensors.items():
        if name.endswith("relative_position_bias_table"):
            middle = table.view(7, 7, -1)
            wide = torch.randn(13, 13, middle.shape[2])
            wide[3:10, 3:10] = middle
            tensors[name] = wide.flatten(0, 1)
    save_file(tensors, file)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"window_size": 7}))
    compare(succeeds, tmp_path, model, (8, 8))


class PromptedSwin:
    """A Swin with prompt rows in front of every window, window by window: the reference for prompts."""

    def __init__(self, tensors, config, tables):
        self.t, self.c, self.tables = tensors, config, tables

    def linear(self, x, name):
        return F.linear(x, self.t[name + ".weight"], self.t.get(name + ".bias"))

    def norm(self, x, name, eps):
        weight = self.t[name + ".weight"]
        return F.layer_norm(x, weight.shape, weight, self.t[name + ".bias"], eps)

    def attention(self, prompts, patches, base, heads, shift):
        """prompts [B, P, C], patches [B, H, W, C], H and W multiples of the window."""
        w, p = self.c.window_size, prompts.shape[1]
        height, width = patches.shape[1:3]
        offsets = [(i - k + w - 1) * (2 * w - 1) + j - m + w - 1 for i in range(w) for j in range(w) for k in range(w) for m in range(w)]
        table = self.t[f"{base}.relative_position_bias_table"][torch.tensor(offsets)].view(w * w, w * w, heads).permute(2, 0, 1)
        rolled = patches.roll((-shift, -shift), (1, 2))
        out, seen = torch.zeros_like(rolled), []
        for top in range(0, height, w):
            for left in range(0, width, w):
                x = torch.cat([prompts, rolled[:, top : top + w, left : left + w].flatten(1, 2)], 1)
                q, k, v = (self.linear(x, f"{base}.{part}").unflatten(-1, (heads, -1)).transpose(1, 2) for part in ("query", "key", "value"))
                scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
                scores[..., p:, p:] += table
                where = [(top + i, left + j) for i in range(w) for j in range(w)]
                sides = torch.tensor([[shift and (y >= height - shift), shift and (x >= width - shift)] for y, x in where])
                scores[..., p:, p:] -= 100.0 * (sides[:, None] != sides[None]).any(-1)
                y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
                seen.append(y[:, :p])
                out[:, top : top + w, left : left + w] = y[:, p:].unflatten(1, (w, w))
        return torch.stack(seen).mean(0), out.roll((shift, shift), (1, 2))

    def forward(self, patches, deep):
        prompts, number = None, 0
        for stage, depth in enumerate(self.c.depths):
            for block in range(depth):
                if deep or number == 0:
                    prompts = self.tables[number].expand(len(patches), -1, -1)
                number += 1
                base, eps = f"encoder.layers.{stage}.blocks.{block}", self.c.layer_norm_eps
                side, p = patches.shape[1:3], prompts.shape[1]
                x = torch.cat([prompts, patches.flatten(1, 2)], 1)
                normed = self.norm(x, f"{base}.layernorm_before", eps)
                shift = self.c.window_size // 2 if block % 2 and min(side) > self.c.window_size else 0
                front, back = self.attention(normed[:, :p], normed[:, p:].unflatten(1, side), f"{base}.attention.self", self.c.num_heads[stage], shift)
                x = x + self.linear(torch.cat([front, back.flatten(1, 2)], 1), f"{base}.attention.output.dense")
                inner = F.gelu(self.linear(self.norm(x, f"{base}.layernorm_after", eps), f"{base}.intermediate.dense"))
                x = x + self.linear(inner, f"{base}.output.dense")
                prompts, patches = x[:, :p], x[:, p:].unflatten(1, side)
            if stage + 1 < len(self.c.depths):
                base = f"encoder.layers.{stage}.downsample"
                merged = torch.cat([patches[:, row::2, column::2] for column in range(2) for row in range(2)], -1)
                prompts, patches = (self.linear(self.norm(x, f"{base}.norm", 1e-5), f"{base}.reduction") for x in (prompts.repeat(1, 1, 4), merged))
        return self.norm(patches.flatten(1, 2), "layernorm", self.c.layer_norm_eps)


@pytest.mark.parametrize("deep", [False, True])
def test_prompts(succeeds, tmp_path, deep):
    config = transformers.SwinConfig(**SWIN["plain"])
    model = randomise(transformers.SwinModel(config))
    model.save_pretrained(tmp_path / "model")
    names = [f"encoder.layers.{stage}.blocks.{block}" for stage in range(2) for block in range(2)]
    tables = [torch.randn(3, 8 << stage) for stage in range(2) for _ in range(2)]
    tensors = {f"base_model.model.{name}.prompt_embeddings": table for name, table in zip(names, tables, strict=True)}
    (tmp_path / "expert").mkdir()
    kind = "MMTUNE_DEEP_PROMPT" if deep else "MMTUNE_PROMPT"
    (tmp_path / "expert" / "adapter_config.json").write_text(json.dumps({"peft_type": kind, "num_virtual_tokens": 3}))
    save_file(tensors if deep else {"prompt_embeddings": tables[0]}, tmp_path / "expert" / "adapter_model.safetensors")
    pixels = torch.randn(2, 3, 32, 32)
    save_file({"pixel_values": pixels}, tmp_path / "x.safetensors")
    succeeds("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors",
             "--expert", tmp_path / "expert", "--any-backbone")
    with torch.no_grad():
        embedded = model.embeddings(pixels)[0].unflatten(1, (16, 16))
        expected = PromptedSwin(load_file(tmp_path / "model" / "model.safetensors"), config, tables).forward(embedded, deep)
    close(load_file(tmp_path / "y.safetensors")["last_hidden_state"], expected)


def test_prefixes_are_refused(fails, tmp_path):
    transformers.SwinModel(transformers.SwinConfig(**SWIN["plain"])).save_pretrained(tmp_path / "model")
    (tmp_path / "expert").mkdir()
    (tmp_path / "expert" / "adapter_config.json").write_text(json.dumps({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}))
    save_file({"prompt_embeddings": torch.zeros(3, 64)}, tmp_path / "expert" / "adapter_model.safetensors")
    save_file({"pixel_values": torch.zeros(1, 3, 32, 32)}, tmp_path / "x.safetensors")
    message = fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors",
                    "--expert", tmp_path / "expert", "--any-backbone")
    assert "layers of one width" in message and "swin" in message


@pytest.mark.parametrize("change, part", [
    ({"depths": [2]}, "num_heads"),
    ({"depths": []}, "depths"),
    ({"num_heads": [3, 4]}, "stage 0"),
    ({"window_size": 0}, "window_size"),
    ({"window_size": 5}, "relative_position_bias_table"),
    ({"mlp_ratio": -1.0}, "mlp_ratio"),
])
def test_contradicting_configurations_are_refused(fails, tmp_path, change, part):
    transformers.SwinModel(transformers.SwinConfig(**SWIN["plain"])).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    save_file({"pixel_values": torch.zeros(1, 3, 32, 32)}, tmp_path / "x.safetensors")
    assert part in fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
