"""BlindPrompt and PMF against plain PyTorch versions of the same equations on transformers' models, and what they refuse."""

import json

import pytest
from test_mope import make_pairs, recipe_of
from training_support import make_image_model, make_text_model, mmtune, read_lines, trained_files


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusion")
    make_text_model(folder / "bert", layers=3)
    make_image_model(folder / "vit", seed=1, layers=4, width=16)
    make_pairs(folder / "pairs", 24, 1)
    make_pairs(folder / "lacking", 24, 2, picture_share=0.6)
    return folder


TOKEN = {"static_prompt": False, "dynamic_prompt": False, "deep": False, "mapper": "linear"}


class Reference:
    """Both models, with access to what enters their blocks."""

    def __init__(self, world):
        import torch
        from transformers import BertModel, ViTImageProcessor, ViTModel

        self.torch = torch
        self.bert = BertModel.from_pretrained(world / "bert", attn_implementation="eager").eval()
        self.vit = ViTModel.from_pretrained(world / "vit", attn_implementation="eager", add_pooling_layer=False).eval()
        self.processor = ViTImageProcessor.from_pretrained(world / "vit")
        words = (world / "bert" / "vocab.txt").read_text().split()
        self.numbers = {word: i for i, word in enumerate(words)}
        self.folder = world / "pairs"

    def layers(self, model):
        return next(m for m in model.modules() if isinstance(m, self.torch.nn.ModuleList))

    def text(self, row):
        ids = [self.numbers[word] for word in ["[CLS]", *row["text"].split(), "[SEP]"]]
        return self.bert.embeddings(self.torch.tensor([ids]))

    def picture(self, row):
        from PIL import Image

        return self.vit.embeddings(self.processor(Image.open(self.folder / row["image"]).convert("RGB"), return_tensors="pt")["pixel_values"])

    def run(self, layer, x, mask=None):
        out = layer(x, attention_mask=mask) if mask is not None else layer(x)
        return out[0] if isinstance(out, tuple) else out


def tensors(path):
    from safetensors.torch import load_file

    return {name.removeprefix("base_model.model."): tensor for name, tensor in load_file(path).items()}


def scores(run, data):
    answers = [json.loads(line) for line in mmtune("predict", run, "--data", data, "--top", 2, check=0).stdout.splitlines()]
    return [{one["label"]: one["score"] for one in answer["top"]} for answer in answers]


def compare(world, run, logits_of):
    import torch

    head = tensors(run / "head.safetensors")
    classes = json.loads((run / "run.json").read_text())["task"]["classes"]
    with torch.no_grad():
        for row, ours in zip(read_lines(world / "pairs" / "manifest.jsonl"), scores(run, world / "pairs" / "manifest.jsonl"), strict=True):
            expected = torch.softmax(logits_of(row) @ head["weight"].T + head["bias"], -1).flatten()
            for i, name in enumerate(classes):
                assert ours[name] == pytest.approx(expected[i].item(), abs=2e-5)


def test_blind_prompts_are_attention_with_a_mask(world, tmp_path):
    import torch

    recipe = recipe_of(world, tmp_path / "r.toml", expert=TOKEN, others=[{"method": "blind_prompt", "tower": "main", "length": 3, "init_std": 0.5}],
                       backbone={"condition_pooling": "mean"}, train={"epochs": 1})
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    model = Reference(world)
    token, blind = tensors(run / "expert" / "main-mope" / "adapter_model.safetensors"), tensors(
        run / "expert" / "main-blind_prompt" / "adapter_model.safetensors")["prompt_embeddings"]

    def feature(row):
        y = model.picture(row)
        for layer in model.layers(model.vit):
            y = model.run(layer, y)
        y = model.vit.layernorm(y).mean(1)
        mapped = torch.nn.functional.gelu(y @ token["mapper.projection.weight"][:32].T + token["mapper.projection.bias"][:32])
        x = model.text(row)
        x = torch.cat([x[:, :1], mapped.unsqueeze(1), x[:, 1:], blind.unsqueeze(0)], 1)
        mask = torch.zeros(x.shape[1], x.shape[1])
        mask[-3:, :-3] = -1e9  # the prompts see themselves; all the others see everything
        for layer in model.layers(model.bert):
            x = model.run(layer, x, mask[None, None])
        return torch.cat([x[:, :1], x[:, 2:-3]], 1).mean(1)

    compare(world, run, feature)


def test_blind_prompts_with_gradient_checkpointing(world, tmp_path):
    import torch

    recipe = recipe_of(world, tmp_path / "r.toml", expert={"method": "blind_prompt", "tower": "main", "length": 3, "init_std": 0.5}, train={"epochs": 1})
    text = "\n".join(line for line in recipe.read_text().splitlines() if not line.startswith(("experts", "prompt_length", "mapper_width")))
    recipe.write_text(text)
    mmtune("train", recipe, "--out", tmp_path / "plain", check=0)
    mmtune("train", recipe, "train.checkpointing=true", "--out", tmp_path / "again", check=0)
    one, other = (tensors(tmp_path / name / "expert" / "adapter_model.safetensors")["prompt_embeddings"] for name in ("plain", "again"))
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(one, torch.zeros_like(one))


def pmf_recipe(world, path, main="bert", condition="vit", **changes):
    recipe = recipe_of(world, path, backbone={"main": world / main, "condition": world / condition}, train={"epochs": 1, "lr": 3e-2, **changes.pop("train", {})},
                       expert={"method": "pmf", "length": 2, "layers": 2, "map_width": 6, "init_std": 0.4}, **changes)
    text = "\n".join(line for line in recipe.read_text().splitlines() if not line.startswith(("experts", "prompt_length", "mapper_width")))
    recipe.write_text(text)
    return recipe


@pytest.mark.parametrize("main", ["bert", "vit"])
def test_pmf_is_its_equations(world, tmp_path, main):
    import torch

    run = tmp_path / "run"
    mmtune("train", pmf_recipe(world, tmp_path / "r.toml", main, "vit" if main == "bert" else "bert"), "--out", run, check=0)
    learned = tensors(run / "expert" / "adapter_model.safetensors")
    model = Reference(world)
    towers = {"bert": (model.text, model.layers(model.bert), lambda x: x), "vit": (model.picture, model.layers(model.vit), model.vit.layernorm)}

    def message(layer, x, own):
        prompts = torch.cat([own["query_context"], own["query"]]).unsqueeze(0)
        answers = model.run(layer, torch.cat([x, prompts], 1))[:, -2:]
        hidden = torch.nn.functional.gelu(answers @ own["map.0.weight"].T + own["map.0.bias"])
        return hidden @ own["map.2.weight"].T + own["map.2.bias"]

    def fused(layer, x, own, news):
        return model.run(layer, torch.cat([x, own["fusion_context"].unsqueeze(0), news], 1))[:, :x.shape[1]]

    def feature(row):
        sides = [main, "vit" if main == "bert" else "bert"]
        x = [towers[side][0](row) for side in sides]
        blocks = [list(towers[side][1]) for side in sides]
        for i, layers in enumerate(blocks):
            for layer in layers[:-2]:
                x[i] = model.run(layer, x[i])
        for step in (-2, -1):
            prefix = f"encoder.layer.{len(blocks[0]) + step}."
            own = [{name.removeprefix(prefix + side): t for name, t in learned.items() if name.startswith(prefix + side)} for side in ("main.", "other.")]
            pair = [blocks[0][step], blocks[1][step]]
            news = [message(pair[i], x[i], own[i]) for i in (0, 1)]
            x = [fused(pair[i], x[i], own[i], news[1 - i]) for i in (0, 1)]
        pooled = [towers[side][2](x[i]) for i, side in enumerate(sides)]
        return torch.cat([rows.mean(1) if side == "bert" else rows[:, 0] for side, rows in zip(sides, pooled)], 1)

    compare(world, run, feature)


def test_pmf_learns_from_both_and_resumes(world, tmp_path):
    recipe = pmf_recipe(world, tmp_path / "r.toml", train={"epochs": 3})
    mmtune("train", recipe, "--out", tmp_path / "a", check=0)
    mmtune("train", recipe, "--out", tmp_path / "b", "train.packing=padded", check=0)
    mmtune("train", recipe, "--out", tmp_path / "c", check=0)
    assert trained_files(tmp_path / "a") == trained_files(tmp_path / "c")
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    # A side of width D beside one of width E, in 2 blocks: 3 roles of 2 prompts, and a map over 6 hidden values.
    expected = 2 * (3 * 2 * (32 + 16) + 2 * (6 * (32 + 16) + 6) + 32 + 16)
    assert record["experts"][0]["parameters"] == expected
    json.loads(mmtune("cost", recipe, "--json", check=0).stdout)


def test_pmf_refusals(world, tmp_path):
    recipe = pmf_recipe(world, tmp_path / "r.toml")

    def refused(*changes, code=2):
        done = mmtune("train", recipe, "--out", tmp_path / "x", *changes, check=code)
        assert done.stderr.count("mmtune: error: ") == 1
        return done.stderr

    assert "backbone.condition" in refused("backbone.condition=")
    assert "more layers are to be fused" in refused("expert.0.layers=4")
    assert "lacks what the tower" in refused(f"data.train={world / 'lacking' / 'manifest.jsonl'}", code=1)
    both = pmf_recipe(world, tmp_path / "both.toml", others=[{"method": "prompt", "tower": "condition", "length": 2}])
    done = mmtune("train", both, "--out", tmp_path / "y", check=2)
    assert "another prompt is attached" in done.stderr
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    make_image_model(tmp_path / "other", seed=9, layers=4, width=16)
    done = mmtune("eval", tmp_path / "run", f"backbone.condition={tmp_path / 'other'}", "--data", world / "pairs" / "manifest.jsonl", check=1)
    assert "another conditioning backbone" in done.stderr and '"vit"' in done.stderr and '"other"' in done.stderr
