"""LLaMA, OPT and T5 against transformers: logits, last hidden states and gradients of the inputs, padded on either side."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from compare import forward, randomise  # noqa: E402

LLAMA = [
    dict(hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, vocab_size=61),
    dict(hidden_size=48, intermediate_size=40, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, vocab_size=40, rms_norm_eps=1e-5,
         rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, tie_word_embeddings=True),
    dict(hidden_size=40, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1, head_dim=6, vocab_size=33,
         attention_bias=True, mlp_bias=True, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    dict(hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=2, vocab_size=61,
         rope_parameters={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 32, "rope_theta": 1000.0}),
]
OPT = [
    dict(hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=61, word_embed_proj_dim=32),
    dict(hidden_size=40, ffn_dim=48, num_hidden_layers=3, num_attention_heads=2, vocab_size=50, word_embed_proj_dim=16, do_layer_norm_before=False),
    dict(hidden_size=24, ffn_dim=48, num_hidden_layers=1, num_attention_heads=3, vocab_size=30, word_embed_proj_dim=24, activation_function="gelu",
         enable_bias=False, tie_word_embeddings=False),
]
T5 = [
    dict(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=61),
    dict(d_model=24, d_kv=10, d_ff=40, num_layers=1, num_decoder_layers=3, num_heads=3, vocab_size=50, feed_forward_proj="gated-gelu",
         tie_word_embeddings=False, relative_attention_num_buckets=8, relative_attention_max_distance=12),
    dict(d_model=40, d_kv=8, d_ff=56, num_layers=2, num_heads=2, vocab_size=33, feed_forward_proj="gated-silu", layer_norm_epsilon=1e-5),
]


def mask_of(padding, batch=3, length=11):
    mask = torch.ones(batch, length, dtype=torch.long)
    if padding == "right":
        mask[0, 7:] = 0
        mask[2, 1:] = 0
    if padding == "left":
        mask[0, :4] = 0
        mask[2, :10] = 0
    return mask


def same(ours, theirs, mask=None):
    """At visible places: what stands at the others means nothing."""
    assert ours.shape == theirs.shape
    there = torch.ones(ours.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
    assert (ours - theirs)[there].abs().max().item() <= 1e-4 * max(1.0, theirs[there].abs().max().item())


def make(maker, config, folder):
    torch.manual_seed(11)
    model = randomise(maker(config))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("family, shape", [("Llama", s) for s in LLAMA] + [("OPT", s) for s in OPT])
def test_decoders(succeeds, tmp_path, family, shape, padding):
    config = getattr(transformers, family + "Config")(**shape, max_position_embeddings=40, attn_implementation="eager")
    model = make(getattr(transformers, family + "ForCausalLM"), config, tmp_path / "model")
    ids, mask = torch.randint(0, config.vocab_size, (3, 11)), mask_of(padding)
    inputs = {"input_ids": ids} if padding == "none" else {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        body = model.model(**inputs).last_hidden_state
        logits = model(**inputs).logits
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs)
    assert set(ours) == {"last_hidden_state", "logits"}
    same(ours["last_hidden_state"], body, mask)
    same(ours["logits"], logits, mask)


@pytest.mark.parametrize("family, shape", [("Llama", s) for s in LLAMA] + [("OPT", s) for s in OPT])
def test_decoder_gradients(succeeds, tmp_path, family, shape):
    config = getattr(transformers, family + "Config")(**shape, max_position_embeddings=40, attn_implementation="eager")
    model = make(getattr(transformers, family + "ForCausalLM"), config, tmp_path / "model")
    embeds = torch.randn(3, 11, model.get_input_embeddings().weight.shape[1], requires_grad=True)
    mask = mask_of("left")
    logits = model(inputs_embeds=embeds, attention_mask=mask).logits
    cotangent = torch.randn_like(logits) * mask.unsqueeze(2)
    logits.backward(cotangent)
    ours = forward(succeeds, tmp_path, tmp_path / "model", {"inputs_embeds": embeds.detach(), "attention_mask": mask, "grad.logits": cotangent})
    same(ours["logits"], logits.detach(), mask)
    same(ours["grad.inputs_embeds"], embeds.grad)


@pytest.mark.parametrize("family, shape", [("Llama", LLAMA[1]), ("OPT", OPT[1])])
def test_a_body_without_a_head(succeeds, tmp_path, family, shape):
    config = getattr(transformers, family + "Config")(**{**shape, "tie_word_embeddings": False}, max_position_embeddings=40)
    model = make(getattr(transformers, family + "Model"), config, tmp_path / "model")
    ids = torch.randint(0, config.vocab_size, (2, 5))
    with torch.no_grad():
        theirs = model(input_ids=ids).last_hidden_state
    ours = forward(succeeds, tmp_path, tmp_path / "model", {"input_ids": ids})
    assert set(ours) == {"last_hidden_state"}
    same(ours["last_hidden_state"], theirs)


def test_an_old_spelling_of_rotary_positions(succeeds, tmp_path):
    """Before transformers 5 the base stood in rope_theta, and a stretching in rope_scaling."""
    model = make(transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA[2], max_position_embeddings=40), tmp_path / "model")
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters")
    path.write_text(json.dumps({**config, "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}))
    ids = torch.randint(0, 33, (2, 7))
    with torch.no_grad():
        theirs = model(input_ids=ids).logits
    same(forward(succeeds, tmp_path, tmp_path / "model", {"input_ids": ids})["logits"], theirs)


def test_unknown_rotary_positions_are_refused(fails, tmp_path):
    make(transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA[0]), tmp_path / "model")
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "rope_parameters": {"rope_type": "yarn", "factor": 2.0}}))
    save_file({"input_ids": torch.ones(1, 3, dtype=torch.long)}, tmp_path / "x.safetensors")
    line = fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
    assert "yarn" in line and "llama3" in line


def test_opt_refuses_texts_beyond_its_positions(fails, tmp_path):
    make(transformers.OPTForCausalLM, transformers.OPTConfig(**OPT[0], max_position_embeddings=8), tmp_path / "model")
    save_file({"input_ids": torch.ones(1, 9, dtype=torch.long)}, tmp_path / "x.safetensors")
    line = fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
    assert "at most 8" in line


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("shape", T5)
def test_t5(succeeds, tmp_path, shape, padding):
    config = transformers.T5Config(**shape, decoder_start_token_id=0)
    model = make(transformers.T5ForConditionalGeneration, config, tmp_path / "model")
    mask, words = mask_of(padding), torch.randint(0, config.vocab_size, (3, 6))
    embeds = torch.randn(3, 11, config.d_model, requires_grad=True)
    target = mask_of("right", 3, 6) if padding == "right" else torch.ones(3, 6, dtype=torch.long)
    inputs = {"inputs_embeds": embeds, "attention_mask": mask, "decoder_input_ids": words, "decoder_attention_mask": target}
    theirs = model(**inputs)
    cotangent = torch.randn_like(theirs.logits) * target.unsqueeze(2)
    theirs.logits.backward(cotangent)
    ours = forward(succeeds, tmp_path, tmp_path / "model",
                   {name: tensor.detach() for name, tensor in inputs.items()} | {"grad.logits": cotangent})
    assert set(ours) == {"encoder_last_hidden_state", "last_hidden_state", "logits", "grad.inputs_embeds"}
    same(ours["encoder_last_hidden_state"], theirs.encoder_last_hidden_state.detach(), mask)
    same(ours["logits"], theirs.logits.detach(), target)
    same(ours["grad.inputs_embeds"], embeds.grad)


def test_t5_uses_the_head_that_its_file_has(succeeds, tmp_path):
    """transformers 5 ties every head when it makes a T5; FlanT5's files hold another one."""
    model = make(transformers.T5ForConditionalGeneration, transformers.T5Config(**T5[1]), tmp_path / "model")
    path = tmp_path / "model/model.safetensors"
    tensors = load_file(path)
    head = torch.randn(50, 24)
    save_file({**{n: t.clone() for n, t in tensors.items()}, "lm_head.weight": head}, path, metadata={"format": "pt"})
    ids, words = torch.randint(0, 50, (2, 7)), torch.randint(0, 50, (2, 3))
    with torch.no_grad():
        states = model(input_ids=ids, decoder_input_ids=words, output_hidden_states=True).decoder_hidden_states[-1]
    ours = forward(succeeds, tmp_path, tmp_path / "model", {"input_ids": ids, "decoder_input_ids": words})
    same(ours["logits"], states @ head.T)


def test_t5_encodes_without_a_target(succeeds, tmp_path):
    model = make(transformers.T5ForConditionalGeneration, transformers.T5Config(**T5[0]), tmp_path / "model")
    ids = torch.randint(0, 61, (2, 150))
    with torch.no_grad():
        theirs = model.encoder(input_ids=ids).last_hidden_state
    same(forward(succeeds, tmp_path, tmp_path / "model", {"input_ids": ids})["encoder_last_hidden_state"], theirs)
