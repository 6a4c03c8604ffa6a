"""What the parity tests of models share: random weights that matter, a run of `mmtune forward`, and the tolerance."""

import torch
from safetensors.torch import load_file, save_file


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= 1e-4


def randomise(model):
    """Weights large enough that every part of the model matters, biases and norms included."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def forward(succeeds, tmp_path, folder, inputs):
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "x.safetensors")
    succeeds("forward", folder, "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
    return load_file(tmp_path / "y.safetensors")
