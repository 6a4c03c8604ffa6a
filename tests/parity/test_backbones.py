"""`mmtune forward` against transformers, on tiny random checkpoints of several shapes: outputs, and gradients of the inputs."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from compare import check_input_gradients, close, forward, randomise  # noqa: E402

BERT = [
    dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=97),
    dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, vocab_size=50, hidden_act="gelu_new", type_vocab_size=3),
    dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=12, intermediate_size=96, vocab_size=30, hidden_act="relu", layer_norm_eps=1e-5),
]
VIT = [
    dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8),
    dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, image_size=30, patch_size=10, qkv_bias=False),
    dict(hidden_size=20, num_hidden_layers=1, num_attention_heads=5, intermediate_size=30, image_size=16, patch_size=4, hidden_act="gelu_pytorch_tanh", num_channels=1),
]


@pytest.mark.parametrize("shape", BERT)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("task_checkpoint", [False, True])
def test_bert(succeeds, tmp_path, shape, masked, task_checkpoint):
    config = transformers.BertConfig(max_position_embeddings=40, **shape)
    model = randomise(transformers.BertForSequenceClassification(config) if task_checkpoint else transformers.BertModel(config))
    model.save_pretrained(tmp_path / "model")
    encoder = model.bert if task_checkpoint else model
    ids = torch.randint(0, shape["vocab_size"], (3, 11))
    types = torch.randint(0, config.type_vocab_size, (3, 11))
    inputs = {"input_ids": ids, "token_type_ids": types}
    if masked:
        mask = torch.ones(3, 11, dtype=torch.long)
        mask[0, 7:] = 0
        mask[2, 1:] = 0
        mask[1, 4] = 0
        inputs["attention_mask"] = mask
    with torch.no_grad():
        theirs = encoder(**inputs)
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs)
    assert set(ours) == {"last_hidden_state", "pooler_output"}
    close(ours["last_hidden_state"], theirs.last_hidden_state)
    close(ours["pooler_output"], theirs.pooler_output)


@pytest.mark.parametrize("shape", BERT)
def test_bert_input_gradients(succeeds, tmp_path, shape):
    model = randomise(transformers.BertModel(transformers.BertConfig(max_position_embeddings=40, **shape)))
    check_input_gradients(succeeds, tmp_path, model)


@pytest.mark.parametrize("shape", VIT)
@pytest.mark.parametrize("pooler", [True, False])
def test_vit(succeeds, tmp_path, shape, pooler):
    config = transformers.ViTConfig(**shape)
    model = randomise(transformers.ViTModel(config, add_pooling_layer=pooler))
    model.save_pretrained(tmp_path / "model")
    pixels = torch.randn(3, config.num_channels, config.image_size, config.image_size, requires_grad=True)
    theirs = model(pixels)
    cotangent = torch.randn_like(theirs.last_hidden_state)
    theirs.last_hidden_state.backward(cotangent)
    ours = forward(succeeds, tmp_path, tmp_path / "model", {"pixel_values": pixels.detach(), "grad.last_hidden_state": cotangent})
    close(ours["last_hidden_state"], theirs.last_hidden_state.detach())
    close(ours["grad.pixel_values"], pixels.grad)
    assert ("pooler_output" in ours) == pooler
    if pooler:
        close(ours["pooler_output"], theirs.pooler_output.detach())


def test_half_precision_and_shards(succeeds, tmp_path):
    config = transformers.BertConfig(max_position_embeddings=40, **BERT[0])
    model = randomise(transformers.BertModel(config)).half()
    model.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    assert (tmp_path / "model" / "model.safetensors.index.json").exists()
    ids = torch.randint(0, 97, (2, 6))
    with torch.no_grad():
        theirs = model.float()(input_ids=ids)
    close(forward(succeeds, tmp_path, tmp_path / "model", {"input_ids": ids})["last_hidden_state"], theirs.last_hidden_state)


def test_missing_and_misshapen_tensors_are_all_named(fails, tmp_path):
    model = transformers.BertModel(transformers.BertConfig(max_position_embeddings=40, **BERT[0]))
    model.save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    tensors["encoder.layer.0.attention.self.query.weight"] = torch.zeros(3, 3)
    tensors["surplus"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    save_file({"input_ids": torch.zeros(1, 2, dtype=torch.long)}, tmp_path / "x.safetensors")
    message = fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
    for part in ("encoder.layer.1.output.dense.bias", "encoder.layer.0.attention.self.query.weight", "[32, 32]", "[3, 3]", "surplus"):
        assert part in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("inputs, part", [
    ({"input_ids": torch.tensor([[1, 999]])}, "999"),
    ({"pixel_values": torch.zeros(1, 3, 4, 4)}, "pixel_values"),
    ({"input_ids": torch.zeros(1, 41, dtype=torch.long)}, "41"),
    ({"input_ids": torch.zeros(1, 4)}, "integer"),
    ({"input_ids": torch.zeros(1, 4, dtype=torch.long), "attention_mask": torch.ones(1, 5, dtype=torch.long)}, "attention_mask"),
])
def test_wrong_inputs_are_refused(fails, tmp_path, inputs, part):
    transformers.BertModel(transformers.BertConfig(max_position_embeddings=40, **BERT[0])).save_pretrained(tmp_path / "model")
    save_file(inputs, tmp_path / "x.safetensors")
    assert part in fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
