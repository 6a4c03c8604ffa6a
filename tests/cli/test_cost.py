"""`mmtune cost`: exact counts, the comparison of kinds, and a measured step."""

import json

import pytest

LAYERS, WIDTH, INNER, TOKENS = 2, 32, 64, 10


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("cost")
    transformers.BertModel(transformers.BertConfig(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=INNER,
                                                   vocab_size=20, max_position_embeddings=16), add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmno"]) + "\n")
    path = folder / "recipe.toml"
    path.write_text(f'[backbone]\nmain = "{folder}"\n[expert]\nmethod = "lora"\nrank = 3\n[data]\ntrain = "none.jsonl"\n')
    return path


def price(mmtune, recipe, *more):
    done = mmtune("cost", recipe, "--tokens", TOKENS, "--json", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["costs"]


def test_counts_equal_the_formulas(mmtune, recipe):
    cost = price(mmtune, recipe)[0]
    forward = LAYERS * (4 * TOKENS * WIDTH**2 + 2 * TOKENS**2 * WIDTH + 2 * TOKENS * WIDTH * INNER)
    lora = LAYERS * 2 * 3 * 2 * WIDTH
    assert cost["expert_parameters"] == lora
    assert cost["forward_macs"] == forward
    assert cost["expert_macs"] == TOKENS * lora
    assert cost["head_parameters"] == 2 * WIDTH + 2
    assert cost["training_macs"] == 2 * forward + 3 * TOKENS * lora + 3 * 2 * WIDTH
    assert cost["state_bytes"] == 16 * (lora + 2 * WIDTH + 2)


def test_kinds_are_compared(mmtune, recipe):
    costs = {cost["method"]: cost for cost in price(mmtune, recipe, "--compare", "prefix,adapter,linear,bitfit")}
    assert costs["linear"]["expert_parameters"] == 0
    assert costs["prefix"]["expert_parameters"] == 20 * LAYERS * 2 * WIDTH
    assert costs["prefix"]["expert_macs"] == LAYERS * 2 * TOKENS * 20 * WIDTH
    assert costs["adapter"]["expert_parameters"] == LAYERS * 2 * (2 * 64 * WIDTH + 64 + WIDTH)
    assert costs["bitfit"]["expert_macs"] == 0
    done = mmtune("cost", recipe, "--tokens", TOKENS, "--compare", "lora,linear")
    assert "lora" in done.stdout and "linear" in done.stdout


def test_a_measured_step(mmtune, recipe):
    step = price(mmtune, recipe, "--measure", "2", "--batch", "4", "train.accumulate=2")[0]["step"]
    assert step["steps"] == 2 and step["seconds"] > 0 and step["gemm_flops"] > 0 and step["peak_bytes"] > 1 << 20


def test_measured_passes_with_and_without_the_expert(mmtune, recipe):
    arguments = ["--measure", "2", "--batch", "4", "--inference"]
    step = price(mmtune, recipe, *arguments)[0]["step"]
    assert step["steps"] == 2 and abs(step["extra_seconds"]) < step["seconds"]
    assert "of it experts" in mmtune("cost", recipe, *arguments).stdout
    assert "extra_seconds" not in price(mmtune, recipe, "--measure", "1", "--batch", "4")[0]["step"]


def test_mistakes(mmtune, recipe):
    for arguments, part in ((["--tokens", "17"], "at most 16"), (["--compare", "lorra"], "did you mean"), (["--measure", "1", "--batch", "3", "train.accumulate=2"], "multiple of 2")):
        done = mmtune("cost", recipe, *arguments)
        assert done.returncode == 2 and part in done.stderr, done.stderr


def test_a_text_shorter_than_usual_by_default(mmtune, recipe):
    """The backbone has 16 positions, fewer than the 128 that are otherwise taken."""
    done = mmtune("cost", recipe, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] == 16


def test_stages_with_fewer_tokens_cost_less(mmtune, tmp_path):
    """Swin merges tokens between its stages: 64 and 16 rows of widths 16 and 32, and the map between them sees 16."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=4)
    transformers.SwinModel(config).save_pretrained(tmp_path / "swin")
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "swin")
    path = tmp_path / "recipe.toml"
    path.write_text(f'[backbone]\nmain = "{tmp_path}/swin"\n[expert]\nmethod = "lora"\nrank = 3\n[data]\ntrain = "none"\n')
    assert price(mmtune, path)[0]["expert_macs"] == 3 * 2 * (2 * 64 * 2 * 16 + 16 * 2 * 32)
    assert price(mmtune, path, "expert.targets=reduction")[0]["expert_macs"] == 3 * 16 * (4 * 16 + 2 * 16)
    adapters = price(mmtune, path, "--compare", "adapter")[0]["expert_macs"]
    assert adapters == 2 * 2 * 64 * (2 * 64 * 16 + 16 * 32)
