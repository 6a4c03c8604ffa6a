"""Wav2Vec2 against transformers: outputs and input gradients of both layouts, masks, checkpoints of tasks, and experts of PEFT's."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sounds import make_wav2vec2

LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
SHAPES = {
    "group": {},
    "layer": LAYER,
    "group, pre-norm": {"do_stable_layer_norm": True},
    "layer, post-norm": {"feat_extract_norm": "layer"},
    "group, biased": {"conv_bias": True},
    "odd kernels": {"num_conv_pos_embeddings": 7, "num_conv_pos_embedding_groups": 2, "conv_kernel": [7, 5, 3], "conv_stride": [3, 2, 2]},
    "strides as wide as kernels": {"conv_kernel": [4, 2, 2], "conv_stride": [4, 2, 2]},
    "strides wider than kernels": LAYER | {"conv_kernel": [3, 2, 2], "conv_stride": [4, 3, 2]},
    "one convolution": {"conv_dim": [20], "conv_kernel": [16], "conv_stride": [8]},
    "relu": {"hidden_act": "relu", "feat_extract_activation": "relu"},
    "another width": LAYER | {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40, "num_hidden_layers": 3},
}


@pytest.fixture
def forward(succeeds, tmp_path):
    def call(folder, *arguments, **inputs):
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "x.safetensors")
        succeeds("forward", folder, "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors", *arguments)
        return load_file(tmp_path / "y.safetensors")

    return call


def close(got, want, atol=1e-4, name=""):
    assert got.shape == want.shape, (name, got.shape, want.shape)
    assert torch.allclose(got, want.detach(), atol=atol, rtol=0), (name, (got - want).abs().max())


def waves(batch=3, samples=1600, seed=1):
    torch.manual_seed(seed)
    return torch.randn(batch, samples)


def mask_of(lengths, samples):
    return (torch.arange(samples)[None] < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_outputs(forward, tmp_path, shape, masked):
    model = make_wav2vec2(tmp_path / "model", **SHAPES[shape])
    inputs = {"input_values": waves()}
    if masked:
        inputs["attention_mask"] = mask_of([1600, 900, 311], 1600)
        inputs["input_values"] = inputs["input_values"] * inputs["attention_mask"]
    with torch.no_grad():
        want = model(**inputs)
    got = forward(tmp_path / "model", **inputs)
    assert sorted(got) == ["extract_features", "last_hidden_state"]
    close(got["last_hidden_state"], want.last_hidden_state, name="last_hidden_state")
    close(got["extract_features"], want.extract_features, name="extract_features")


@pytest.mark.parametrize("shape", ["group", "layer", "group, pre-norm", "odd kernels"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_input_gradients(forward, tmp_path, shape, masked):
    model = make_wav2vec2(tmp_path / "model", **SHAPES[shape])
    values = waves()
    extra = {"attention_mask": mask_of([1600, 900, 311], 1600)} if masked else {}
    values.requires_grad_(True)
    out = model(input_values=values, **extra).last_hidden_state
    torch.manual_seed(5)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    got = forward(tmp_path / "model", input_values=values.detach(), **extra,
                  **{"grad.last_hidden_state": weight})
    scale = values.grad.abs().max()
    close(got["grad.input_values"] / scale, values.grad / scale, name="gradient")
    close(got["last_hidden_state"], out, name="last_hidden_state")


@pytest.mark.parametrize("kind", ["Wav2Vec2ForCTC", "Wav2Vec2ForSequenceClassification", "Wav2Vec2ForPreTraining"])
def test_checkpoints_of_tasks(forward, succeeds, tmp_path, kind):
    changes = {"mask_time_prob": 0.05, "num_codevectors_per_group": 4, "codevector_dim": 8, "proj_codevector_dim": 8}
    model = make_wav2vec2(tmp_path / "model", kind=kind, **LAYER, **changes)
    values = waves(2)
    with torch.no_grad():
        want = model.wav2vec2(values).last_hidden_state
    close(forward(tmp_path / "model", input_values=values)["last_hidden_state"], want)
    assert "wav2vec2" in succeeds("inspect", tmp_path / "model")


def test_both_spellings_of_the_position_weights(forward, tmp_path):
    model = make_wav2vec2(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    base = "encoder.pos_conv_embed.conv."
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    newer = {base + new for new in names}
    found = newer & set(tensors) or {base + old for old in names.values()} & set(tensors)
    assert len(found) == 2
    values = waves(2)
    with torch.no_grad():
        want = model(values).last_hidden_state
    close(forward(tmp_path / "model", input_values=values)["last_hidden_state"], want)
    flip = {base + new: base + old for new, old in names.items()}
    if not newer & set(tensors):
        flip = {old: new for new, old in flip.items()}
    save_file({flip.get(name, name): tensor for name, tensor in tensors.items()}, file)
    close(forward(tmp_path / "model", input_values=values)["last_hidden_state"], want)


def test_half_precision_checkpoints(forward, tmp_path):
    model = make_wav2vec2(tmp_path / "model", **LAYER).half()
    model.save_pretrained(tmp_path / "model")
    values = waves(2)
    with torch.no_grad():
        want = model.float()(values).last_hidden_state
    close(forward(tmp_path / "model", input_values=values)["last_hidden_state"], want)


def peft_folder(tmp_path, model, config):
    import peft

    adapted = peft.get_peft_model(model, config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter) if "ia3" in name or "magnitude" in name else 0.3 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter")
    return adapted


def lora(**options):
    import peft

    return peft.LoraConfig(r=4, lora_alpha=8, **options)


def ia3(**options):
    import peft

    return peft.IA3Config(**options)


@pytest.mark.parametrize("shape", ["group", "layer"])
@pytest.mark.parametrize("make, options", [
    (lora, {"target_modules": ["q_proj", "v_proj"]}),
    (lora, {"target_modules": ["k_proj", "out_proj", "intermediate_dense", "output_dense"], "use_rslora": True}),
    (lora, {"target_modules": ["feature_projection.projection", "q_proj"], "use_dora": True}),
    (ia3, {"target_modules": ["k_proj", "v_proj", "output_dense"], "feedforward_modules": ["output_dense"]}),
], ids=["lora", "rslora", "dora", "ia3"])
def test_folders_of_peft(forward, tmp_path, shape, make, options):
    model = make_wav2vec2(tmp_path / "model", **SHAPES[shape])
    adapted = peft_folder(tmp_path, model, make(**options))
    inputs = {"input_values": waves(), "attention_mask": mask_of([1600, 900, 311], 1600)}
    with torch.no_grad():
        want = adapted(**inputs).last_hidden_state
    plain = forward(tmp_path / "model", **inputs)["last_hidden_state"]
    assert (plain - want).abs().max() > 1e-2
    got = forward(tmp_path / "model", "--expert", tmp_path / "adapter", "--any-backbone", **inputs)["last_hidden_state"]
    close(got, want)


@pytest.mark.parametrize("changes, part", [
    ({"feat_extract_norm": "batch"}, "feat_extract_norm"),
    ({"conv_stride": [5, 4]}, "differ in length"),
    ({"add_adapter": True}, "add_adapter"),
    ({"adapter_attn_dim": 4}, "adapter_attn_dim"),
    ({"num_attention_heads": 5}, "num_attention_heads"),
    ({"num_conv_pos_embedding_groups": 5}, "num_conv_pos_embedding_groups"),
    ({"conv_dim": [16, 16, 0]}, "conv_dim"),
    ({"conv_kernel": [10, 8, 2]}, "misshapen"),
    ({"feat_extract_norm": "layer"}, "missing"),
])
def test_configurations_that_do_not_fit_are_refused(fails, tmp_path, changes, part):
    make_wav2vec2(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    save_file({"input_values": waves()}, tmp_path / "x.safetensors")
    assert part in fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")


@pytest.mark.parametrize("inputs, part", [
    ({"attention_mask": torch.ones(1, 4).long()}, "input_values"),
    ({"input_values": torch.zeros(1, 20)}, "too short for the model: expected at least 85 samples, got 20"),
    ({"input_values": torch.zeros(2, 400), "attention_mask": mask_of([400, 84], 400)}, "attention_mask: the sound is too short"),
    ({"input_values": torch.zeros(2, 400), "attention_mask": torch.ones(2, 399).long()}, "wrong shape"),
    ({"input_values": torch.zeros(2, 400).double()}, "wrong dtype"),
    ({"input_values": torch.zeros(400)}, "wrong rank"),
    ({"pixel_values": torch.zeros(1, 3, 8, 8)}, "no such input"),
])
def test_inputs_that_do_not_fit_are_refused(fails, tmp_path, inputs, part):
    make_wav2vec2(tmp_path / "model")
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "x.safetensors")
    assert part in fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")


def base_macs(samples, kernels=(10, 3, 3, 3, 3, 2, 2), strides=(5, 2, 2, 2, 2, 2, 2)):
    """Wav2Vec2-base, by hand: multiply-accumulates of one sound's forward pass."""
    macs, channels, frames = 0, 1, samples
    for kernel, stride in zip(kernels, strides):
        frames = (frames - kernel) // stride + 1
        macs += frames * 512 * channels * kernel
        channels = 512
    macs += frames * 512 * 768  # feature projection
    macs += frames * 768 * (768 // 16) * 128  # positions
    macs += 12 * (frames * (4 * 768 * 768 + 2 * 768 * 3072) + 2 * frames * frames * 768)
    return macs


def test_cost_counts_the_convolutions(succeeds, tmp_path):
    folder = tmp_path / "base"
    with torch.device("meta"):
        model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config())
    # All weights are one number: the file is large, but sparse work for this test.
    folder.mkdir()
    model.config.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    save_file({name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[backbone]\nmain = "{folder}"\n[expert]\nmethod = "lora"\nrank = 8\n[data]\ntrain = "none.jsonl"\n')
    cost = json.loads(succeeds("cost", recipe, "--seconds", 4, "--json"))["costs"][0]
    forward_macs = base_macs(4 * 16000)
    assert cost["forward_macs"] == forward_macs
    frames = 199
    blocks = 12 * (frames * (4 * 768 * 768 + 2 * 768 * 3072) + 2 * frames * frames * 768)
    added = 12 * 2 * frames * 2 * 8 * 768
    assert cost["expert_macs"] == added
    # Gradients flow through the blocks alone; LoRA's own maps have two products backward, the head too.
    assert cost["training_macs"] == forward_macs + blocks + 3 * added + 3 * 768 * 2
    assert cost["backbone_parameters"] == sum(tensor.numel() for name, tensor in model.state_dict().items() if name != "masked_spec_embed")
    assert np.isfinite(cost["forward_macs"])
