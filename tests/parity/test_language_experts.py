"""PEFT's experts on language models and multimodal models: the same logits from the same folders."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
from safetensors.torch import load_file, save_file  # noqa: E402

from test_language_models import LLAMA, OPT, T5, make, mask_of  # noqa: E402
from test_multimodal import batch  # noqa: E402
from test_multimodal import make as make_multimodal  # noqa: E402


def forward(succeeds, tmp_path, inputs, *more):
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "x.safetensors")
    succeeds("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors", *more)
    return load_file(tmp_path / "y.safetensors")


def wrapped(model, config, folder):
    torch.manual_seed(6)
    expert = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in expert.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    expert.save_pretrained(folder)
    return expert


def compare(succeeds, tmp_path, expert, inputs, mask):
    with torch.no_grad():
        theirs = expert(**inputs).logits
    ours = forward(succeeds, tmp_path, inputs, "--expert", tmp_path / "expert", "--any-backbone")["logits"]
    theirs = theirs[:, -ours.shape[1]:]  # PEFT's has rows for the prompts too
    assert (ours - theirs)[mask.bool()].abs().max().item() <= 1e-4 * max(1, theirs.abs().max().item())
    bare = forward(succeeds, tmp_path, inputs)["logits"]
    assert (ours - bare)[mask.bool()].abs().max().item() > 1e-2


LORA = {
    "Llama": dict(target_modules=["q_proj", "v_proj", "down_proj"]),
    "OPT": dict(target_modules=["k_proj", "out_proj", "fc1"]),
}


@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize("family, shape", [("Llama", LLAMA[0]), ("Llama", LLAMA[1]), ("OPT", OPT[0]), ("OPT", OPT[1])])
def test_lora(succeeds, tmp_path, family, shape, padding):
    config = getattr(transformers, family + "Config")(**shape, max_position_embeddings=40, attn_implementation="eager")
    model = make(getattr(transformers, family + "ForCausalLM"), config, tmp_path / "model")
    expert = wrapped(model, peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, **LORA[family]), tmp_path / "expert")
    mask = mask_of(padding)
    compare(succeeds, tmp_path, expert, {"input_ids": torch.randint(0, config.vocab_size, (3, 11)), "attention_mask": mask}, mask)


@pytest.mark.parametrize("family, shape", [("Llama", LLAMA[0]), ("OPT", OPT[0])])
def test_prompts_among_the_words(succeeds, tmp_path, family, shape):
    config = getattr(transformers, family + "Config")(**shape, max_position_embeddings=40, attn_implementation="eager")
    model = make(getattr(transformers, family + "ForCausalLM"), config, tmp_path / "model")
    expert = wrapped(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), tmp_path / "expert")
    mask = mask_of("right")
    compare(succeeds, tmp_path, expert, {"input_ids": torch.randint(0, config.vocab_size, (3, 11)), "attention_mask": mask}, mask)


@pytest.mark.parametrize("family, shape", [("Llama", LLAMA[0]), ("Llama", LLAMA[1]), ("OPT", OPT[0])])
def test_prefixes(succeeds, tmp_path, family, shape):
    config = getattr(transformers, family + "Config")(**shape, max_position_embeddings=40, attn_implementation="eager")
    model = make(getattr(transformers, family + "ForCausalLM"), config, tmp_path / "model")
    expert = wrapped(model, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), tmp_path / "expert")
    mask = mask_of("none")
    compare(succeeds, tmp_path, expert, {"input_ids": torch.randint(0, config.vocab_size, (3, 11)), "attention_mask": mask}, mask)


def test_lora_on_t5(succeeds, tmp_path):
    model = make(transformers.T5ForConditionalGeneration, transformers.T5Config(**T5[1], decoder_start_token_id=0), tmp_path / "model")
    expert = wrapped(model, peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=3, target_modules=["q", "v", "wi_0", "wo"]), tmp_path / "expert")
    inputs = {"input_ids": torch.randint(0, 50, (3, 9)), "decoder_input_ids": torch.randint(0, 50, (3, 4))}
    compare(succeeds, tmp_path, expert, inputs, torch.ones(3, 4))


@pytest.mark.parametrize("family, text, tokens, targets", [
    ("llava", "llama", 16, ["q_proj", "v_proj", "linear_1"]), ("blip-2", "opt", 5, ["q_proj", "fc1", "qkv"]),
    ("instructblip", "llama", 5, ["q_proj", "down_proj", "query"]), ("blip-2", "t5", 5, ["q", "wo"])])
def test_lora_on_multimodal_models(succeeds, tmp_path, family, text, tokens, targets):
    model = make_multimodal(family, text)
    model.save_pretrained(tmp_path / "model")
    expert = wrapped(model, peft.LoraConfig(r=3, target_modules=targets), tmp_path / "expert")
    inputs = batch(family, text, tokens)
    mask = torch.ones(2, 4) if text == "t5" else inputs["attention_mask"]
    compare(succeeds, tmp_path, expert, inputs, mask)
