"""The registry of options: what a component declares is what inspect, --help and the reference page say, and what is checked."""

import json
import re

import pytest

from training_support import ROOT, mmtune, write_recipe

KINDS = ["adapter", "apt", "bitfit", "full", "ia3", "ladder", "linear", "lora", "prefix", "prompt"]
SECTIONS = ["backbone", "expert", "head", "loss", "vqa", "retrieve", "generate", "data", "train", "train.groups", "eval"]


def inspect(*arguments, check=0):
    return json.loads(mmtune("inspect", *arguments, "--json", check=check).stdout)


@pytest.fixture(scope="module")
def components():
    return {one["component"]: one for one in inspect("--options")["components"]}


@pytest.fixture(scope="module")
def options(components):
    """Every key of every component: (component, option)."""
    names = [name for name in components if name not in ("pretrain", "tvp", "answers")]
    return [(name, option) for name in names for option in inspect("--options", name)["options"]]


def test_every_component_says_what_it_is(components):
    assert set(KINDS + SECTIONS + ["pretrain", "pretrain.train", "tvp", "tvp.question", "answers", "answers.views"]) <= set(components)
    for name, one in components.items():
        assert one["what_it_is"], name


def test_every_key_has_a_type_a_default_and_a_line(options):
    assert len(options) > 100
    for name, option in options:
        for part in ("accepts", "default", "help"):
            assert option[part], (name, option)
        assert not option["help"].endswith("."), option


def test_help_and_reference_page_say_the_same(options):
    page = (ROOT / "docs/reference.md").read_text()
    # Lines of --help are wrapped.
    helps = {command: re.sub(r"\s+", " ", mmtune(command, "--help", check=0).stdout) for command in ("train", "pretrain")}
    for name, option in options:
        key = option["key"].split(".")[-1]
        row = f"| `{key}` | " + option["accepts"].replace("<", "&lt;").replace("|", "\\|") + " |"
        assert row in page, (name, row)
        assert f"{key}: {option['accepts']}" in helps["pretrain" if name.startswith(("pretrain.", "answers.")) else "train"], (name, key)


def out_of_range(accepts):
    """Values just outside the range that the text names."""
    step = 1 if "integer" in accepts else 1e-6
    for sign, bound in re.findall(r"(>=|<=|>|<) (-?[\d.e+-]+)", accepts):
        number = float(bound)
        value = {">=": number - step, "<=": number + step, ">": number, "<": number}[sign]
        yield str(int(value)) if "integer" in accepts else repr(value)


def test_every_number_has_a_range_which_is_checked(tmp_path, options):
    training = write_recipe(tmp_path / "train.toml", backbone={"main": "none"}, expert={"method": "lora"}, data={"train": "none"})
    prompting = tmp_path / "tvp.toml"
    prompting.write_text('[expert]\nmethod = "tvp"\n[[source]]\nmodel = "none"\n[data]\ntrain = "none"\n')
    recipes = {"pretrain": ["pretrain", ROOT / "recipes/pretrain_vit.toml"], "answers": ["pretrain", ROOT / "recipes/pretrain/llava.toml"],
               "tvp": ["train", prompting]}
    checked = 0
    for name, option in options:
        if not re.search(r"\b(integer|number)s?\b", option["accepts"]):
            continue
        values = list(out_of_range(option["accepts"]))
        assert values, f"{name}: {option['key']} has no range"
        key = option["key"]
        which = list(recipes.get(name.split(".")[0], ["train", training]))
        if "when" in option:
            which.append("expert." + option["when"].replace(" ", "").replace('"', ""))
        bounds = re.search(r"(>=|<=|>|<).*", option["accepts"])[0]
        for value in values:
            done = mmtune(*which, f"{key}={value}", "--out", tmp_path / "run", check=2)
            assert "expected " in done.stderr and bounds in done.stderr, (key, value, done.stderr)
            checked += 1
    assert checked > 60


def test_one_component(tmp_path):
    lora = inspect("lora")
    assert lora == inspect("--options", "lora")
    rank = next(one for one in lora["options"] if one["key"] == "expert.rank")
    assert rank == {"key": "expert.rank", "accepts": "an integer >= 1 and <= 4096", "default": "8", "help": "rank r of the update",
                    "when": 'method = "lora"'}
    text = mmtune("inspect", "lora", check=0).stdout
    assert text.startswith('[expert] with method = "lora"')
    assert "rank: an integer >= 1 and <= 4096 (default 8)" in text
    assert "no keys of its own" in mmtune("inspect", "linear", check=0).stdout
    # A folder of that name goes first.
    (tmp_path / "lora").mkdir()
    assert "kind" not in mmtune("inspect", "lora", cwd=tmp_path).stdout or "rank" not in mmtune("inspect", "lora", cwd=tmp_path).stdout


def test_names_of_no_component():
    done = mmtune("inspect", "--options", "lroa", check=2)
    assert "lroa: no component of recipes has this name (did you mean 'lora'?)" in done.stderr
    assert "(mmtune inspect --options lists them)" in mmtune("inspect", "--options", "zzzzzzzz", check=2).stderr
