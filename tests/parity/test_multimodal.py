"""LLaVA, BLIP-2 and InstructBLIP against transformers: logits and gradients of the pixels, in all spellings of their tensors' names."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from compare import forward, randomise  # noqa: E402
from pictures import ROOT  # noqa: E402

IMAGE = 60
VISION = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=28, patch_size=7)
Q_FORMER = dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=40, encoder_hidden_size=32, vocab_size=50,
                max_position_embeddings=40)
LLAMA = dict(hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=64,
             max_position_embeddings=80)
OPT = dict(hidden_size=40, ffn_dim=56, num_hidden_layers=2, num_attention_heads=4, vocab_size=64, max_position_embeddings=80,
           word_embed_proj_dim=40)
T5 = dict(d_model=40, d_kv=8, d_ff=56, num_layers=2, num_heads=4, vocab_size=64, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
          decoder_start_token_id=0)
TEXTS = {"llama": lambda: transformers.LlamaConfig(**LLAMA), "opt": lambda: transformers.OPTConfig(**OPT), "t5": lambda: transformers.T5Config(**T5)}


def make(family, text, **more):
    torch.manual_seed(4)
    if family == "llava":
        config = transformers.LlavaConfig(vision_config=transformers.CLIPVisionConfig(**VISION), text_config=TEXTS[text](), image_token_id=IMAGE,
                                          **more)
        model = transformers.LlavaForConditionalGeneration(config)
    else:
        kind = "Blip2" if family == "blip-2" else "InstructBlip"
        config = getattr(transformers, kind + "Config")(
            vision_config=dict(VISION), qformer_config=dict(Q_FORMER), text_config=TEXTS[text]().to_dict(), num_query_tokens=5,
            image_token_index=IMAGE)
        model = getattr(transformers, kind + "ForConditionalGeneration")(config)
        with torch.no_grad():
            model.query_tokens.normal_()
    return randomise(model)


def batch(family, text, tokens, image=IMAGE, side=28):
    """Prompts of two lengths, padded on the left for the language models that go on from them, on the right for T5."""
    pixels = torch.randn(2, 3, side, side)
    longest = tokens + 8
    ids, mask = torch.full((2, longest), 1), torch.zeros(2, longest, dtype=torch.long)
    for row, words in enumerate((6, 8)):
        prompt = torch.cat([torch.randint(2, image, (2,)), torch.full((tokens,), image), torch.randint(2, image, (words - 2,))])
        place = slice(0, len(prompt)) if text == "t5" else slice(longest - len(prompt), None)
        ids[row, place], mask[row, place] = prompt, 1
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
    if family == "instructblip":
        inputs["qformer_input_ids"] = torch.randint(0, 50, (2, 7))
        inputs["qformer_attention_mask"] = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    if text == "t5":
        inputs["decoder_input_ids"] = torch.randint(0, 64, (2, 4))
    return inputs


def check(succeeds, tmp_path, family, text, model, folder, tokens, **more):
    inputs = batch(family, text, tokens, **more)
    pixels = inputs["pixel_values"].requires_grad_(True)
    theirs = model(**inputs)
    logits = theirs.logits if theirs.logits is not None else theirs.language_model_outputs.logits
    seen = torch.ones(2, 4) if text == "t5" else inputs["attention_mask"]
    cotangent = torch.randn_like(logits) * seen.unsqueeze(2)
    (expected,) = torch.autograd.grad(logits, pixels, cotangent)
    ours = forward(succeeds, tmp_path, folder, {name: tensor.detach() for name, tensor in inputs.items()} | {"grad.logits": cotangent})
    limit = 1e-4 * max(1, logits.abs().max().item())
    assert (ours["logits"] - logits.detach())[seen.bool()].abs().max().item() <= limit
    assert expected.abs().max() > 0
    assert (ours["grad.pixel_values"] - expected).abs().max().item() <= 1e-4 * max(1, expected.abs().max().item())


MODELS = [("llava", "llama", {}), ("llava", "llama", {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}),
          ("llava", "llama", {"vision_feature_layer": 1, "projector_hidden_act": "relu"}), ("blip-2", "opt", {}),
          ("blip-2", "t5", {}), ("instructblip", "llama", {}), ("instructblip", "t5", {})]


@pytest.mark.parametrize("family, text, more", MODELS)
def test_outputs_and_pixel_gradients(succeeds, tmp_path, family, text, more):
    model = make(family, text, **more)
    model.save_pretrained(tmp_path / "model")
    tokens = 5 if family != "llava" else 17 if more.get("vision_feature_select_strategy") == "full" else 16
    check(succeeds, tmp_path, family, text, model, tmp_path / "model", tokens)


BUNDLED = [("llava", "LlavaForConditionalGeneration", "llama", 64), ("blip2-opt", "Blip2ForConditionalGeneration", "opt", 16),
           ("blip2-t5", "Blip2ForConditionalGeneration", "t5", 8)]


@pytest.mark.parametrize("name, kind, text, tokens", BUNDLED)
def test_the_bundled_models(succeeds, tmp_path, name, kind, text, tokens):
    folder = ROOT / "models" / f"mmtune-{name}-small"
    torch.manual_seed(4)
    model, report = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["unexpected_keys"]
    check(succeeds, tmp_path, name.split("-")[0].replace("blip2", "blip-2"), text, model.eval(), folder, tokens, image=4, side=64)


def respell(folder, names):
    path = folder / "model.safetensors"
    tensors = {names(name): tensor.clone() for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("spelling", ["published", "in memory"])
def test_llava_in_its_other_spellings(succeeds, tmp_path, spelling):
    model = make("llava", "llama")
    model.save_pretrained(tmp_path / "model")

    def published(name):
        return name.replace("vision_tower.", "vision_tower.vision_model.") if name.startswith("vision_tower.") else name

    def in_memory(name):
        return name.removeprefix("language_model.") if "lm_head" in name else "model." + name.replace("language_model.model.", "language_model.")

    respell(tmp_path / "model", published if spelling == "published" else in_memory)
    check(succeeds, tmp_path, "llava", "llama", model, tmp_path / "model", 16)


@pytest.mark.parametrize("family, text, projection, scope", [("instructblip", "llama", "llm_proj", "llm_model"), ("blip-2", "t5", "t5_proj", "t5_model")])
def test_the_released_layout(succeeds, tmp_path, family, text, projection, scope):
    model = make(family, text)
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model/model.safetensors"
    official = {}
    for name, tensor in load_file(path).items():
        if name.endswith("self_attn.qkv.bias"):
            layer = name.split(".")[3]
            query, key, value = tensor.chunk(3)
            official[f"visual_encoder.blocks.{layer}.attn.q_bias"] = query.clone()
            official[f"visual_encoder.blocks.{layer}.attn.v_bias"] = value.clone()
            continue
        if name.startswith("vision_model.post_layernorm"):
            name = name.replace("vision_model.post_layernorm", "ln_vision")
        elif name.startswith("vision_model."):
            for ours, theirs in (("vision_model.", "visual_encoder."), ("embeddings.class_embedding", "cls_token"), ("encoder.layers", "blocks"),
                                 ("embeddings.position_embedding", "pos_embed"), ("embeddings.patch_embedding", "patch_embed.proj"),
                                 ("layer_norm", "norm"), ("self_attn.qkv", "attn.qkv"), ("self_attn.projection", "attn.proj")):
                name = name.replace(ours, theirs)
        elif name.startswith("qformer."):
            for ours, theirs in (("crossattention.attention", "crossattention.self"), ("attention.attention", "attention.self"),
                                 ("embeddings.layernorm", "embeddings.LayerNorm"), ("qformer.layernorm", "qformer.embeddings.LayerNorm"),
                                 ("qformer.", "Qformer.bert.")):
                name = name.replace(ours, theirs)
        name = name.replace("language_projection", projection).replace("language_model.", scope + ".", 1)
        official[name] = tensor.clone()
    # The released code has no key bias; the random one that was added here must not matter.
    with torch.no_grad():
        for block in model.vision_model.encoder.layers:
            block.self_attn.qkv.bias[32:64] = 0
    save_file(official, path, metadata={"format": "pt"})
    check(succeeds, tmp_path, family, text, model, tmp_path / "model", 5)


def composed(folder, family, text):
    """InstructBLIP's tensors in several files, as released models of its kind come."""
    model = make("instructblip", text)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {"encoder": "vision_model.", "language": "language_model.", "connector": ""}
    left = dict(tensors)
    listed = []
    for part, scope in parts.items():
        own = {name: left.pop(name).clone() for name in list(left) if name.startswith(scope)}
        save_file(own, folder / f"{part}.safetensors", metadata={"format": "pt"})
        listed.append({"name": part, "path": f"{part}.safetensors"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": family, "parts": listed}))
    return model


def test_a_model_of_several_files(succeeds, tmp_path):
    model = composed(tmp_path / "model", "instructblip", "llama")
    check(succeeds, tmp_path, "instructblip", "llama", model, tmp_path / "model", 5)


def run(fails, tmp_path, inputs):
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "x.safetensors")
    return fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")


def test_missing_parts_are_named(fails, tmp_path):
    composed(tmp_path / "model", "instructblip", "llama")
    inputs = batch("instructblip", "llama", 5)
    (tmp_path / "model/language.safetensors").rename(tmp_path / "elsewhere.safetensors")
    line = run(fails, tmp_path, inputs)
    assert "'language'" in line and "language.safetensors" in line
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "parts": [part for part in config["parts"] if part["name"] != "language"]}))
    line = run(fails, tmp_path, inputs)
    assert "parts of the model are missing: language model" in line
    # BLIVA has one more.
    (tmp_path / "elsewhere.safetensors").rename(tmp_path / "model/language.safetensors")
    path.write_text(json.dumps({**config, "model_type": "bliva"}))
    assert "projection of patches" in run(fails, tmp_path, inputs)


def test_parts_that_are_wrong(fails, tmp_path):
    composed(tmp_path / "model", "instructblip", "llama")
    inputs, path = batch("instructblip", "llama", 5), tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    for parts, said in ((42, "no list"), ([{"name": "x"}], "no path"), ([{"name": "x", "path": "config.json"}], "no safetensors file")):
        path.write_text(json.dumps({**config, "parts": parts}))
        assert said in run(fails, tmp_path, inputs)


def test_prompts_without_image_tokens(fails, tmp_path):
    make("llava", "llama").save_pretrained(tmp_path / "model")
    inputs = batch("llava", "llama", 16)
    line = run(fails, tmp_path, {**inputs, "input_ids": torch.ones(2, 24, dtype=torch.long)})
    assert "no image token in the prompt" in line and str(IMAGE) in line
    short = inputs["input_ids"].clone()
    short[0][short[0] == IMAGE] = 3
    assert "another number of image tokens" in run(fails, tmp_path, {**inputs, "input_ids": short})
    without = {name: tensor for name, tensor in inputs.items() if name != "pixel_values"}
    assert "no picture" in run(fails, tmp_path, without)


def test_instructions_for_the_q_former(fails, tmp_path):
    make("instructblip", "llama").save_pretrained(tmp_path / "model")
    inputs = batch("instructblip", "llama", 5)
    del inputs["qformer_input_ids"], inputs["qformer_attention_mask"]
    assert "qformer" in run(fails, tmp_path, inputs)


def test_pictures_of_another_size(fails, tmp_path):
    make("blip-2", "opt").save_pretrained(tmp_path / "model")
    inputs = batch("blip-2", "opt", 5)
    assert "[B, 3, 28, 28]" in run(fails, tmp_path, {**inputs, "pixel_values": torch.randn(2, 3, 21, 21)})


def test_other_language_models_are_refused(fails, tmp_path):
    make("llava", "llama").save_pretrained(tmp_path / "model")
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    config["text_config"]["model_type"] = "mpt"
    path.write_text(json.dumps(config))
    assert "llama, opt or t5" in run(fails, tmp_path, batch("llava", "llama", 16))
