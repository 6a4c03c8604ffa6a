"""BERT, ViT and CLIP encoders in a few lines of torch, with the seams that experts use: the reference for prefixes, prompts and adapters,
which transformers' own modules have no place for."""

import torch
import torch.nn.functional as F


CLIP = dict(layer="encoder.layers", attention="self_attn", query="q_proj", key="k_proj", value="v_proj", attention_output="self_attn",
            dense="self_attn.out_proj", intermediate="mlp.fc1", output="mlp.fc2", feed_forward="mlp", before="layer_norm1", after="layer_norm2")
NAMES = {
    "bert": dict(layer="encoder.layer", attention="attention.self", query="query", key="key", value="value", attention_output="attention.output",
                 dense="attention.output.dense", intermediate="intermediate.dense", output="output.dense", feed_forward="output"),
    "vit": dict(layer="encoder.layer", attention="attention.attention", query="query", key="key", value="value", attention_output="attention.output",
                dense="attention.output.dense", intermediate="intermediate.dense", output="output.dense", feed_forward="output",
                before="layernorm_before", after="layernorm_after", last="layernorm"),
    "clip_image": CLIP,
    "clip_text": CLIP | dict(last="final_layer_norm"),
}


class Encoder:
    """`tensors`: a checkpoint's tensors by name. `family`: "bert" (post-norm), "vit" and "clip_image" (pre-norm), "clip_text" (causal too)."""

    def __init__(self, tensors, family, layers, heads, eps):
        self.t, self.family, self.layers, self.heads, self.eps = tensors, family, layers, heads, eps

    def linear(self, x, name):
        return F.linear(x, self.t[name + ".weight"], self.t.get(name + ".bias"))

    def norm(self, x, name):
        weight = self.t[name + ".weight"]
        return F.layer_norm(x, (len(weight),), weight, self.t[name + ".bias"], self.eps)

    def activate(self, x):
        return x * torch.sigmoid(1.702 * x) if self.family.startswith("clip") else F.gelu(x)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attention(self, x, name, mask, prefix):
        q, k, v = (self.split(self.linear(x, f"{name}.{NAMES[self.family][part]}")) for part in ("query", "key", "value"))
        if prefix is not None:
            keys, values = prefix  # [P, H, d]
            k = torch.cat([keys.transpose(0, 1).expand(len(x), -1, -1, -1), k], 2)
            v = torch.cat([values.transpose(0, 1).expand(len(x), -1, -1, -1), v], 2)
            mask = F.pad(mask, (keys.shape[0], 0), value=True)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        if self.family == "clip_text":
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + scores.shape[-1] - scores.shape[-2])
            scores = scores.masked_fill(future, float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def forward(self, x, mask, prefix=None, adapter=None, prompts=None, deep=False):
        """x [B, T, D] embedded tokens, mask [B, T] bool. prefix(layer) -> rows, adapter(name, output) -> output, prompts(layer) -> [P, D]."""
        adapter = adapter or (lambda name, output: output)
        inserted = 0
        names = NAMES[self.family]
        for layer in range(self.layers):
            base = f"{names['layer']}.{layer}"
            if prompts is not None and (deep or layer == 0):
                rows = prompts(layer)
                x = torch.cat([x[:, :1], rows.expand(len(x), -1, -1), x[:, 1 + inserted :]], 1)
                if inserted == 0:
                    mask = torch.cat([mask[:, :1], torch.ones(len(x), len(rows), dtype=torch.bool), mask[:, 1:]], 1)
                inserted = len(rows)
            rows = prefix(layer) if prefix else None
            if self.family == "bert":
                attended = self.attention(x, f"{base}.attention.self", mask, rows)
                out = adapter(f"{base}.attention.output", self.linear(attended, f"{base}.attention.output.dense"))
                x = self.norm(out + x, f"{base}.attention.output.LayerNorm")
                inner = F.gelu(self.linear(x, f"{base}.intermediate.dense"))
                x = self.norm(adapter(f"{base}.output", self.linear(inner, f"{base}.output.dense")) + x, f"{base}.output.LayerNorm")
            else:
                attended = self.attention(self.norm(x, f"{base}.{names['before']}"), f"{base}.{names['attention']}", mask, rows)
                x = x + adapter(f"{base}.{names['attention_output']}", self.linear(attended, f"{base}.{names['dense']}"))
                inner = self.activate(self.linear(self.norm(x, f"{base}.{names['after']}"), f"{base}.{names['intermediate']}"))
                x = x + adapter(f"{base}.{names['feed_forward']}", self.linear(inner, f"{base}.{names['output']}"))
        if inserted:
            x = torch.cat([x[:, :1], x[:, 1 + inserted :]], 1)
        return self.norm(x, names["last"]) if "last" in names else x
