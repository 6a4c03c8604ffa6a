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


def check_input_gradients(succeeds, tmp_path, model):
    """A text encoder's hidden state from embeddings, one text padded, and the gradients of the embeddings."""
    model.save_pretrained(tmp_path / "model")
    embeds = torch.randn(2, 9, model.config.hidden_size, requires_grad=True)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    theirs = model(inputs_embeds=embeds, attention_mask=mask)
    hidden, pooled = torch.randn_like(theirs.last_hidden_state), torch.randn_like(theirs.pooler_output)
    torch.autograd.backward([theirs.last_hidden_state, theirs.pooler_output], [hidden, pooled])
    ours = forward(succeeds, tmp_path, tmp_path / "model", {
        "inputs_embeds": embeds.detach(), "attention_mask": mask, "grad.last_hidden_state": hidden, "grad.pooler_output": pooled})
    close(ours["last_hidden_state"], theirs.last_hidden_state.detach())
    close(ours["grad.inputs_embeds"], embeds.grad)
