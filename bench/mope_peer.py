"""MoPE's equations in plain PyTorch on transformers' checkpoints: training steps on random pairs of a picture and a text, in this process.

Written for bench/mope.py. Prompts are repeated for every window, projections are made where their results are used, and nothing of the frozen
towers gets a weight gradient. Prints one JSON object: median seconds a step, peak memory, trainable parameters.
"""

import argparse
import json
import math
import resource
import time

import torch
import torch.nn.functional as F
import transformers

parser = argparse.ArgumentParser()
parser.add_argument("swin")
parser.add_argument("bert")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--tokens", type=int, default=128)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--experts", type=int, default=4)
parser.add_argument("--length", type=int, default=6)
parser.add_argument("--text-length", type=int, default=4)
parser.add_argument("--classes", type=int, default=23)
options = parser.parse_args()
torch.set_num_threads(options.threads)
torch.manual_seed(1)
ROUTER_MAIN, ROUTER_CROSS, MAPPER, TEMPERATURE, DROPOUT = 2, 8, 384, 0.1, 0.1


class TextTower(torch.nn.Module):
    """BERT with prompts behind the class token, new in every layer; the class token's last state [B, 768]."""

    def __init__(self):
        super().__init__()
        self.bert = transformers.BertModel.from_pretrained(options.bert, add_pooling_layer=False).eval().requires_grad_(False)
        config = self.bert.config
        self.prompts = torch.nn.Parameter(torch.empty(config.num_hidden_layers, options.text_length, config.hidden_size).uniform_(-0.3, 0.3))

    def forward(self, ids):
        hidden = self.bert.embeddings(input_ids=ids)
        for layer, prompt in zip(self.bert.encoder.layer, self.prompts):
            prompt = F.dropout(prompt.expand(len(ids), -1, -1), DROPOUT)
            hidden = layer(torch.cat([hidden[:, :1], prompt, hidden[:, 1:]], 1))
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            hidden = torch.cat([hidden[:, :1], hidden[:, 1 + options.text_length:]], 1)
        return hidden[:, 0]


class Router(torch.nn.Module):
    def __init__(self, width, text_width):
        super().__init__()
        self.main, self.cross = torch.nn.Linear(width, ROUTER_MAIN), torch.nn.Linear(text_width, ROUTER_CROSS)
        keys = torch.empty(ROUTER_MAIN + ROUTER_CROSS, options.experts)
        self.register_buffer("keys", torch.nn.init.orthogonal_(keys))

    def forward(self, tokens, y):
        query = torch.cat([self.main(tokens.mean(1)), self.cross(y)], 1)
        logits = query @ self.keys / TEMPERATURE
        return (logits + torch.randn_like(logits) / 256).softmax(-1)


class Mope(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.text = TextTower()
        self.swin = transformers.SwinModel.from_pretrained(options.swin, add_pooling_layer=False).eval().requires_grad_(False)
        config, text_width, length = self.swin.config, self.text.bert.config.hidden_size, options.length
        widths = [config.embed_dim * 2 ** i for i in range(len(config.depths))]
        bound = math.sqrt(6 / (3 * config.patch_size ** 2 + widths[0]))
        uniform = lambda *shape: torch.nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
        self.input_prompts = uniform(1, 2 * length + 1, widths[0])
        self.static = torch.nn.ParameterList([uniform(depth - 1, length, width) for depth, width in zip(config.depths, widths)])
        self.experts = torch.nn.ParameterList([uniform(options.experts, depth - 1, length, width) for depth, width in zip(config.depths, widths)])
        self.routers = torch.nn.ModuleList(
            [torch.nn.ModuleList([Router(width, text_width) for _ in range(depth - 1)]) for depth, width in zip(config.depths, widths)])
        self.mapper, self.norm = torch.nn.Linear(text_width, MAPPER), torch.nn.BatchNorm1d(MAPPER).eval()
        self.stage_maps = torch.nn.ModuleList([torch.nn.Linear(MAPPER, width) for width in widths])
        self.head = torch.nn.Linear(widths[-1], options.classes)

    def attend(self, block, x, prompts, side, shift):
        """Attention of the patches [B, HW, C] and prompts [B, P, C], both normalised; the prompts' results are means over the windows."""
        inner, window = block.attention, min(self.swin.config.window_size, side)
        batch, _, width = x.shape
        x = x.view(batch, side, side, width)
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        count = side // window
        x = x.view(batch, count, window, count, window, width).permute(0, 1, 3, 2, 4, 5).reshape(batch * count * count, window * window, width)
        tokens = torch.cat([prompts.repeat_interleave(count * count, 0), x], 1)
        heads = width // inner.head_dim
        split = lambda z: z.view(len(z), -1, heads, width // heads).transpose(1, 2)
        q, k, v = split(inner.q_proj(tokens)), split(inner.k_proj(tokens)), split(inner.v_proj(tokens))
        size, first = tokens.shape[1], prompts.shape[1]
        place = inner.relative_position_bias
        bias = place.relative_position_bias_table[place.relative_position_index].view(window * window, window * window, heads).permute(2, 0, 1)
        bias = F.pad(bias, (first, 0, first, 0)).unsqueeze(0)
        if shift:
            region = torch.zeros(side, side)
            edges = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
            for number, (rows, columns) in enumerate((r, c) for r in edges for c in edges):
                region[rows, columns] = number
            region = region.view(count, window, count, window).transpose(1, 2).reshape(count * count, window * window)
            mask = (region.unsqueeze(1) != region.unsqueeze(2)).float() * -100.0
            bias = bias + F.pad(mask, (first, 0, first, 0)).unsqueeze(1).repeat(batch, 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(len(tokens), heads, size, size))
        out = inner.o_proj(out.transpose(1, 2).reshape(len(tokens), size, width))
        prompts = out[:, :first].view(batch, count * count, first, width).mean(1)
        x = out[:, first:].view(batch, count, count, window, window, width).permute(0, 1, 3, 2, 4, 5).reshape(batch, side, side, width)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return torch.cat([prompts, x.reshape(batch, side * side, width)], 1)

    def forward(self, pixels, ids, labels):
        y, swin = self.text(ids), self.swin
        mapped = F.gelu(self.norm(self.mapper(y)))
        x = swin.embeddings(pixels)
        x = x[0] if isinstance(x, tuple) else x
        batch, first = len(pixels), 2 * options.length + 1
        x = torch.cat([F.dropout(self.input_prompts.expand(batch, -1, -1), DROPOUT), x], 1)
        importance = []
        for i, stage in enumerate(swin.encoder.layers):
            token = F.dropout(F.gelu(self.stage_maps[i](mapped)), DROPOUT).unsqueeze(1)
            side = math.isqrt(x.shape[1] - first)
            for j, block in enumerate(stage.blocks):
                if j:
                    scores = self.routers[i][j - 1](x, y)
                    used = scores.sum(0)
                    spread = (used.std() / used.mean()) ** 2
                    importance.append(torch.where(spread > 0.1, spread, 0.0))
                    dynamic = torch.einsum("bk,klc->blc", scores, self.experts[i][:, j - 1])
                    x = torch.cat([self.static[i][j - 1].expand(batch, -1, -1), dynamic, token, x[:, first:]], 1)
                normed = block.layernorm_before(x)
                shift = swin.config.window_size // 2 if j % 2 and side > swin.config.window_size else 0
                x = x + self.attend(block, normed[:, first:], normed[:, :first], side, shift)
                x = x + block.mlp(block.layernorm_after(x))
            if stage.downsample is not None:
                prompts, patches = x[:, :first], x[:, first:].view(batch, side, side, -1)
                patches = torch.cat([patches[:, r::2, c::2] for c in (0, 1) for r in (0, 1)], -1).flatten(1, 2)
                x = stage.downsample.reduction(stage.downsample.norm(torch.cat([prompts.repeat(1, 1, 4), patches], 1)))
        features = swin.layernorm(x).mean(1)
        return F.cross_entropy(self.head(features), labels) + 0.01 * torch.stack(importance).mean()


model = Mope()
side = model.swin.config.image_size
pixels, ids = torch.randn(options.batch, 3, side, side), torch.randint(0, 8, (options.batch, options.tokens))
labels = torch.zeros(options.batch, dtype=torch.long)
trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimiser = torch.optim.AdamW(trainable, lr=4e-4, weight_decay=1e-3, fused=True)
seconds = []
for step in range(options.steps + 2):
    start = time.perf_counter()
    optimiser.zero_grad()
    model(pixels, ids, labels).backward()
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    optimiser.step()
    if step >= 2:
        seconds.append(time.perf_counter() - start)
print(json.dumps({
    "seconds": sorted(seconds)[len(seconds) // 2],
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "trainable": sum(parameter.numel() for parameter in trainable),
}))
