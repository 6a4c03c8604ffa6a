"""CLIP as people use it: zero-shot answers by prompts, against transformers' own; and training on its towers, with its own tokenizer."""

import json
import math

import numpy
import pytest

from training_support import COLOURS, ROOT, make_clip, make_pictures, make_text_model, make_texts, mmtune, write_recipe

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder / "clip")
    make_pictures(folder / "pictures", 24, seed=1, text_share=1.0)
    make_texts(folder / "texts.jsonl", 48, seed=2)
    return folder


def embedded_texts(model, folder, texts):
    """Each text alone, so that nothing is padded; of length 1."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [model.get_text_features(input_ids=torch.tensor([tokenizer.encode(text).ids])).pooler_output for text in texts]
    rows = torch.cat(rows)
    return rows / rows.norm(dim=-1, keepdim=True)


def embedded_picture(model, folder, path):
    from PIL import Image

    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    pixels = processor(Image.open(path), return_tensors="pt")["pixel_values"]
    row = model.get_image_features(pixel_values=pixels).pooler_output
    return row / row.norm(dim=-1, keepdim=True)


def zero_shot(work, *options):
    """Scores by label of the first picture."""
    answer = mmtune("predict", work / "clip", "--image", work / "pictures/0.png", "--top", 3, "--json", *options, check=0)
    return {one["label"]: one["score"] for one in json.loads(answer.stdout)["top"]}


@torch.no_grad()
def test_answers_are_those_of_transformers(work):
    model = transformers.CLIPModel.from_pretrained(work / "clip").eval()
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(work / "clip/tokenizer.json"))
    labels = list(COLOURS)
    ids = [tokenizer.encode(f"a photo of a {label}.").ids for label in labels]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [1] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    from PIL import Image

    processor = transformers.CLIPImageProcessorPil.from_pretrained(work / "clip")
    pixels = processor(Image.open(work / "pictures/0.png"), return_tensors="pt")["pixel_values"]
    theirs = model(input_ids=padded, attention_mask=mask, pixel_values=pixels).logits_per_image.softmax(-1)[0].tolist()
    ours = zero_shot(work, "--classes", ",".join(labels))
    assert len(set(round(score, 3) for score in theirs)) == 3, "the model must tell the classes apart"
    for label, score in zip(labels, theirs):
        assert ours[label] == pytest.approx(score, abs=1e-4)


@torch.no_grad()
def test_templates_are_averaged_and_names_replace_labels(work):
    model = transformers.CLIPModel.from_pretrained(work / "clip").eval()
    templates = ["a photo of a {}.", "the {} box", "{} and not {}"]
    names = {"red": "large red", "green": "green", "blue": "blue"}
    rows = []
    for name in names.values():
        mean = embedded_texts(model, work / "clip", [template.replace("{}", name) for template in templates]).mean(0)
        rows.append(mean / mean.norm())
    picture = embedded_picture(model, work / "clip", work / "pictures/0.png")
    theirs = (model.logit_scale.exp() * picture @ torch.stack(rows).T).softmax(-1)[0].tolist()
    options = [part for template in templates for part in ("--template", template)]
    ours = zero_shot(work, "head.names.red=large red", "--classes", "red,green,blue", *options)
    for label, score in zip(names, theirs):
        assert ours[label] == pytest.approx(score, abs=1e-4)
    (work / "classes.txt").write_text("red\ngreen\nblue\n")
    assert zero_shot(work, "head.names.red=large red", "--classes-file", work / "classes.txt", *options) == ours


def test_eval_without_training(work):
    """The classes are those of the data where none are named; the answers are those of predict."""
    done = mmtune("eval", work / "clip", "--data", work / "pictures/manifest.jsonl", "--json", check=0)
    answer = json.loads(done.stdout)
    assert answer["examples"] == 24
    assert answer["details"]["classes"] == sorted(COLOURS)
    lines = mmtune("predict", work / "clip", "--data", work / "pictures/manifest.jsonl", "--classes", "blue,green,red", check=0).stdout
    predicted = {row["id"]: row["label"] for row in map(json.loads, lines.splitlines())}
    rows = [json.loads(line) for line in (work / "pictures/manifest.jsonl").read_text().splitlines()]
    right = sum(predicted[row["id"]] == row["label"] for row in rows)
    assert answer["metrics"]["accuracy"]["value"] == pytest.approx(right / 24)


def train(work, name, head=None, train=None, **backbone):
    recipe = write_recipe(
        work / f"{name}.toml",
        backbone={"main": work / "clip"} | backbone,
        expert={"method": "lora", "rank": 4, "targets": ["q_proj", "v_proj"]},
        head=head or {},
        data={"train": work / "pictures/manifest.jsonl", "valid": work / "pictures/manifest.jsonl"},
        train={"epochs": 1, "batch": 8, "lr": 3e-3} | (train or {}),
    )
    mmtune("train", recipe, "--out", work / name, "--threads", 1, check=0)
    return work / name


def test_a_head_of_class_prompts_begins_as_zero_shot(work):
    run = train(work, "begin", head={"kind": "zero_shot"}, train={"lr": 0.0})
    data = work / "pictures/manifest.jsonl"
    trained = json.loads(mmtune("eval", run, "--data", data, "--json", check=0).stdout)["metrics"]
    asked = json.loads(mmtune("eval", work / "clip", "--data", data, "--json", check=0).stdout)["metrics"]
    for name in ("loss", "accuracy"):
        assert trained[name]["value"] == pytest.approx(asked[name]["value"], abs=1e-5)


def test_training_from_class_prompts(work):
    data = work / "pictures/manifest.jsonl"
    run = train(work, "tuned", head={"kind": "zero_shot", "templates": ["a {} box", "the {} ball"]}, train={"epochs": 50})
    tuned = json.loads(mmtune("eval", run, "--data", data, "--json", check=0).stdout)["metrics"]
    asked = json.loads(mmtune("eval", work / "clip", "--data", data, "--json", check=0).stdout)["metrics"]
    # The scale of the logits is the checkpoint's, so that the loss has a floor above 0.
    assert tuned["loss"]["value"] < 0.7 * asked["loss"]["value"]
    assert tuned["accuracy"]["value"] > 0.9


@pytest.mark.parametrize("pooling", ["projection", "pooler"])
def test_training_the_text_tower_with_its_own_tokenizer(work, pooling):
    recipe = write_recipe(
        work / f"text-{pooling}.toml",
        backbone={"main": work / "clip", "main_input": "text", "main_pooling": pooling},
        expert={"method": "lora", "rank": 4, "targets": ["q_proj", "v_proj"]},
        data={"train": work / "texts.jsonl", "valid": work / "texts.jsonl"},
        train={"epochs": 25, "batch": 16, "lr": 5e-3},
    )
    run = work / f"text-{pooling}"
    mmtune("train", recipe, "--out", run, "--threads", 1, check=0)
    answer = json.loads(mmtune("eval", run, "--data", work / "texts.jsonl", "--json", check=0).stdout)
    assert answer["metrics"]["accuracy"]["value"] > 0.9
    said = mmtune("predict", run, "--data", work / "texts.jsonl", "--json", check=0).stdout
    labels = [json.loads(line)["label"] for line in (work / "texts.jsonl").read_text().splitlines()]
    right = [json.loads(line)["label"] == label for line, label in zip(said.splitlines(), labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(answer["metrics"]["accuracy"]["value"])


def test_training_both_towers(work):
    run = train(
        work, "both", train={"epochs": 15}, condition=work / "clip", main_pooling="projection", condition_pooling="projection"
    )
    record = json.loads((run / "run.json").read_text())
    assert {one["tower"] for one in record["experts"]} == {"main", "condition"}
    answer = json.loads(mmtune("eval", run, "--data", work / "pictures/manifest.jsonl", "--json", check=0).stdout)
    assert answer["metrics"]["accuracy"]["value"] > 0.9
    assert not math.isnan(answer["metrics"]["loss"]["value"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "a,b", "--template", "a photo"], "a template without a place for the class's name: expected {} in it, got 'a photo'"),
        (["--classes", "a,b,a"], "--classes: a class stands there twice: got 'a'"),
        (["--template", "a {}"], "no classes: expected --classes NAMES or --classes-file FILE"),
        (["--classes", "a,b", "head.names.c=d"], "head.names: a name for what is no class: got 'c'"),
        (["--classes", "a,b", "--classes-file", "x"], "--classes-file: expected either --classes or --classes-file"),
        (["--classes", "a,b", "backbone.main_pooling=pooler"], "expected with \"zero_shot\", one tower and backbone.main_pooling = \"projection\""),
    ],
)
def test_mistakes(work, arguments, message):
    done = mmtune("predict", work / "clip", "--image", work / "pictures/0.png", *arguments, check=2)
    assert message in done.stderr


def test_models_and_runs_that_take_no_prompts(work, tmp_path):
    make_text_model(tmp_path / "bert")
    done = mmtune("predict", tmp_path / "bert", "--text", "a", "--classes", "a,b", check=2)
    assert "the checkpoint has no projection into a shared space" in done.stderr
    done = mmtune("predict", tmp_path / "nothing", "--text", "a", check=1)
    assert "not a run folder" in done.stderr
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    done = mmtune("eval", tmp_path / "run", "--data", "x", "--classes", "a,b", check=2)
    assert "a run has its own classes" in done.stderr


def test_the_bundled_model_answers_as_in_transformers(tmp_path):
    from PIL import Image

    folder = ROOT / "models" / "mmtune-clip-small"
    pixels = numpy.random.default_rng(0).integers(0, 256, (80, 97, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).resize((64, 64)).resize((97, 80)).save(tmp_path / "a.png")
    model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32)
    names = ["forest", "a river", "industrial buildings"]
    texts = transformers.AutoTokenizer.from_pretrained(folder)([f"this is a photo of {name}" for name in names], padding=True, return_tensors="pt")
    pictures = transformers.CLIPImageProcessor.from_pretrained(folder)(images=Image.open(tmp_path / "a.png").convert("RGB"), return_tensors="pt")
    with torch.no_grad():
        expected = model(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"], pixel_values=pictures["pixel_values"])
    said = json.loads(mmtune("predict", "mmtune-clip-small", "--image", tmp_path / "a.png", "--classes", ",".join(names), "--template",
                             "this is a photo of {}", "--top", 3, "--json", check=0).stdout)
    scores = {one["label"]: one["score"] for one in said["top"]}
    assert [scores[name] for name in names] == pytest.approx(expected.logits_per_image.softmax(-1)[0].tolist(), abs=2e-4)
