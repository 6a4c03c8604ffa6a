"""Experts written as files and run by `mmtune forward --expert`, against PEFT (LoRA) and a reference in torch (the other kinds)."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from reference import NAMES, Encoder  # noqa: E402

LAYERS, HEADS, WIDTH = 3, 4, 32


def make(family, folder):
    torch.manual_seed(5)
    shape = dict(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=64)
    if family == "bert":
        model = transformers.BertModel(transformers.BertConfig(vocab_size=60, max_position_embeddings=40, **shape))
        ids = torch.randint(0, 60, (3, 9))
        mask = torch.ones(3, 9, dtype=torch.long)
        mask[1, 4:] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
    elif family == "clip_text":
        config = transformers.CLIPTextConfig(vocab_size=60, max_position_embeddings=40, bos_token_id=57, eos_token_id=58, **shape)
        model = transformers.CLIPTextModel(config)
        ids = torch.randint(0, 60, (3, 9))
        mask = torch.ones(3, 9, dtype=torch.long)
        mask[1, 4:] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
    elif family == "clip_image":
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(image_size=16, patch_size=4, **shape))
        inputs = {"pixel_values": torch.randn(2, 3, 16, 16)}
        mask = torch.ones(2, 17, dtype=torch.long)
    else:
        model = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=4, **shape), add_pooling_layer=False)
        inputs = {"pixel_values": torch.randn(2, 3, 16, 16)}
        mask = torch.ones(2, 17, dtype=torch.long)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(folder)
    embedded = model.embeddings(inputs["input_ids"]) if "input_ids" in inputs else model.embeddings(inputs["pixel_values"])
    if family == "clip_image":
        embedded = model.pre_layrnorm(embedded)
    encoder = Encoder(load_file(folder / "model.safetensors"), family, LAYERS, HEADS, model.config.layer_norm_eps)
    return model, encoder, inputs, embedded.detach(), mask.bool()


def write_expert(folder, config, tensors):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")


def run(succeeds, tmp_path, inputs, *more):
    save_file(inputs, tmp_path / "x.safetensors")
    succeeds("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors",
           "--expert", tmp_path / "expert", "--any-backbone", *more)
    return load_file(tmp_path / "y.safetensors")["last_hidden_state"]


def same(ours, theirs, mask):
    assert (ours - theirs)[mask].abs().max().item() <= 1e-4


FAMILIES = pytest.mark.parametrize("family", ["bert", "vit", "clip_image", "clip_text"])


@FAMILIES
def test_reference_agrees_with_transformers(family, tmp_path):
    model, encoder, inputs, embedded, mask = make(family, tmp_path / "model")
    with torch.no_grad():
        same(encoder.forward(embedded, mask), model(**inputs).last_hidden_state, mask)


@FAMILIES
def test_prefix(succeeds, tmp_path, family):
    model, encoder, inputs, embedded, mask = make(family, tmp_path / "model")
    if family == "bert":  # its words are numbered behind the prefix
        embedded = model.embeddings(inputs["input_ids"], past_key_values_length=5).detach()
    table = torch.randn(5, LAYERS * 2 * WIDTH)
    write_expert(tmp_path / "expert", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5}, {"prompt_embeddings": table})
    rows = table.view(5, LAYERS * 2, HEADS, WIDTH // HEADS)
    expected = encoder.forward(embedded, mask, prefix=lambda layer: (rows[:, 2 * layer], rows[:, 2 * layer + 1]))
    same(run(succeeds, tmp_path, inputs), expected, mask)


@FAMILIES
@pytest.mark.parametrize("deep", [False, True])
def test_prompt(succeeds, tmp_path, family, deep):
    _, encoder, inputs, embedded, mask = make(family, tmp_path / "model")
    tables = [torch.randn(4, WIDTH) for _ in range(LAYERS)]
    if deep:
        tensors = {f"base_model.model.{NAMES[family]['layer']}.{i}.prompt_embeddings": table for i, table in enumerate(tables)}
    else:
        tensors = {"prompt_embeddings": tables[0]}
    write_expert(tmp_path / "expert", {"peft_type": "MMTUNE_DEEP_PROMPT" if deep else "MMTUNE_PROMPT", "num_virtual_tokens": 4}, tensors)
    same(run(succeeds, tmp_path, inputs), encoder.forward(embedded, mask, prompts=lambda layer: tables[layer], deep=deep), mask)


@FAMILIES
@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer"])
def test_adapter(succeeds, tmp_path, family, variant):
    _, encoder, inputs, embedded, mask = make(family, tmp_path / "model")
    tensors = {}
    for layer in range(LAYERS):
        places = [NAMES[family]["attention_output"], NAMES[family]["feed_forward"]]
        for place in places if variant == "houlsby" else places[1:]:
            base = f"{NAMES[family]['layer']}.{layer}.{place}.adapter"
            for name, shape in (("down_proj.weight", (6, WIDTH)), ("down_proj.bias", (6,)), ("up_proj.weight", (WIDTH, 6)), ("up_proj.bias", (WIDTH,))):
                tensors[f"{base}.{name}"] = torch.randn(shape) * 0.3
    write_expert(tmp_path / "expert", {"peft_type": "MMTUNE_ADAPTER", "variant": variant, "bottleneck": 6, "activation": "relu"},
                 {"base_model.model." + name: tensor for name, tensor in tensors.items()})

    def adapter(name, output):
        base = f"{name}.adapter"
        if f"{base}.down_proj.weight" not in tensors:
            return output
        hidden = torch.relu(torch.nn.functional.linear(output, tensors[f"{base}.down_proj.weight"], tensors[f"{base}.down_proj.bias"]))
        return output + torch.nn.functional.linear(hidden, tensors[f"{base}.up_proj.weight"], tensors[f"{base}.up_proj.bias"])

    same(run(succeeds, tmp_path, inputs), encoder.forward(embedded, mask, adapter=adapter), mask)


@FAMILIES
def test_bitfit(succeeds, tmp_path, family):
    _, encoder, inputs, embedded, mask = make(family, tmp_path / "model")
    changed = {name: tensor + 0.2 * torch.randn_like(tensor) for name, tensor in encoder.t.items() if name.endswith(".bias") and name.startswith("encoder")}
    write_expert(tmp_path / "expert", {"peft_type": "MMTUNE_BITFIT", "target_tensors": ["encoder.*.bias"]},
                 {"base_model.model." + name: tensor for name, tensor in changed.items()})
    encoder.t.update(changed)
    same(run(succeeds, tmp_path, inputs), encoder.forward(embedded, mask), mask)


def opens_what_peft_wrote(succeeds, tmp_path, family, config, mark):
    """PEFT's expert with every tensor whose name holds `mark` moved away from its start, saved by PEFT and run by us."""
    peft = pytest.importorskip("peft")
    model, _, inputs, _, mask = make(family, tmp_path / "model")
    adapted = peft.get_peft_model(model, config(peft))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if mark in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        expected = adapted.eval()(**inputs).last_hidden_state
    adapted.save_pretrained(tmp_path / "expert")
    same(run(succeeds, tmp_path, inputs), expected, mask)


@pytest.mark.parametrize("kind", ["use_rslora", "use_dora", None])
def test_lora_files_of_peft(succeeds, tmp_path, kind):
    options = {kind: True} if kind else {}
    opens_what_peft_wrote(succeeds, tmp_path, "bert",
                          lambda peft: peft.LoraConfig(r=5, lora_alpha=7, target_modules=["query", "output.dense"], **options), "lora_")


def test_ia3_files_of_peft(succeeds, tmp_path):
    opens_what_peft_wrote(succeeds, tmp_path, "bert",
                          lambda peft: peft.IA3Config(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"]), "ia3_l")


@pytest.mark.parametrize("family", ["clip_image", "clip_text"])
def test_lora_files_of_peft_for_clip(succeeds, tmp_path, family):
    targets = ["q_proj", "v_proj", "out_proj", "fc1", "fc2"]
    opens_what_peft_wrote(succeeds, tmp_path, family, lambda peft: peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets), "lora_")


def broken(tensors):
    yield "missing", {name: tensor for name, tensor in list(tensors.items())[1:]}
    name = next(iter(tensors))
    yield "not used", {**tensors, "base_model.model.surplus": torch.zeros(1)}
    yield "shape", {**tensors, name: torch.zeros(1, 1)}


@pytest.mark.parametrize("case", range(3))
def test_files_that_do_not_fit_are_refused(fails, tmp_path, case):
    _, _, inputs, _, _ = make("bert", tmp_path / "model")
    tensors = {}
    for layer in range(LAYERS):
        base = f"base_model.model.encoder.layer.{layer}.attention.self.query"
        tensors[f"{base}.lora_A.weight"], tensors[f"{base}.lora_B.weight"] = torch.randn(2, WIDTH), torch.randn(WIDTH, 2)
    word, changed = list(broken(tensors))[case]
    write_expert(tmp_path / "expert", {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"]}, changed)
    save_file(inputs, tmp_path / "x.safetensors")
    message = fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors",
                           "--expert", tmp_path / "expert", "--any-backbone")
    assert word in message and "adapter_model.safetensors" in message


@pytest.mark.parametrize("change", [{"bias": "some"}, {"rank_pattern": {"query": "three"}}, {"r": "two"}, {"layer_replication": [[0, 1]]}])
def test_configurations_that_we_would_misread_are_refused(fails, tmp_path, change):
    _, _, inputs, _, _ = make("bert", tmp_path / "model")
    write_expert(tmp_path / "expert", {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"], **change}, {"x": torch.zeros(1)})
    save_file(inputs, tmp_path / "x.safetensors")
    message = fails("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors",
                           "--expert", tmp_path / "expert", "--any-backbone")
    assert next(iter(change)) in message
