"""Experts on multimodal language models and on T5: trained, judged and asked by `mmtune`, and visual prompts on such trained runs."""

import json
import random

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from training_support import COLOURS, FILLERS, make_pictures, mmtune, read_lines, sentence, trained_files, write_jsonl, write_recipe

torch = pytest.importorskip("torch")
from multimodal import make_blip2, make_causal, make_instructblip, make_llava, make_t5  # noqa: E402

LORA = {"method": "lora", "rank": 4, "targets": ["q_proj", "k_proj", "v_proj"]}
ASKED = {"instruction": "This is a photo of a", "clean": False}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speaking")
    rng = random.Random(2)
    rows = [{"id": f"t{i}", "text": sentence(colour, rng), "label": colour} for i, colour in enumerate(list(COLOURS) * 12)]
    return {
        "llava": make_llava(folder / "llava"),
        "opt": make_blip2(folder / "opt", seed=1),
        "t5": make_blip2(folder / "t5", seed=2, language="t5"),
        "instructblip": make_instructblip(folder / "instructblip", seed=3),
        "text": make_t5(folder / "text", [" ".join([*COLOURS, *FILLERS, "colour: not"])]),
        "LLaMA": make_causal(folder / "llama", "LLaMA", seed=4),
        "OPT": make_causal(folder / "opt_alone", "OPT", seed=5),
        "pictures": make_pictures(folder / "data", 24, 0),
        "texts": write_jsonl(folder / "texts.jsonl", rows),
    }


def train(tmp_path, model, data, out="run", expert=None, check=0, task="generate", generate=None, changes=(), **train_section):
    section = {"epochs": 8, "batch": 8, "lr": 1e-2, "seed": 1, "threads": 1, "log_every": 1} | train_section
    recipe = write_recipe(tmp_path / f"{out}.toml", task=task, backbone={"main": model}, expert=expert or LORA, data={"train": data, "workers": 0},
                          generate=generate or ASKED, train=section)
    return mmtune("train", recipe, *changes, "--out", tmp_path / out, check=check)


def losses(run):
    return [line["loss"] for line in read_lines(run / "metrics.jsonl") if "loss" in line]


def metrics(run, data, *more):
    return json.loads(mmtune("eval", run, "--data", data, "--json", *more, check=0).stdout)["metrics"]


@pytest.mark.parametrize("model,expert", [
    ("llava", LORA), ("opt", LORA), ("instructblip", LORA), ("t5", {"method": "lora", "rank": 4, "targets": ["q", "v", "wo"]}),
    ("llava", {"method": "adapter", "bottleneck": 8}), ("llava", {"method": "prefix", "length": 3}), ("opt", {"method": "bitfit"}),
    ("llava", {"method": "visual_prompt", "width": 4}),
], ids=lambda value: value if isinstance(value, str) else value["method"])
def test_an_expert_learns_to_answer(tmp_path, world, model, expert):
    train(tmp_path, world[model], world["pictures"], expert=expert, **({"lr": 0.3} if expert["method"] in ("visual_prompt", "prefix") else {}))
    run = tmp_path / "run"
    history = losses(run)
    assert numpy.mean(history[-3:]) < 0.9 * numpy.mean(history[:3])
    figures = metrics(run, world["pictures"])
    assert {"accuracy", "macro_f1", "loss"} <= set(figures)
    assert figures["loss"]["value"] < history[0]
    lines = [json.loads(line) for line in mmtune("predict", run, "--data", world["pictures"], "--top", 3, check=0).stdout.splitlines()]
    assert len(lines) == 24 and {line["label"] for line in lines} <= set(COLOURS)
    # One by one as in a batch; written within the list as ranked.
    rows = read_lines(world["pictures"])
    alone = json.loads(mmtune("predict", run, "--image", world["pictures"].parent / rows[5]["image"], "--json", check=0).stdout)
    assert alone["label"] == lines[5]["label"]
    written = mmtune("predict", run, "--data", world["pictures"], "generate.readout=write", "generate.within_list=true", "generate.beams=3",
                     "generate.length_penalty=0", check=0)
    assert [json.loads(line)["label"] for line in written.stdout.splitlines()] == [line["label"] for line in lines]


def test_lora_learns_the_colours(tmp_path, world):
    train(tmp_path, world["llava"], world["pictures"], epochs=25)
    assert metrics(tmp_path / "run", world["pictures"])["accuracy"]["value"] > 0.9


def test_captions_and_questions(tmp_path, world):
    rows = read_lines(world["pictures"])
    folder = world["pictures"].parent
    captions = write_jsonl(tmp_path / "captions.jsonl", [{"id": r["id"], "image": str(folder / r["image"]), "answers": [f"a {r['label']} picture"]} for r in rows])
    train(tmp_path, world["opt"], captions, task="caption", generate={"instruction": "what is this?", "beams": 2, "max_tokens": 6}, epochs=2)
    figures = metrics(tmp_path / "run", captions)
    assert {"cider", "bleu4", "loss"} <= set(figures)
    questions = write_jsonl(tmp_path / "questions.jsonl", [
        {"id": r["id"], "image": str(folder / r["image"]), "text": "Is this red?", "answers": ["yes" if r["label"] == "red" else "no"] * 3} for r in rows])
    train(tmp_path, world["instructblip"], questions, out="asked", generate={"instruction": "{text}", "clean": False, "max_tokens": 3, "beams": 1}, epochs=2)
    assert 0 <= metrics(tmp_path / "asked", questions)["vqa_accuracy"]["value"] <= 1


def test_the_same_seed_gives_the_same_run_and_checkpointing_changes_little(tmp_path, world):
    for out, more in (("a", {}), ("b", {}), ("lean", {"checkpointing": True})):
        train(tmp_path, world["t5"], world["pictures"], out=out, expert=LORA | {"targets": ["q", "wo"]}, epochs=1, **more)
    assert trained_files(tmp_path / "a") == trained_files(tmp_path / "b")
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "lean"), rel=1e-4)


@pytest.mark.parametrize("model,targets", [("text", ["q", "v", "wi_0"]), ("LLaMA", ["q_proj", "v_proj", "up_proj"]), ("OPT", ["q_proj", "v_proj", "fc1"])])
def test_a_text_model_answers(tmp_path, world, model, targets):
    """Classification as text, its task embedding in closed form, and the same with checkpointing."""
    world = world | {"text": world[model]}
    lora = {"method": "lora", "rank": 4, "targets": targets}
    generate = {"instruction": "colour: {text}", "clean": False}
    train(tmp_path, world["text"], world["texts"], expert=lora, generate=generate, epochs=30)
    assert metrics(tmp_path / "run", world["texts"])["accuracy"]["value"] > 0.9
    train(tmp_path, world["text"], world["texts"], out="lean", expert=lora, generate=generate, epochs=30, checkpointing=True)
    assert losses(tmp_path / "run")[:8] == pytest.approx(losses(tmp_path / "lean")[:8], rel=1e-3)
    for name, more in (("closed", []), ("loop", ["--granularity", "micro-batch", "--batch", 1])):
        mmtune("graph", "embed", tmp_path / "run", "--samples", 6, "--out", tmp_path / f"{name}.safetensors", *more, check=0)
    closed, loop = load_file(tmp_path / "closed.safetensors"), load_file(tmp_path / "loop.safetensors")
    for tensor in closed:
        assert abs(closed[tensor] - loop[tensor]).max() <= 1e-4 * loop[tensor].max() + 1e-12, tensor


@pytest.mark.parametrize("model", ["LLaMA", "OPT"])
def test_an_answer_stands_behind_its_question(tmp_path, world, model):
    """The loss of a causal model without an expert, against transformers; a written answer, against its greedy choice."""
    import transformers

    rows = read_lines(world["texts"])[:5]
    data = write_jsonl(tmp_path / "texts.jsonl", [{"id": row["id"], "text": row["text"], "answers": [row["label"]]} for row in rows])
    asked = {"instruction": "what colour is it? {text}", "clean": False, "readout": "write", "beams": 1, "max_tokens": 4}
    train(tmp_path, world[model], data, generate=asked, expert=LORA | {"targets": ["q_proj"]}, epochs=1, lr=0.0)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(world[model] / "tokenizer.json"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(world[model]).eval()
    losses_of_tokens, written = [], []
    for row in rows:
        question = tokenizer.encode("what colour is it? " + row["text"], add_special_tokens=False)
        answer = tokenizer.encode((" " if model == "OPT" else "") + row["label"], add_special_tokens=False) + [2]
        with torch.no_grad():
            logs = theirs(torch.tensor([question + answer])).logits[0].log_softmax(-1)
        losses_of_tokens += [-logs[len(question) - 1 + i, token].item() for i, token in enumerate(answer)]
        for _ in range(4):
            with torch.no_grad():
                question.append(theirs(torch.tensor([question])).logits[0, -1].argmax().item())
        said = question[-4:]
        written.append(tokenizer.decode(said[:said.index(2)] if 2 in said else said, skip_special_tokens=True).strip())
    assert metrics(tmp_path / "run", data)["loss"]["value"] == pytest.approx(numpy.mean(losses_of_tokens), rel=1e-4)
    lines = [json.loads(line) for line in mmtune("predict", tmp_path / "run", "--data", data, check=0).stdout.splitlines()]
    assert [line["label"].strip() for line in lines] == written


def test_a_question_of_one_token_is_refused(tmp_path, world):
    data = write_jsonl(tmp_path / "texts.jsonl", [{"id": "a", "text": "red", "label": "red"}, {"id": "b", "text": "blue", "label": "blue"}])
    done = train(tmp_path, world["LLaMA"], data, generate={"instruction": "{text}", "clean": False}, expert=LORA, check=1)
    assert "fewer than two tokens" in done.stderr and "generate.instruction" in done.stderr


def test_embeddings_take_a_pass_an_example(tmp_path, world):
    train(tmp_path, world["llava"], world["pictures"], epochs=1)
    done = mmtune("graph", "embed", tmp_path / "run", "--samples", 4, "--out", tmp_path / "e.safetensors", "--json", check=0)
    assert "llava" in json.loads(done.stdout)["looped"]


def test_a_prompt_together_with_lora(tmp_path, world):
    """The matrix over a model and over what LoRA made of it; a run that trained nothing is its model."""
    train(tmp_path, world["llava"], world["pictures"], out="lora", epochs=4)
    train(tmp_path, world["llava"], world["pictures"], out="idle", epochs=1, lr=0.0)
    prompt = numpy.random.default_rng(0).normal(0, 0.3, (3, 28, 28)).astype("float32")
    prompt[:, 4:24, 4:24] = 0
    save_file({"perturbation": prompt}, tmp_path / "prompt.safetensors")
    matrix = json.loads(mmtune("prompt", "transfer", tmp_path / "prompt.safetensors", "--models", world["llava"], tmp_path / "idle", tmp_path / "lora",
                               "--data", world["pictures"], "--json", check=0).stdout)
    rows = matrix["blocks"][0]["rows"]
    for row in rows:
        model, idle, lora = (cell["metrics"]["mean_score"]["value"] for cell in row["cells"])
        assert model == idle and lora != model
        # It was trained for these answers.
        truth = [cell["metrics"]["mean_score_of_truth"]["value"] for cell in row["cells"]]
        assert truth[2] > truth[0]
    # A run is a source of prompts, too: what LoRA learned stays as it is.
    before = trained_files(tmp_path / "lora")
    (tmp_path / "tvp.toml").write_text(f"""
task = "recognise"
[expert]
method = "tvp"
frame = 28
width = 4
[[source]]
model = "{tmp_path / 'lora'}"
[data]
train = "{world['pictures']}"
workers = 0
[train]
batch = 8
lr = 2.0
threads = 1
""")
    mmtune("train", tmp_path / "tvp.toml", "--out", tmp_path / "tvp", check=0)
    assert trained_files(tmp_path / "lora") == before
    of = lambda *more: json.loads(mmtune("eval", tmp_path / "tvp", "--data", world["pictures"], "--json", *more, check=0).stdout)  # noqa: E731
    assert of()["metrics"] != of("--model", world["llava"])["metrics"]
    matrix = json.loads(mmtune("prompt", "transfer", tmp_path / "tvp", "--models", tmp_path / "lora", world["llava"], "--data", world["pictures"], "--json",
                               check=0).stdout)
    assert [cell["source"] for cell in matrix["blocks"][0]["rows"][2]["cells"]] == [True, False]
    refused = mmtune("prompt", "transfer", tmp_path / "tvp", "--models", tmp_path / "tvp", "--data", world["pictures"], check=2)
    assert "holds a prompt, not a model" in refused.stderr


def test_a_prompt_and_lora_trained_together(tmp_path, world):
    """Two experts on one model: the border learns first, LoRA behind a border that stays."""
    train(tmp_path, world["llava"], world["pictures"], out="border", expert={"method": "visual_prompt", "width": 4}, epochs=2, lr=0.3)
    recipe = write_recipe(tmp_path / "both.toml", task="generate", backbone={"main": world["llava"]},
                          expert=[{"method": "visual_prompt", "start": tmp_path / "border"}, LORA], generate=ASKED,
                          data={"train": world["pictures"], "workers": 0}, train={"epochs": 2, "batch": 8, "lr": 1e-2, "seed": 1, "threads": 1},
                          **{"train.groups": [{"pattern": "main.visual_prompt.*", "lr_scale": 0.0}]})
    mmtune("train", recipe, "--out", tmp_path / "both", check=0)
    name = "base_model.model.perturbation"
    kept = load_file(tmp_path / "both" / "expert" / "main-visual_prompt" / "adapter_model.safetensors")[name]
    assert (kept == load_file(tmp_path / "border" / "expert" / "adapter_model.safetensors")[name]).all()
    metrics(tmp_path / "both", world["pictures"])
    # In the matrix the run's own border makes place for the one that is tried.
    mmtune("prompt", "transfer", tmp_path / "border", "--models", tmp_path / "both", world["llava"], "--data", world["pictures"], check=0)


@pytest.mark.parametrize("change,words", [
    (["generate.dropout=0.1"], "dropout"), (["generate.instruction=\"{text}\""], "text"),
    (['generate.names.red=""'], "no tokens"), (["generate.names.purple=violet"], "no such class"),
])
def test_mistakes(tmp_path, world, change, words):
    done = train(tmp_path, world["llava"], world["pictures"], changes=change, check=None)
    assert done.returncode in (1, 2) and words in done.stderr and "internal" not in done.stderr, done.stderr


def test_a_question_that_is_too_long_and_a_picture_that_is_missing(tmp_path, world):
    long = train(tmp_path, world["llava"], world["pictures"], generate={"instruction": "red green blue " * 80, "clean": False}, check=1)
    assert "longer than the model reads" in long.stderr
    lonely = write_jsonl(tmp_path / "lonely.jsonl", [{"id": "no picture", "text": "red", "label": "red"}, {"id": "two", "text": "blue", "label": "blue"}])
    refused = train(tmp_path, world["llava"], lonely, out="lonely", generate={"instruction": "{text}", "clean": False}, check=1)
    assert "no picture" in refused.stderr
    broken = mmtune("prompt", "transfer", tmp_path / "nothing", "--models", tmp_path / "lonely", "--data", world["pictures"], check=1)
    assert "nothing" in broken.stderr
