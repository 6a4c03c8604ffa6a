"""Experts and their heads between mmtune and PEFT, both ways, on transformers' own models: logits and hidden states within 1e-4."""

import json
import shutil
import warnings

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
from safetensors.torch import load_file, save_file  # noqa: E402

from exchange_support import BASE_MODELS, CLASSES, HEADS, TASK_MODELS, close, forward, inputs_for, make_model, move, tokenized, train  # noqa: E402

AUTO = {"AutoModelForSequenceClassification": transformers.AutoModelForSequenceClassification,
        "AutoModelForImageClassification": transformers.AutoModelForImageClassification,
        "AutoModelForAudioClassification": transformers.AutoModelForAudioClassification}
IA3 = ["expert.targets=key,value,output.dense"]
CASES = {
    "bert-lora": ("bert", "lora", []),
    "bert-rslora": ("bert", "lora", ["expert.rslora=true", "expert.rank=3", "expert.targets=query,output.dense"]),
    "bert-dora": ("bert", "lora", ["expert.dora=true", "expert.targets=query,key,value,dense"]),
    "bert-glob": ("bert", "lora", ['expert.targets=["encoder.layer.1.*"]']),
    "bert-patterns": ("bert", "lora", ["expert.targets=query,value,intermediate.dense", 'expert.rank_pattern={"encoder.layer.0.*" = 2, "intermediate.dense" = 2}',
                                       'expert.alpha_pattern={"layer.1.attention.self.query" = 3.5}']),
    "bert-biases": ("bert", "lora", ['expert.bias="all"']),
    "bert-own-biases": ("bert", "lora", ['expert.bias="lora_only"', "expert.targets=query,output.dense"]),
    "bert-pooler": ("bert", "lora", ["expert.modules_to_save=pooler", "expert.targets=query,dense"]),
    "bert-mlp": ("bert", "lora", ['backbone.main_pooling="first"', 'head.kind="mlp"', 'head.activation="tanh"', "head.hidden=32"]),
    "bert-ia3": ("bert", "ia3", []),
    "bert-ia3-outputs": ("bert", "ia3", ["expert.targets=value,intermediate.dense", "expert.feed_forward=intermediate.dense"]),
    "bert-prefix": ("bert", "prefix", ["expert.length=5", "expert.init_std=0.5"]),
    "bert-prompt": ("bert", "prompt", ['expert.place="words"', "expert.length=4", "expert.init_std=0.5"]),
    "roberta-lora": ("roberta", "lora", []),
    "roberta-ia3": ("roberta", "ia3", []),
    "roberta-prefix": ("roberta", "prefix", ["expert.length=3", "expert.init_std=0.5"]),
    "roberta-prompt": ("roberta", "prompt", ['expert.place="words"', "expert.length=3", "expert.init_std=0.5"]),
    "vit-lora": ("vit", "lora", ["expert.targets=query,value,output.dense"]),
    "vit-patterns": ("vit", "lora", ['expert.rank_pattern={"layer.0.attention.attention.query" = 2}', "expert.targets=query,intermediate.dense"]),
    "vit-dora": ("vit", "lora", ["expert.dora=true"]),
    "vit-ia3": ("vit", "ia3", IA3),
    "vit-biases": ("vit", "lora", ['expert.bias="all"']),
    "swin-lora": ("swin", "lora", ["expert.targets=query,value,output.dense,reduction"]),
    "swin-ia3": ("swin", "ia3", IA3),
    "swin-biases": ("swin", "lora", ['expert.bias="all"']),
    "clip-lora": ("clip", "lora", ["expert.targets=query,value,fc1"]),
    "clip-ia3": ("clip", "ia3", []),
    "wav2vec2-lora": ("wav2vec2", "lora", []),
    "wav2vec2-ia3": ("wav2vec2", "ia3", []),
}


def opened_by_peft(folder, model):
    """PEFT only warns of keys that are missing or in surplus."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected).*keys.*")
        return peft.PeftModel.from_pretrained(model, str(folder)).eval()


@pytest.mark.parametrize("case", CASES)
def test_a_run_in_peft_and_back(succeeds, tmp_path, case):
    family, method, assignments = CASES[case]
    run = train(succeeds, tmp_path, family, method, *assignments)
    inputs = inputs_for(family)
    ours = forward(succeeds, tmp_path, run, inputs)["logits"]
    said = json.loads(succeeds("export", run, "--out", tmp_path / "peft", "--json"))
    assert said["classes"] == CLASSES and said["model_class"] == TASK_MODELS[family].__name__
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert config["task_type"] == ("SEQ_CLS" if family in ("bert", "roberta") else None)
    model = AUTO[said["auto_class"]].from_pretrained(tmp_path / "model", num_labels=3)
    assert type(model) is TASK_MODELS[family]
    with torch.no_grad():
        theirs = opened_by_peft(tmp_path / "peft", model)(**inputs).logits
    close(ours, theirs)
    assert ours.std() > 1e-3  # the training moved something

    succeeds("import", tmp_path / "peft", "--backbone", tmp_path / "model", "--out", tmp_path / "back")
    close(forward(succeeds, tmp_path, tmp_path / "back", inputs)["logits"], ours, 1e-6)
    assert json.loads((tmp_path / "back/run.json").read_text())["task"]["classes"] == CLASSES


@pytest.mark.parametrize("case", ["bert-lora", "bert-prefix", "bert-prompt", "vit-lora", "vit-ia3", "swin-lora", "clip-lora", "wav2vec2-lora"])
def test_an_expert_without_its_head(succeeds, tmp_path, case):
    family, method, assignments = CASES[case]
    run = train(succeeds, tmp_path, family, method, *assignments)
    inputs = inputs_for(family)
    ours = forward(succeeds, tmp_path, tmp_path / "model", inputs, "--expert", run / "expert")["last_hidden_state"]
    succeeds("export", run, "--out", tmp_path / "peft", "--no-head")
    adapted = opened_by_peft(tmp_path / "peft", BASE_MODELS[family].from_pretrained(tmp_path / "model"))
    with torch.no_grad():
        theirs = adapted.base_model.model.vision_model(**inputs) if family == "clip" else adapted(**inputs)
    close(ours, theirs.last_hidden_state)
    # What was exported loads here too, and so does what PEFT makes of it.
    adapted.save_pretrained(tmp_path / "again")
    for folder in ("peft", "again"):
        close(forward(succeeds, tmp_path, tmp_path / "model", inputs, "--expert", tmp_path / folder)["last_hidden_state"], ours, 1e-6)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_the_lines_that_export_prints(succeeds, tmp_path, family):
    """A reader who copies them has the model."""
    run = train(succeeds, tmp_path, family, "lora")
    lines = succeeds("export", run, "--out", tmp_path / "peft").split("\n\n", 1)[1]
    names = {}
    exec(lines, names)
    inputs = inputs_for(family)
    with torch.no_grad():
        close(forward(succeeds, tmp_path, run, inputs)["logits"], names["model"].eval()(**inputs).logits)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_names_of_transformers_4(succeeds, tmp_path, family):
    """Those of the checkpoints, which no model of transformers 5 has: only their spelling can be looked at here."""
    run = train(succeeds, tmp_path, family, "lora", "expert.targets=query,value,output.dense")
    succeeds("export", run, "--out", tmp_path / "four", "--transformers", "4")
    stored = load_file(tmp_path / "model/model.safetensors")
    for key in load_file(tmp_path / "four/adapter_model.safetensors"):
        if ".lora_A." in key:
            name = key.removeprefix(f"base_model.model.{family}.").split(".lora_A.")[0]
            assert name + ".weight" in stored
    inputs = inputs_for(family)
    succeeds("import", tmp_path / "four", "--backbone", tmp_path / "model", "--out", tmp_path / "back")
    close(forward(succeeds, tmp_path, tmp_path / "back", inputs)["logits"], forward(succeeds, tmp_path, run, inputs)["logits"], 1e-6)


def lora(**options):
    return lambda task: peft.LoraConfig(task_type=task, **{"r": 4, "lora_alpha": 6, **options})


QKV5 = ["q_proj", "v_proj"]
FROM_PEFT = {
    "bert-lora": ("bert", lora(target_modules=["query", "value"])),
    "bert-regex": ("bert", lora(target_modules=r".*layer\.1\..*(query|dense)")),
    "bert-all-linear": ("bert", lora(target_modules="all-linear")),
    "bert-exclude": ("bert", lora(target_modules=["query", "dense"], exclude_modules=["pooler.dense", "attention.output.dense"])),
    "bert-exclude-regex": ("bert", lora(target_modules=["query", "key"], exclude_modules=r".*layer\.0.*key")),
    "bert-layers": ("bert", lora(target_modules=["query", "value"], layers_to_transform=[1])),
    "bert-layers-pattern": ("bert", lora(target_modules=["query"], layers_to_transform=0, layers_pattern="layer")),
    "bert-patterns": ("bert", lora(target_modules=["query", "value", "output.dense"], rank_pattern={"layer.0.attention.self.query": 2, r".*output\.dense": 3},
                                   alpha_pattern={"value": 1.5}, use_rslora=True)),
    "bert-dora-biases": ("bert", lora(target_modules=["query"], use_dora=True, bias="all")),
    "bert-own-biases": ("bert", lora(target_modules=["query"], bias="lora_only")),
    "bert-saved": ("bert", lora(target_modules=["query", "dense"], modules_to_save=["pooler"])),
    "bert-saved-norm": ("bert", lora(target_modules=["query"], modules_to_save=["attention.output.LayerNorm"])),
    "bert-ia3": ("bert", lambda task: peft.IA3Config(task_type=task, target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"])),
    "bert-ia3-regex": ("bert", lambda task: peft.IA3Config(task_type=task, target_modules=r".*(key|intermediate\.dense)", feedforward_modules=r".*dense")),
    "bert-prefix": ("bert", lambda task: peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=4)),
    "bert-prompt": ("bert", lambda task: peft.PromptTuningConfig(task_type=task, num_virtual_tokens=4)),
    "roberta-lora": ("roberta", lora(target_modules=["query", "dense"])),
    "roberta-prefix": ("roberta", lambda task: peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=4)),
    "roberta-prompt": ("roberta", lambda task: peft.PromptTuningConfig(task_type=task, num_virtual_tokens=4)),
    "vit-lora": ("vit", lora(target_modules=[*QKV5, "mlp.fc2"], modules_to_save=["classifier"])),
    "vit-regex": ("vit", lora(target_modules=r"vit\.layers\.1\..*_proj", modules_to_save=["classifier"], bias="all")),
    "vit-patterns": ("vit", lora(target_modules=["q_proj", "fc1"], rank_pattern={"layers.0.mlp.fc1": 2}, modules_to_save=["classifier", "layernorm_after"])),
    "vit-layers": ("vit", lora(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern=["layers"], modules_to_save=["classifier"])),
    "swin-lora": ("swin", lora(target_modules=[*QKV5, "o_proj", "fc1", "reduction"], modules_to_save=["classifier"])),
    "swin-biases": ("swin", lora(target_modules=QKV5, bias="all", modules_to_save=["classifier"])),
    "clip-lora": ("clip", lora(target_modules=[*QKV5, "out_proj"], modules_to_save=["classifier"])),
    "wav2vec2-lora": ("wav2vec2", lora(target_modules=["q_proj", "out_proj", "output_dense"], modules_to_save=["projector", "classifier"])),
    "clip-ia3": ("clip", lambda task: peft.IA3Config(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"], modules_to_save=["classifier"])),
}


def made_by_peft(tmp_path, case, **labels):
    """A folder that PEFT wrote, and the logits of its model. The checkpoint is tmp_path/model."""
    family, configure = FROM_PEFT[case]
    make_model(family, tmp_path / "model")
    torch.manual_seed(1)
    model = TASK_MODELS[family].from_pretrained(tmp_path / "model", num_labels=3, **labels)
    adapted = peft.get_peft_model(model, configure("SEQ_CLS" if family in ("bert", "roberta") else None))
    move(adapted, ["lora_", "ia3_", "modules_to_save", "prompt_encoder"] + ([".bias"] if getattr(adapted.peft_config["default"], "bias", "") == "all" else [])
         + ([".query.base_layer.bias"] if getattr(adapted.peft_config["default"], "bias", "") == "lora_only" else []))
    adapted.save_pretrained(tmp_path / "peft")
    inputs = inputs_for(family)
    with torch.no_grad():
        return family, inputs, adapted(**inputs).logits


@pytest.mark.parametrize("case", FROM_PEFT)
def test_a_folder_of_peft_as_a_run(succeeds, tmp_path, case):
    family, inputs, theirs = made_by_peft(tmp_path, case)
    said = json.loads(succeeds("import", tmp_path / "peft", "--backbone", tmp_path / "model", "--out", tmp_path / "run", "--classes", "a,b,c", "--json"))
    assert said["what"] == "run" and said["classes"] == ["a", "b", "c"]
    close(forward(succeeds, tmp_path, tmp_path / "run", inputs)["logits"], theirs)
    # And on its way back PEFT reads the same.
    succeeds("export", tmp_path / "run", "--out", tmp_path / "back")
    model = TASK_MODELS[family].from_pretrained(tmp_path / "model", num_labels=3)
    with torch.no_grad():
        close(opened_by_peft(tmp_path / "back", model)(**inputs).logits, theirs)


def test_an_imported_run_is_asked_like_any_other(succeeds, tmp_path):
    made_by_peft(tmp_path, "bert-lora")
    succeeds("import", tmp_path / "peft", "--backbone", tmp_path / "model", "--out", tmp_path / "run", "--classes", "blue,green,red")
    answer = json.loads(succeeds("predict", tmp_path / "run", "--text", "the circle is red", "--top", "3", "--json"))
    assert {item["label"] for item in answer["top"]} == set(CLASSES)
    (tmp_path / "data.jsonl").write_text('{"text": "the circle is red", "label": "red"}\n{"text": "a blue shape", "label": "blue"}\n')
    assert "accuracy" in json.loads(succeeds("eval", tmp_path / "run", "--data", tmp_path / "data.jsonl", "--json"))["metrics"]


def respelt(folder, change):
    """The folder with other keys, as another version of PEFT would have written them."""
    path = folder / "adapter_model.safetensors"
    save_file({change(key): tensor.clone() for key, tensor in load_file(path).items()}, path)


SPELLINGS = {
    "adapter_name": ("bert-dora-biases", lambda key: key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")),
    "magnitude_as_module": ("bert-dora-biases", lambda key: key.replace("lora_magnitude_vector", "lora_magnitude_vector.default.weight")),
    "magnitude_weight": ("bert-dora-biases", lambda key: key.replace("lora_magnitude_vector", "lora_magnitude_vector.weight")),
    "no_prefix": ("bert-lora", lambda key: key.removeprefix("base_model.model.")),
    "wrapper": ("bert-lora", lambda key: key.replace("classifier.", "classifier.modules_to_save.default.")),
    "factors": ("bert-ia3", lambda key: key.replace(".ia3_l", ".ia3_l.default")),
    "checkpoint_names": ("vit-lora", lambda key: key.replace("vit.layers", "vit.encoder.layer").replace("attention.q_proj", "attention.attention.query")
                         .replace("attention.v_proj", "attention.attention.value").replace("mlp.fc2", "output.dense")),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_other_versions(succeeds, tmp_path, spelling):
    case, change = SPELLINGS[spelling]
    _, inputs, theirs = made_by_peft(tmp_path, case)
    respelt(tmp_path / "peft", change)
    if spelling == "checkpoint_names":
        path = tmp_path / "peft/adapter_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"target_modules": ["query", "value", "layer.0.output.dense", "layer.1.output.dense"]}))
    succeeds("import", tmp_path / "peft", "--backbone", tmp_path / "model", "--out", tmp_path / "run")
    close(forward(succeeds, tmp_path, tmp_path / "run", inputs)["logits"], theirs)


def test_labels_of_the_backbone(succeeds, tmp_path):
    """id2label of a checkpoint that has as many classes as the head."""
    made_by_peft(tmp_path, "bert-lora")
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"id2label": {"0": "no", "1": "perhaps", "2": "yes"}}))
    said = json.loads(succeeds("import", tmp_path / "peft", "--backbone", tmp_path / "model", "--out", tmp_path / "run", "--json"))
    assert said["classes"] == ["no", "perhaps", "yes"]


def test_dora_gradients(succeeds, tmp_path):
    """Of the inputs, through DoRA's frozen lengths, against PEFT."""
    torch.manual_seed(5)
    model = move(transformers.BertModel(transformers.BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)))
    model.save_pretrained(tmp_path / "model")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, use_dora=True, target_modules=["query", "dense"]))
    move(adapted, ["lora_"]).save_pretrained(tmp_path / "peft")
    embeds, cotangent = torch.randn(2, 6, 32, requires_grad=True), torch.randn(2, 6, 32)
    hidden = adapted(inputs_embeds=embeds).last_hidden_state
    (gradient,) = torch.autograd.grad(hidden, embeds, cotangent)
    ours = forward(succeeds, tmp_path, tmp_path / "model", {"inputs_embeds": embeds.detach(), "grad.last_hidden_state": cotangent},
                   "--expert", tmp_path / "peft")
    close(ours["last_hidden_state"], hidden.detach())
    close(ours["grad.inputs_embeds"], gradient)


@pytest.mark.parametrize("case", ["bert-lora", "bert-rslora", "bert-dora", "bert-ia3"])
def test_a_training_step_as_peft_takes_it(succeeds, tmp_path, case):
    """Parameter gradients: what a second step of plain SGD makes of the first one's tensors. (After the first none of them is zero.)"""
    family, method, assignments = CASES[case]
    rate = 1.0
    plain = [*assignments, "train.optimizer=sgd", "train.momentum=0", "train.weight_decay=0", "train.clip=0", "train.schedule=constant",
             f"train.lr={rate}", "train.batch=18"]
    folders = {}
    for steps in (1, 2):
        place = tmp_path / f"after{steps}"
        place.mkdir()
        run = train(succeeds, place, family, method, *plain, f"train.steps={steps}")
        succeeds("export", run, "--out", place / "peft")
        folders[steps] = load_file(place / "peft/adapter_model.safetensors")
    rows = [json.loads(line) for line in (tmp_path / "after1/data.jsonl").read_text().splitlines()]
    batch = tokenized(tmp_path / "after1/model", [row["text"] for row in rows])
    labels = torch.tensor([CLASSES.index(row["label"]) for row in rows])

    model = TASK_MODELS[family].from_pretrained(tmp_path / "after1/model", num_labels=3)
    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "after1/peft"), is_trainable=True).eval()
    torch.nn.functional.cross_entropy(adapted(**batch).logits, labels).backward()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter -= rate * parameter.grad
    theirs = peft.get_peft_model_state_dict(adapted)
    assert set(theirs) == set(folders[2])
    for name, tensor in theirs.items():
        moved = (folders[2][name] - folders[1][name]).abs().max().item()
        assert moved > 1e-5, name
        close(folders[2][name], tensor, 1e-3 * moved + 1e-7)


MERGED = ["bert-lora", "bert-rslora", "bert-dora", "bert-patterns", "bert-biases", "bert-pooler", "bert-mlp", "bert-ia3", "bert-ia3-outputs", "roberta-lora",
          "vit-lora", "vit-dora", "vit-ia3", "swin-lora", "swin-biases", "clip-lora", "wav2vec2-lora"]


@pytest.mark.parametrize("case", [*MERGED, "bert-full", "bert-bitfit", "vit-linear"])
def test_merged_checkpoints(succeeds, tmp_path, case):
    family, method, assignments = CASES.get(case) or (case.split("-")[0], case.split("-")[1], [])
    run = train(succeeds, tmp_path, family, method, *assignments)
    inputs = inputs_for(family)
    ours = forward(succeeds, tmp_path, run, inputs)
    succeeds("merge", run, "--out", tmp_path / "merged")
    model, report = TASK_MODELS[family].from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert [model.config.id2label[i] for i in range(3)] == CLASSES
    with torch.no_grad():
        close(ours["logits"], model.eval()(**inputs).logits)
    # The result is a backbone like any other: here too.
    close(forward(succeeds, tmp_path, tmp_path / "merged", inputs)["last_hidden_state"], ours["last_hidden_state"])
    kept = "tokenizer.json" if family in ("bert", "roberta") else "preprocessor_config.json"
    assert (tmp_path / "merged" / kept).read_bytes() == (tmp_path / "model" / kept).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_merged_in_the_dtype_of_the_source(succeeds, tmp_path, dtype):
    run = train(succeeds, tmp_path, "bert", "lora")
    path = tmp_path / "model/model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file({name: tensor.float() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})  # numbers that the dtype can say
    shutil.rmtree(run)
    recipe = tmp_path / "recipe.toml"
    succeeds("train", recipe, *HEADS["bert"], "--out", run)
    exact = forward(succeeds, tmp_path, run, inputs_for("bert"))["logits"]
    save_file(tensors, path, metadata={"format": "pt"})
    shutil.rmtree(run)
    succeeds("train", recipe, *HEADS["bert"], "--out", run)
    succeeds("merge", run, "--out", tmp_path / "narrow")
    succeeds("merge", run, "--out", tmp_path / "wide", "--dtype", "f32")
    assert {tensor.dtype for tensor in load_file(tmp_path / "narrow/model.safetensors").values()} == {dtype}
    assert {tensor.dtype for tensor in load_file(tmp_path / "wide/model.safetensors").values()} == {torch.float32}
    model = TASK_MODELS["bert"].from_pretrained(tmp_path / "wide", dtype=torch.float32).eval()
    with torch.no_grad():
        close(exact, model(**inputs_for("bert")).logits)


def test_a_sharded_source_stays_sharded(succeeds, tmp_path):
    run = train(succeeds, tmp_path, "bert", "lora")
    shutil.rmtree(run)
    model = BASE_MODELS["bert"].from_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    model.save_pretrained(tmp_path / "model", max_shard_size="30KB")
    assert (tmp_path / "model/model.safetensors.index.json").exists()
    succeeds("train", tmp_path / "recipe.toml", *HEADS["bert"], "--out", run)
    succeeds("merge", run, "--out", tmp_path / "merged")
    shards = list((tmp_path / "merged").glob("model-*.safetensors"))
    assert len(shards) > 1
    inputs = inputs_for("bert")
    with torch.no_grad():
        theirs = TASK_MODELS["bert"].from_pretrained(tmp_path / "merged").eval()(**inputs).logits
    close(forward(succeeds, tmp_path, run, inputs)["logits"], theirs)
