"""Tasks whose answers are sequences, on a tiny OFA: train, eval, predict, the task graph and averages; and what bad input gets."""

import json
import random

import pytest

from ofa_models import make_ofa
from training_support import COLOURS, ROOT, make_pictures, make_text_model, mmtune, read_lines, sentence, trained_files, write_jsonl, write_recipe

pytest.importorskip("torch")

CORPUS = [f"what does the image describe? a {c} box, {c}! yes no maybe which region does the text \" {c} \" describe? left right" for c in COLOURS] * 20
ADAPTER = {"method": "adapter", "bottleneck": 8}


@pytest.fixture(scope="module")
def ofa(tmp_path_factory):
    return make_ofa(tmp_path_factory.mktemp("ofa") / "tiny", CORPUS)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of colours in manifests for every task."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = read_lines(make_pictures(folder, 48, 1))
    for row in rows:
        row["image"] = str(folder / row["image"])
    rng = random.Random(3)
    labelled = write_jsonl(folder / "labels.jsonl", rows)
    captions = write_jsonl(folder / "captions.jsonl", [
        {"id": r["id"], "image": r["image"], "answers": [f"A {r['label']} box.", f"a {r['label']}, {r['label']} box"]} for r in rows])
    questions = write_jsonl(folder / "questions.jsonl", [
        {"id": r["id"], "image": r["image"], "text": "What colour is it?", "answers": [r["label"]] * 7 + ["box"] * 3} for r in rows])
    boxes = write_jsonl(folder / "boxes.jsonl", [
        {"id": r["id"], "image": r["image"], "text": f"the {r['label']} one", "answers": [f"{rng.randint(0, 4)},2,18,{rng.randint(15, 19)}"]} for r in rows])
    texts = write_jsonl(folder / "texts.jsonl", [
        {"id": f"t{i}", "text": sentence(colour, rng), "label": colour} for i, colour in enumerate(list(COLOURS) * 12)])
    return {"labels": labelled, "captions": captions, "questions": questions, "boxes": boxes, "texts": texts}


def train(folder, ofa, manifest, task="generate", expert=None, check=0, epochs=1, lr=3e-3, **sections):
    recipe = write_recipe(folder / "recipe.toml", task=task, backbone={"main": ofa}, expert=expert or ADAPTER,
                          data={"train": manifest, **sections.pop("data", {})},
                          train={"epochs": epochs, "batch": 8, "lr": lr, "seed": 1, "threads": 1, **sections.pop("train", {})}, **sections)
    return mmtune("train", recipe, "--out", folder / "run", check=check)


def losses(run):
    return [line["loss"] for line in read_lines(run / "metrics.jsonl") if "loss" in line]


def metric(run, data, *more):
    return json.loads(mmtune("eval", run, "--data", data, "--json", *more, check=0).stdout)["metrics"]


def test_labels_are_ranked_and_learned(tmp_path, ofa, pictures):
    train(tmp_path, ofa, pictures["labels"], epochs=12, lr=1e-2, train={"log_every": 1},
          generate={"instruction": "what does the image describe?", "names": {"red": "a red box"}, "mask_loss": True})
    run = tmp_path / "run"
    history = losses(run)
    assert sum(history[-6:]) < 0.7 * sum(history[:6])
    assert metric(run, pictures["labels"])["accuracy"]["value"] > 0.8
    lines = [json.loads(line) for line in mmtune("predict", run, "--data", pictures["labels"], "--top", 3, check=0).stdout.splitlines()]
    assert len(lines) == 48 and {line["label"] for line in lines} <= set(COLOURS)
    for line in lines:
        assert sum(item["score"] for item in line["top"]) == pytest.approx(1.0, abs=1e-5)
        assert line["top"][0]["label"] == line["label"]
    # One by one as in batches; and written within the list as ranked.
    rows = read_lines(pictures["labels"])
    alone = json.loads(mmtune("predict", run, "--image", rows[4]["image"], "--json", check=0).stdout)
    assert alone["label"] == lines[4]["label"]
    written = mmtune("predict", run, "--data", pictures["labels"], "generate.readout=write", "generate.within_list=true", "generate.beams=3",
                     "generate.length_penalty=0", check=0)
    assert [json.loads(line)["label"] for line in written.stdout.splitlines()] == [line["label"] for line in lines]


def test_the_same_seed_gives_the_same_run(tmp_path, ofa, pictures):
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train(tmp_path / name, ofa, pictures["captions"], "caption", generate={"dropout": 0.1, "drop_path": 0.2},
              expert=ADAPTER | {"dropout": 0.2, "dropout_grows": True})
        made.append(trained_files(tmp_path / name / "run"))
    assert made[0] == made[1]


@pytest.mark.parametrize("expert", [{"method": "lora", "rank": 2, "targets": ["q_proj", "k_proj", "v_proj", "out_proj"]},
                                    {"method": "prefix", "length": 4}, {"method": "bitfit"}, {"method": "full"}], ids=lambda e: e["method"])
def test_captions_are_written(tmp_path, ofa, pictures, expert):
    train(tmp_path, ofa, pictures["captions"], "caption", expert=expert, epochs=2, generate={"beams": 3, "max_tokens": 6})
    run = tmp_path / "run"
    # Every picture has two captions to learn.
    assert json.loads((run / "run.json").read_text())["total_steps"] == 2 * 96 // 8
    figures = metric(run, pictures["captions"])
    assert {"cider", "bleu4", "loss"} <= set(figures)
    for name in ("cider", "bleu4", "loss"):
        low, high = figures[name]["interval"]
        assert low <= figures[name]["value"] <= high, name
    lines = [json.loads(line) for line in mmtune("predict", run, "--data", pictures["captions"], "--top", 2, check=0).stdout.splitlines()]
    assert len(lines) == 48 and all(isinstance(line["label"], str) and len(line["top"]) <= 2 for line in lines)


def test_questions_of_several_annotators(tmp_path, ofa, pictures):
    train(tmp_path, ofa, pictures["questions"], epochs=15, lr=1e-2, data={"classes": ["red", "green", "blue", "box"]},
          generate={"readout": "rank", "confidence": True, "mask_loss": True})
    figures = metric(tmp_path / "run", pictures["questions"])
    assert figures["vqa_accuracy"]["value"] > 0.5
    # Without a list answers are written.
    (tmp_path / "free").mkdir()
    train(tmp_path / "free", ofa, pictures["questions"])
    assert 0 <= metric(tmp_path / "free" / "run", pictures["questions"])["vqa_accuracy"]["value"] <= 1


def test_boxes_are_places(tmp_path, ofa, pictures):
    train(tmp_path, ofa, pictures["boxes"], "ground", epochs=10, lr=1e-2, expert={"method": "full"})
    figures = metric(tmp_path / "run", pictures["boxes"])
    assert figures["accuracy"]["value"] > 0.5
    line = json.loads(mmtune("predict", tmp_path / "run", "--data", pictures["boxes"], check=0).stdout.splitlines()[0])
    corners = [float(number) for number in line["label"].split(",")]
    assert len(corners) == 4 and all(-1 <= corner <= 22 for corner in corners)


def test_texts_need_no_picture(tmp_path, ofa, pictures):
    mixed = tmp_path / "mixed.jsonl"
    rows = read_lines(pictures["texts"])[:9] + [row | {"text": "a box"} for row in read_lines(pictures["labels"])[:9]]
    write_jsonl(mixed, rows)
    train(tmp_path, ofa, mixed, generate={"instruction": "{text} colour?", "answer_prompt": "source"}, epochs=2)
    together = mmtune("predict", tmp_path / "run", "--data", mixed, check=0).stdout
    for i in (0, 8, 9, 17):
        alone = tmp_path / "alone.jsonl"
        write_jsonl(alone, [rows[i]])
        line = json.loads(mmtune("predict", tmp_path / "run", "--data", alone, check=0).stdout)
        other = json.loads(together.splitlines()[i])
        assert line["label"] == other["label"]
        assert [item["score"] for item in line["top"]] == pytest.approx([item["score"] for item in other["top"]], abs=1e-5)


def test_tasks_of_several_kinds_make_a_graph_and_an_average(tmp_path, ofa, pictures):
    runs = []
    for name, task, data in (("labels", "generate", "labels"), ("captions", "caption", "captions"), ("texts", "generate", "texts")):
        (tmp_path / name).mkdir()
        train(tmp_path / name, ofa, pictures[data], task, **({"generate": {"instruction": "what does the image describe?"}} if name == "labels" else {}))
        (tmp_path / name / "run").rename(tmp_path / f"{name}-run")
        runs.append(tmp_path / f"{name}-run")
    graph = tmp_path / "graph.json"
    mmtune("graph", "build", *runs, "--samples", 12, "--out", graph, check=0)
    told = json.loads(mmtune("graph", "neighbours", "labels-run", "-k", 2, "--graph", graph, "--json", check=0).stdout)
    assert len(told) == 2
    # The closed form is the loop over examples.
    for name, more in (("closed", []), ("loop", ["--granularity", "micro-batch", "--batch", 1])):
        mmtune("graph", "embed", runs[0], "--samples", 6, "--out", tmp_path / f"{name}.safetensors", *more, check=0)
    from safetensors.numpy import load_file

    closed, loop = load_file(tmp_path / "closed.safetensors"), load_file(tmp_path / "loop.safetensors")
    for tensor in closed:
        assert abs(closed[tensor] - loop[tensor]).max() <= 1e-4 * loop[tensor].max() + 1e-12, tensor
    train(tmp_path, ofa, pictures["labels"], expert={"method": "pi", "target": runs[0], "experts": [runs[1], runs[2]]},
          generate={"instruction": "what does the image describe?"}, data={"valid": pictures["labels"]})
    assert 0 <= metric(tmp_path / "run", pictures["labels"])["accuracy"]["value"] <= 1
    kept = json.loads((tmp_path / "run" / "expert" / "adapter_config.json").read_text())
    assert kept["peft_type"] == "MMTUNE_ADAPTER"
    mmtune("explain", tmp_path / "run", "--data", pictures["labels"], "--out", tmp_path / "page.html", check=0)
    assert "labels-run" in (tmp_path / "page.html").read_text()
    # AdapterFusion and output mixing of the same.
    for mode in ("attention", "mixture"):
        (tmp_path / mode).mkdir()
        train(tmp_path / mode, ofa, pictures["labels"], expert={"method": "fusion", "target": runs[0], "experts": [runs[1]], "mode": mode},
              generate={"instruction": "what does the image describe?"})
        # What was trained opens again without the runs that it came from.
        before = mmtune("predict", tmp_path / mode / "run", "--data", pictures["labels"], check=0).stdout
        assert len(before.splitlines()) == 48


@pytest.mark.parametrize("change, message", [
    ({"generate": {"readout": "rank"}, "task": "caption"}, "no list of answers"),
    ({"generate": {"within_list": True, "min_tokens": 9, "max_tokens": 9, "readout": "write"}, "valid": True}, "every token is forbidden"),
    ({"generate": {"names": {"purple": "x"}}}, "no such class"),
    ({"generate": {"names": {"red": "box", "blue": "box"}}}, "two classes have the same words"),
    ({"generate": {"instruction": "{text_pair}"}}, "text_pair"),
    ({"generate": {"min_tokens": 5, "max_tokens": 2}}, "max_tokens"),
    ({"data": {"classes": ["cat", "dog"]}, "file": "questions"}, "no training example has an answer of the list"),
    ({"file": "bare"}, "neither labels nor answers"),
    ({"file": "crooked", "task": "ground"}, "has no box"),
    ({"data": {"classes": ["a"]}, "task": "caption"}, "free"),
])
def test_bad_recipes_and_data(tmp_path, ofa, pictures, change, message):
    bare = write_jsonl(tmp_path / "bare.jsonl", [{"id": "1", "text": "a box"}])
    crooked = write_jsonl(tmp_path / "crooked.jsonl", [row | {"answers": ["9,9,1,1"]} for row in read_lines(pictures["boxes"])])
    files = pictures | {"bare": bare, "crooked": crooked}
    data = files[change.get("file", "captions" if change.get("task") == "caption" else "labels")]
    generate = {"instruction": "what does the image describe?"} | change.get("generate", {})
    if change.get("task"):
        generate.pop("instruction")
    sections = {"data": change.get("data", {}) | ({"valid": data} if change.get("valid") else {})}
    done = train(tmp_path, ofa, data, change.get("task", "generate"), check=None, generate=generate, **sections)
    assert done.returncode in (1, 2)
    assert message in done.stderr and done.stderr.count("\n") <= 3, done.stderr


def test_labels_that_no_candidate_matches(tmp_path, ofa, pictures):
    train(tmp_path, ofa, pictures["labels"], generate={"instruction": "what does the image describe?"})
    rows = read_lines(pictures["labels"])[:6]
    rows[3]["label"] = "purple"
    strange = write_jsonl(tmp_path / "strange.jsonl", rows)
    refused = mmtune("eval", tmp_path / "run", "--data", strange, check=1)
    assert "purple" in refused.stderr and "strange.jsonl:4" in refused.stderr
    # Written words that are no class are counted, not guessed at.
    told = json.loads(mmtune("eval", tmp_path / "run", "--data", pictures["labels"], "generate.readout=write", "generate.max_tokens=2", "--json", check=0).stdout)
    assert told["details"]["answers_that_are_no_class"] >= 0 and told["metrics"]["accuracy"]["value"] <= 1


def test_a_run_opens_like_any_other(tmp_path, ofa, pictures):
    """forward, merge and resume on a run without a head."""
    import torch
    from safetensors.torch import load_file, save_file

    lora = {"method": "lora", "rank": 2, "targets": ["q_proj", "v_proj"]}
    train(tmp_path, ofa, pictures["labels"], expert=lora, generate={"instruction": "what does the image describe?"}, train={"checkpoint_every": 2})
    run = tmp_path / "run"
    save_file({"input_ids": torch.tensor([[0, 300, 301, 2]]), "decoder_input_ids": torch.tensor([[0, 300]])}, tmp_path / "x.safetensors")
    mmtune("forward", run, "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors", check=0)
    mmtune("merge", run, "--out", tmp_path / "merged", check=0)
    mmtune("forward", tmp_path / "merged", "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "z.safetensors", check=0)
    one, other = load_file(tmp_path / "y.safetensors")["logits"], load_file(tmp_path / "z.safetensors")["logits"]
    assert torch.allclose(one, other, atol=1e-4)
    merged = json.loads(mmtune("eval", run, "--data", pictures["labels"], f"backbone.main={ofa}", "--json", check=0).stdout)
    assert merged["examples"] == 48


def test_a_backbone_that_only_reads_is_refused(tmp_path, pictures):
    done = train(tmp_path, make_text_model(tmp_path / "bert"), pictures["texts"], check=2)
    assert "writes no answers" in done.stderr


def test_published_tables_with_their_recipe(tmp_path, ofa, pictures):
    """RefCOCO's TSV, pictures inside, through the published recipe: train, eval and predict."""
    import base64

    rng = random.Random(4)
    for split, count in (("train", 24), ("val", 8)):
        rows = []
        for i, row in enumerate(read_lines(pictures["boxes"])[:count]):
            picture = base64.b64encode(open(row["image"], "rb").read()).decode()
            left, top = rng.randint(0, 5), rng.randint(0, 5)
            rows.append(f"{i}_1\t{i}\t{row['text']}\t{left}.5,{top}.0,{left + 11}.25,{top + 12}.0\t{picture}\n")
        (tmp_path / f"refcoco_{split}.tsv").write_text("".join(rows))
    mmtune("train", ROOT / "recipes" / "pi" / "refcoco_adapter.toml", f"backbone.main={ofa}", f"data.train={tmp_path / 'refcoco_train.tsv'}",
           f"data.valid={tmp_path / 'refcoco_val.tsv'}", "train.epochs=8", "train.lr=1e-2", "train.batch=4", "train.accumulate=2", "train.threads=1",
           "train.log_every=1", "data.workers=0", "--out", tmp_path / "run", check=0)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["state"] == "finished" and record["total_steps"] == 24
    figures = metric(tmp_path / "run", tmp_path / "refcoco_val.tsv")
    assert 0 <= figures["accuracy"]["value"] <= 1 and figures["loss"]["value"] > 0
    history = losses(tmp_path / "run")
    assert sum(history[-6:]) < 0.9 * sum(history[:6])
    lines = mmtune("predict", tmp_path / "run", "--data", tmp_path / "refcoco_val.tsv", check=0).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"{i}_1" for i in range(8)]


RECIPES = sorted((ROOT / "recipes" / "pi").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_understood(tmp_path, ofa, pictures, path):
    """Every recipe's keys are checked before its model and data are looked for; the sequence tasks' then learn from made-up data."""
    text = path.read_text()
    task = text.split('task = "')[1].split('"')[0]
    missing = mmtune("train", path, "backbone.main=/nonexistent/model", "data.train=/nonexistent/data.jsonl", "--out", tmp_path / "none")
    assert missing.returncode == 1 and ("/nonexistent" in missing.stderr or "answers.txt" in missing.stderr), missing.stderr
    if task == "classify" or 'method = "pi"' in text or 'method = "fusion"' in text:
        return
    rows = [{"id": str(i), "image": row["image"], "text": "a red box", "text_pair": "a box"} for i, row in enumerate(read_lines(pictures["labels"])[:12])]
    changes = [f"backbone.main={ofa}", "train.epochs=1", "train.batch=4", "train.accumulate=1", "train.threads=1", "data.workers=0"]
    classes = {"snli_ve": ["entailment", "neutral", "contradiction"], "rte": ["entailment", "not_entailment"], "flowers_few_shot": ["red", "blue"]}
    for i, row in enumerate(rows):
        if path.stem in classes:
            row["label"] = classes[path.stem][i % len(classes[path.stem])]
        elif task == "ground":
            row["answers"] = ["1,2,17,18"]
        else:
            row["answers"] = ["red", "red", "blue"] if task == "generate" else ["a red box."]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    changes += [f"data.train={data}", f"data.valid={data}", "data.shots=0", "data.columns={}"]
    if path.stem == "vqa_v2":
        (tmp_path / "answers.txt").write_text("red\nblue\nbox\n")
        changes.append(f"data.classes_file={tmp_path / 'answers.txt'}")
    mmtune("train", path, *changes, "--out", tmp_path / "run", check=0)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "finished"
