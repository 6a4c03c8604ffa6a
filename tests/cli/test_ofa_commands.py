"""OFA from folders and from fairseq's files: forward, preprocess, inspect, cost, experts; held to the released code's numbers."""

import json

import pytest

from ofa_models import BINS, make_ofa, ofa_config, ofa_tensors, ported, write_tokenizer
from training_support import COLOURS, ROOT, mmtune, read_lines, sentence, write_recipe

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "pi-tuning"
CORPUS = [f"what does the image describe? a {c} box, {c}! which region does the text \" {c} \" describe?" for c in COLOURS for _ in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_ofa(tmp_path_factory.mktemp("ofa") / "tiny", CORPUS)


@pytest.fixture(scope="module")
def released():
    """A case of the released code: its tensors, and its configuration as config.json says it."""
    tensors = load_file(GOLDEN / "tiny_ofa_single_adapter.safetensors")
    case = json.loads((GOLDEN / "tiny_ofa_single_adapter.json").read_text())["config"]
    config = {"model_type": "ofa", "d_model": case["d_model"], "vocab_size": case["vocab"], "token_bucket_size": case["token_bucket_size"],
              "image_bucket_size": case["image_bucket_size"], "max_position_embeddings": 28}
    for side, layers in (("encoder", case["enc_layers"]), ("decoder", case["dec_layers"])):
        config |= {f"{side}_layers": layers, f"{side}_attention_heads": case["heads"], f"{side}_ffn_dim": case["ffn"]}
    return tensors, config, case


def weights_of(tensors):
    return {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("w.") and ".adapter" not in name}


def write_expert(folder, tensors, case):
    named = {}
    for name, tensor in tensors.items():
        if not name.startswith("w.") or ".adapter" not in name:
            continue
        ours = name[2:].replace(".adapter1.", ".self_attn.adapter.").replace(".adapter2.", ".fc2.adapter.")
        named["base_model.model." + ours] = tensor
    folder.mkdir()
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "MMTUNE_ADAPTER", "bottleneck": case["adapter_dim"], "activation": "relu", "learned_scale": False}))
    return folder


def named_inputs(path, tensors):
    save_file({"input_ids": tensors["in.src_tokens"], "patch_images": tensors["in.patch_images"],
               "patch_masks": tensors["in.patch_masks"].long(), "decoder_input_ids": tensors["in.prev_output_tokens"]}, path)
    return path


@pytest.mark.parametrize("layout", ["fairseq", "port", "sharded"])
def test_forward_equals_the_released_code(tmp_path, released, layout):
    tensors, config, case = released
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    weights = weights_of(tensors)
    if layout != "fairseq":
        weights = {ported(name): tensor for name, tensor in weights.items()}
    weights = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    if layout == "sharded":
        names = sorted(weights)
        shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, own in shards.items():
            save_file({name: weights[name] for name in own}, model / file)
        index = {name: file for file, own in shards.items() for name in own}
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    else:
        save_file(weights, model / "model.safetensors")
    expert = write_expert(tmp_path / "expert", tensors, case)
    inputs = named_inputs(tmp_path / "in.safetensors", tensors)
    mmtune("forward", model, "--inputs", inputs, "--out", tmp_path / "out.safetensors", "--expert", expert, "--any-backbone", check=0)
    out = load_file(tmp_path / "out.safetensors")
    assert (out["logits"] - tensors["out.logits"]).abs().max() < 2e-5
    reference = tensors["mid.encoder_out"].transpose(0, 1)
    there = tensors["mid.encoder_padding_mask"] == 0
    assert (out["encoder_last_hidden_state"] - reference)[there].abs().max() < 1e-5


def test_import_reads_fairseq(tmp_path, released):
    from argparse import Namespace

    tensors, _, case = released
    state = {name: tensor for name, tensor in weights_of(tensors).items()}
    state["encoder.token_rp_bucket"] = torch.zeros(3, 3, dtype=torch.long)
    state["encoder.version"] = torch.tensor([3.0])
    torch.save({"args": None, "cfg": {"model": Namespace(arch="ofa")}, "model": state, "optimizer_history": [], "last_optimizer_state": None},
               tmp_path / "ofa.pt")
    write_tokenizer(tmp_path / "bart", CORPUS)
    told = json.loads(mmtune("import", tmp_path / "ofa.pt", "--tokenizer", tmp_path / "bart", "--out", tmp_path / "model", "--json", check=0).stdout)
    assert told["architecture"] == "ofa"
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["d_model"] == case["d_model"] and config["encoder_layers"] == case["enc_layers"]
    assert config["encoder_attention_heads"] == case["heads"] and config["image_bucket_size"] == case["image_bucket_size"]
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert "encoder.token_rp_bucket" not in stored and "decoder.output_projection.weight" not in stored
    assert json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())["tokenizer_class"] == "OFATokenizer"
    expert = write_expert(tmp_path / "expert", tensors, case)
    inputs = named_inputs(tmp_path / "in.safetensors", tensors)
    mmtune("forward", tmp_path / "model", "--inputs", inputs, "--out", tmp_path / "out.safetensors", "--expert", expert, "--any-backbone", check=0)
    assert (load_file(tmp_path / "out.safetensors")["logits"] - tensors["out.logits"]).abs().max() < 2e-5
    # A tokenizer without the two files cannot be OFA's.
    (tmp_path / "none").mkdir()
    assert "merges.txt" in mmtune("import", tmp_path / "ofa.pt", "--tokenizer", tmp_path / "none", "--out", tmp_path / "other", check=1).stderr
    assert not (tmp_path / "other").exists()


def test_the_tokenizer_has_places_and_codes(tmp_path, folder):
    from tokenizers import AddedToken, ByteLevelBPETokenizer

    mmtune("preprocess", folder, "--text", " which region is <bin_3><bin_999>?", "--out", tmp_path / "x.safetensors", check=0)
    ids = load_file(tmp_path / "x.safetensors")["input_ids"][0].tolist()
    vocabulary = json.loads((folder / "vocab.json").read_text())
    peer = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    first = len(vocabulary) + 4
    peer.add_tokens([AddedToken(f"<code_{i}>") for i in range(4)] + [AddedToken(f"<bin_{i}>", normalized=False) for i in range(BINS)])
    assert ids == [0, *peer.encode(" which region is <bin_3><bin_999>?").ids, 2]
    assert first + 3 in ids and first + 999 in ids


def test_pictures_are_squares_from_minus_one_to_one(tmp_path, folder):
    from PIL import Image

    Image.new("RGB", (50, 20), (255, 0, 127)).save(tmp_path / "a.png")
    mmtune("preprocess", folder, "--image", tmp_path / "a.png", "--out", tmp_path / "x.safetensors", check=0)
    pixels = load_file(tmp_path / "x.safetensors")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.allclose(pixels[0, :, 3, 3], torch.tensor([1.0, -1.0, 127 / 127.5 - 1]), atol=1e-5)
    # A folder that says nothing has OFA's own processing.
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_text((folder / "config.json").read_text())
    mmtune("preprocess", plain, "--image", tmp_path / "a.png", "--out", tmp_path / "y.safetensors", check=0)
    assert load_file(tmp_path / "y.safetensors")["pixel_values"].shape == (1, 3, 480, 480)


def test_inspect_and_cost(tmp_path, folder):
    told = json.loads(mmtune("inspect", folder, "--json", check=0).stdout)
    assert told["config"]["model_type"] == "ofa"
    recipe = write_recipe(tmp_path / "r.toml", task="caption", backbone={"main": folder},
                          expert={"method": "adapter", "bottleneck": 4}, data={"train": "x.jsonl"})
    cost = json.loads(mmtune("cost", recipe, "--tokens", 8, "--patches", 4, "--batch", 2, "--measure", 1, "--json", check=0).stdout)["costs"][0]
    d, m, layers = 32, 4, 4
    assert cost["expert_parameters"] == 2 * layers * (2 * d * m + m + d)


@pytest.mark.parametrize("name, tensor, message", [
    ("input_ids", torch.zeros(2, 3, dtype=torch.float32), "dtype"),
    ("input_ids", torch.full((2, 3), 99999), "vocabulary"),
    ("patch_images", torch.zeros(1, 3, 32, 32), "patch_images"),
    ("patch_masks", torch.ones(3, dtype=torch.long), "patch_masks"),
    ("decoder_input_ids", torch.zeros(3, 2, dtype=torch.long), "decoder_input_ids"),
    ("pixel_values", torch.zeros(2, 3, 32, 32), "pixel_values"),
    ("patch_images", torch.zeros(2, 3, 256, 32), "patches"),
])
def test_forward_refuses(tmp_path, folder, name, tensor, message):
    inputs = {"input_ids": torch.tensor([[0, 9, 2], [0, 8, 2]]), "patch_images": torch.zeros(2, 3, 32, 32)} | {name: tensor}
    save_file(inputs, tmp_path / "in.safetensors")
    assert message in mmtune("forward", folder, "--inputs", tmp_path / "in.safetensors", "--out", tmp_path / "out", check=1).stderr


def test_a_config_of_another_model_is_refused(tmp_path):
    write_tokenizer(tmp_path, CORPUS)
    save_file({name: tensor.clone() for name, tensor in ofa_tensors(40).items()}, tmp_path / "model.safetensors")
    save_file({"input_ids": torch.tensor([[0, 2]])}, tmp_path / "in.safetensors")

    def stderr(**changes):
        (tmp_path / "config.json").write_text(json.dumps(ofa_config(40, **changes)))
        return mmtune("forward", tmp_path, "--inputs", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors").stderr

    assert "error" not in stderr()
    assert "scale_embedding" in stderr(scale_embedding=True)
    assert "resnet_type" in stderr(resnet_type="resnet18")
    assert "attn_scale_factor" in stderr(attn_scale_factor=1.0)
    assert "heads" in stderr(decoder_attention_heads=4)
    assert "embed_tokens" in stderr(vocab_size=41)
