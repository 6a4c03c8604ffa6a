"""RoBERTa against transformers: outputs and gradients of the inputs, and every kind of expert on it."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

import test_experts  # noqa: E402
from compare import check_input_gradients, close, forward, randomise  # noqa: E402
from reference import Encoder  # noqa: E402
from test_experts import HEADS, LAYERS, WIDTH  # noqa: E402

SHAPES = [
    dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=97),
    dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, vocab_size=50, hidden_act="gelu_new", pad_token_id=0),
    dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=12, intermediate_size=96, vocab_size=30, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=5),
]


def configured(shape, maker=None):
    return (maker or transformers.RobertaConfig)(**{"max_position_embeddings": 40, "type_vocab_size": 1, "layer_norm_eps": 1e-5, **shape})


def batch(config, padding):
    """Ids and a mask. `padding`: none; as a tokenizer pads; or ids and mask that have nothing to do with each other."""
    ids = torch.randint(0, config.vocab_size, (3, 11))
    mask = torch.ones(3, 11, dtype=torch.long)
    if padding != "none":
        mask[0, 7:] = 0
        mask[2, 1:] = 0
    if padding == "tokenizer":
        ids[ids == config.pad_token_id] = config.pad_token_id + 1
        ids[mask == 0] = config.pad_token_id
    if padding == "apart":
        mask[1, 4] = 0
        ids[1, 2:4] = config.pad_token_id
    return {"input_ids": ids} if padding == "none" else {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["none", "tokenizer", "apart"])
@pytest.mark.parametrize("kind", ["RobertaModel", "RobertaForSequenceClassification", "RobertaForMaskedLM", "XLMRobertaModel"])
def test_outputs(succeeds, tmp_path, shape, padding, kind):
    config = configured(shape, transformers.XLMRobertaConfig if kind.startswith("XLM") else None)
    model = randomise(getattr(transformers, kind)(config))
    model.save_pretrained(tmp_path / "model")
    encoder = model.roberta if hasattr(model, "roberta") else model
    inputs = batch(config, padding)
    if config.type_vocab_size > 1:
        inputs["token_type_ids"] = torch.randint(0, config.type_vocab_size, (3, 11))
    with torch.no_grad():
        theirs = encoder(**inputs)
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs)
    pooled = not kind.startswith("RobertaFor")
    assert set(ours) == {"last_hidden_state", *(["pooler_output"] if pooled else [])}
    close(ours["last_hidden_state"], theirs.last_hidden_state)
    if pooled:
        close(ours["pooler_output"], theirs.pooler_output)


def test_a_head_in_the_checkpoint_is_reported(mmtune, tmp_path):
    """A masked language model's: no part of the encoder, and no reason to refuse the rest."""
    model = randomise(transformers.RobertaForMaskedLM(configured(SHAPES[0])))
    model.save_pretrained(tmp_path / "model")
    save_file({"input_ids": torch.randint(3, 50, (1, 5))}, tmp_path / "x.safetensors")
    done = mmtune("forward", tmp_path / "model", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors")
    assert done.returncode == 0, done.stderr
    unused = [name for name in load_file(tmp_path / "model/model.safetensors") if name.startswith("lm_head.")]
    assert unused and all(name in done.stderr for name in unused) and f"{len(unused)} unused" in done.stderr


@pytest.mark.parametrize("shape", SHAPES)
def test_input_gradients(succeeds, tmp_path, shape):
    model = randomise(transformers.RobertaModel(configured(shape)))
    check_input_gradients(succeeds, tmp_path, model)


def make(_, folder):
    """What test_experts makes of a family, for RoBERTa: its blocks are BERT's, so the reference encoder is too."""
    torch.manual_seed(5)
    config = configured(dict(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=64, vocab_size=60))
    model = randomise(transformers.RobertaModel(config))
    model.save_pretrained(folder)
    inputs = batch(config, "tokenizer")
    embedded = model.embeddings(inputs["input_ids"])
    encoder = Encoder(load_file(folder / "model.safetensors"), "bert", LAYERS, HEADS, config.layer_norm_eps)
    return model, encoder, inputs, embedded.detach(), inputs["attention_mask"].bool()


@pytest.fixture
def on_roberta(monkeypatch):
    monkeypatch.setattr(test_experts, "make", make)


def test_prefix(succeeds, tmp_path, on_roberta):
    test_experts.test_prefix(succeeds, tmp_path, "bert")


@pytest.mark.parametrize("deep", [False, True])
def test_prompt(succeeds, tmp_path, on_roberta, deep):
    test_experts.test_prompt(succeeds, tmp_path, "bert", deep)


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer"])
def test_adapter(succeeds, tmp_path, on_roberta, variant):
    test_experts.test_adapter(succeeds, tmp_path, "bert", variant)


def test_bitfit(succeeds, tmp_path, on_roberta):
    test_experts.test_bitfit(succeeds, tmp_path, "bert")


@pytest.mark.parametrize("kind", [None, "use_rslora"])
def test_lora_files_of_peft(succeeds, tmp_path, on_roberta, kind):
    test_experts.test_lora_files_of_peft(succeeds, tmp_path, kind)
