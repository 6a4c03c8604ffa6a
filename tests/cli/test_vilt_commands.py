"""One backbone for a text and a picture, as people use it: every kind of expert on a tiny ViLT, pictures of many shapes, and what is refused."""

import json
import random

import pytest

from training_support import COLOURS, make_text_model, mmtune, write_jsonl, write_recipe

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = "the a is what colour of this picture thing large small".split()


def make_vilt(folder, width=32, layers=2, seed=0, **changes):
    make_text_model(folder)  # for its tokenizer
    words = (folder / "vocab.txt").read_text().split()
    torch.manual_seed(seed)
    config = transformers.ViltConfig(**dict(vocab_size=len(words), hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
                                            intermediate_size=2 * width, max_position_embeddings=12, image_size=16, patch_size=4,
                                            initializer_range=0.2) | changes)
    transformers.ViltModel(config).save_pretrained(folder)
    transformers.ViltImageProcessorPil(size={"shortest_edge": 16}, size_divisor=4).save_pretrained(folder)
    return folder


def make_data(folder, count, seed):
    """Pictures of one colour in many shapes; the question says nothing about it."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        colour = list(COLOURS)[i % 3]
        size = (rng.randint(16, 40), rng.randint(16, 40))
        pixel = tuple(min(255, max(0, value + rng.randint(-20, 20))) for value in COLOURS[colour])
        Image.new("RGB", size, pixel).save(folder / f"{i}.png")
        rows.append({"id": f"v{i}", "image": f"{i}.png", "text": " ".join(rng.choices(WORDS, k=rng.randint(1, 20))), "label": colour})
    return write_jsonl(folder / "data.jsonl", rows)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vilt")
    make_vilt(folder / "vilt")
    make_data(folder / "train", 48, seed=1)
    make_data(folder / "test", 24, seed=2)
    return folder


def recipe(work, path, expert, **train):
    settings = {"epochs": 12, "batch": 8, "lr": 1e-2, "seed": 1, "threads": 1} | train
    return write_recipe(path, backbone={"main": work / "vilt"}, expert=expert, data={"train": work / "train/data.jsonl", "workers": 0}, train=settings)


@pytest.fixture(scope="module")
def run(work):
    made = recipe(work, work / "lora.toml", {"method": "lora", "rank": 4, "targets": ["query", "value"]})
    mmtune("train", made, "--out", work / "run", check=0)
    return work / "run"


def metrics(run, data):
    answer = json.loads(mmtune("eval", run, "--data", data, "--json", check=0).stdout)
    return {name: one["value"] for name, one in answer["metrics"].items()}


def test_what_is_learned_holds_for_other_pictures(work, run):
    assert metrics(run, work / "test/data.jsonl")["accuracy"] > 0.9


def test_one_example_and_a_manifest_agree(work, run):
    lines = mmtune("predict", run, "--data", work / "test/data.jsonl", "--top", 3, check=0).stdout.splitlines()
    row = json.loads((work / "test/data.jsonl").read_text().splitlines()[0])
    one = json.loads(mmtune("predict", run, "--image", work / "test" / row["image"], "--text", row["text"], "--top", 3, "--json", check=0).stdout)
    many = {item["label"]: item["score"] for item in json.loads(lines[0])["top"]}
    assert len(lines) == 24
    assert {item["label"]: item["score"] for item in one["top"]} == pytest.approx(many, abs=1e-4)


def test_packed_and_padded_answers_agree(work, run, tmp_path):
    answers = []
    for packing in ("packed", "padded"):
        text = mmtune("predict", run, "--data", work / "test/data.jsonl", "--top", 3, f"train.packing={packing}", check=0).stdout
        answers.append([{item["label"]: item["score"] for item in json.loads(line)["top"]} for line in text.splitlines()])
    for packed, padded in zip(*answers):
        assert packed == pytest.approx(padded, abs=1e-4)


def test_preprocess_and_forward_give_what_predict_gives(work, run, tmp_path):
    from safetensors.torch import load_file

    rows = [json.loads(line) for line in (work / "test/data.jsonl").read_text().splitlines()[:5]]
    arguments = []
    for row in rows:
        arguments += ["--image", work / "test" / row["image"], "--text", row["text"]]
    mmtune("preprocess", work / "vilt", *arguments, "--max-length", 12, "--out", tmp_path / "x.safetensors", check=0)
    inputs = load_file(tmp_path / "x.safetensors")
    assert set(inputs) == {"input_ids", "attention_mask", "token_type_ids", "pixel_values", "pixel_mask"}
    mmtune("forward", run, "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors", check=0)
    scores = load_file(tmp_path / "y.safetensors")["logits"].softmax(-1)
    lines = mmtune("predict", run, "--data", work / "test/data.jsonl", "--top", 3, check=0).stdout.splitlines()
    classes = json.loads((run / "run.json").read_text())["task"]["classes"]
    for row, line in zip(scores, lines):
        expected = {item["label"]: item["score"] for item in json.loads(line)["top"]}
        assert dict(zip(classes, row.tolist())) == pytest.approx(expected, abs=1e-4)


def test_the_expert_alone_on_the_model(work, run, tmp_path):
    from safetensors.torch import load_file

    mmtune("preprocess", work / "vilt", "--image", work / "test/0.png", "--text", "what is this", "--out", tmp_path / "x.safetensors", check=0)
    outputs = []
    for extra in ([], ["--expert", run / "expert"]):
        mmtune("forward", work / "vilt", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors", *extra, check=0)
        outputs.append(load_file(tmp_path / "y.safetensors")["pooler_output"])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


KINDS = [
    {"method": "full"},
    {"method": "linear"},
    {"method": "bitfit"},
    {"method": "lora", "targets": ["query", "value", "dense"], "dora": True},
    {"method": "ia3"},
    {"method": "adapter"},
    {"method": "prefix", "length": 3},
    {"method": "prompt", "length": 3},
    {"method": "prompt", "length": 3, "deep": True},
    {"method": "ladder"},
    {"method": "apt", "prompts": 5, "rank": 2},
    {"method": "class_token"},
]


@pytest.mark.parametrize("expert", KINDS, ids=lambda one: "-".join(str(value) for value in one.values() if not isinstance(value, list)))
def test_every_kind_of_expert_attaches(work, tmp_path, expert):
    made = recipe(work, tmp_path / "recipe.toml", expert, epochs=2, lr=1e-3)
    mmtune("train", made, "--out", tmp_path / "run", check=0)
    assert 0 <= metrics(tmp_path / "run", work / "test/data.jsonl")["accuracy"] <= 1
    assert mmtune("predict", tmp_path / "run", "--image", work / "test/0.png", "--text", "what is this", check=0).stdout


def test_checkpointing_changes_nothing(work, tmp_path):
    from safetensors.torch import load_file

    experts = []
    for checkpointing in ("false", "true"):
        made = recipe(work, tmp_path / "recipe.toml", {"method": "adapter"}, epochs=1)
        mmtune("train", made, "--out", tmp_path / checkpointing, f"train.checkpointing={checkpointing}", check=0)
        experts.append(load_file(tmp_path / checkpointing / "expert/adapter_model.safetensors"))
    for name, tensor in experts[0].items():
        assert torch.allclose(tensor, experts[1][name], atol=1e-6), name


def test_operations_are_counted_exactly(work):
    made = recipe(work, work / "cost.toml", {"method": "lora", "rank": 4, "targets": ["query", "value"]})
    cost = json.loads(mmtune("cost", made, "--tokens", 7, "--patches", 20, "--classes", 3, "--json", check=0).stdout)["costs"][0]
    d, inner, n, patch = 32, 64, 7 + 1 + 20, 3 * 4 * 4
    block = lambda q: 2 * n * d * d + 2 * q * d * d + 2 * q * n * d + 2 * q * d * inner  # noqa: E731
    assert cost["forward_macs"] == block(n) + block(1) + d * d + 20 * patch * d
    measured = json.loads(mmtune("cost", made, "--measure", 1, "--batch", 2, "--json", check=0).stdout)["costs"][0]
    assert measured["step"]["seconds"] > 0


def test_inspect_knows_it(work):
    assert "vilt" in mmtune("inspect", work / "vilt", check=0).stdout


def one_row(tmp_path, work, **changes):
    row = json.loads((work / "test/data.jsonl").read_text().splitlines()[0])
    row["image"] = str(work / "test" / row["image"])
    row = {key: value for key, value in (row | changes).items() if value is not None}
    return write_jsonl(tmp_path / "rows.jsonl", [row])


@pytest.mark.parametrize("change", [{"image": None}, {"text": None}])
def test_an_example_needs_both(work, run, tmp_path, change):
    message = mmtune("eval", run, "--data", one_row(tmp_path, work, **change), check=1).stderr
    assert "lacks" in message and message.count("\n") == 1


def test_a_picture_without_a_whole_patch_is_refused(work, run, tmp_path):
    from PIL import Image

    Image.new("RGB", (400, 3)).save(tmp_path / "thin.png")
    message = mmtune("eval", run, "--data", one_row(tmp_path, work, image=str(tmp_path / "thin.png")), check=1).stderr
    assert "too thin" in message and "400 x 3" in message


@pytest.mark.parametrize("field", ["text", "image", "audio"])
def test_a_single_field_is_refused(work, tmp_path, field):
    made = write_recipe(tmp_path / "recipe.toml", backbone={"main": work / "vilt", "main_input": field}, expert={"method": "bitfit"},
                        data={"train": work / "train/data.jsonl"}, train={"epochs": 1})
    message = mmtune("train", made, "--out", tmp_path / "run", check=2).stderr
    assert "text and a picture" in message


def test_a_limit_beyond_the_positions_is_refused(work, tmp_path):
    made = recipe(work, tmp_path / "recipe.toml", {"method": "bitfit"})
    assert "12" in mmtune("train", made, "--out", tmp_path / "run", "backbone.max_length=13", check=2).stderr


def test_peft_reads_the_expert(work, run, tmp_path):
    peft = pytest.importorskip("peft")
    from safetensors.torch import load_file

    mmtune("export", run, "--format", "peft", "--no-head", "--out", tmp_path / "peft", check=0)
    model = peft.PeftModel.from_pretrained(transformers.ViltModel.from_pretrained(work / "vilt"), tmp_path / "peft").eval()
    mmtune("preprocess", work / "vilt", "--image", work / "test/0.png", "--text", "what is this", "--out", tmp_path / "x.safetensors", check=0)
    mmtune("forward", work / "vilt", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors", "--expert", run / "expert", check=0)
    with torch.no_grad():
        theirs = model(**load_file(tmp_path / "x.safetensors")).pooler_output
    assert torch.allclose(load_file(tmp_path / "y.safetensors")["pooler_output"], theirs, atol=1e-4)
