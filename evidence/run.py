"""Trains the rows of a plan over several seeds, evaluates each on test data, and prints a table: mean and standard deviation.

    python evidence/run.py evidence/mope_easy_vqa.toml --out runs/evidence [--threads 2] [--only NAME] [--seeds 1,2,3]

A row also says what an example costs, in millions of multiply-accumulates: a forward pass, and a step of training. Texts are taken to have the
plan's `tokens` tokens (12). With `measure = 10` it says too what ten passes and ten steps took, in passes of the frozen backbone alone that were
timed between them (the fastest of each).

A plan names the test data, the seeds, overrides that all rows share, and rows: a recipe with overrides of its own. With `tune = [0.3, 1, 3]` a
row first tries these multiples of its recipe's learning rate on the first seed, cut short by the plan's `trial` overrides if it has them, and keeps
the one that the validation data likes best; a row with `like = "NAME"` takes that row's. What is done already is not done again: a row's runs stay
under OUT/PLAN/ROW, and are made anew only where its recipe or overrides changed. Paths in a plan are relative to the folder that the command is
run in.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import sys
import tomllib

from plans import program, rate_folder, row_folder, spread

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("plan", type=pathlib.Path)
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/evidence"))
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--only", help="the rows whose name contains this")
parser.add_argument("--seeds", help="instead of the plan's: 1,2,3")
options = parser.parse_args()
mmtune = program(options.threads)
plan = tomllib.loads(options.plan.read_text())
seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else plan["seeds"]


def folder_of(row, learning_rate):
    return rate_folder(row_folder(options.out, options.plan, row["name"]), learning_rate)


def best_of(folder):
    """What the validation data said of a run."""
    return json.loads((folder / "run.json").read_text())["best"]["value"]


def overrides_of(row, learning_rate):
    return [*plan.get("set", []), *row.get("set", []), f"train.lr={learning_rate:g}"]


def key_of(row, overrides):
    """What a run's results depend on."""
    text = json.dumps([overrides, plan["test"], plan.get("eval", [])]) + pathlib.Path(row["recipe"]).read_text()
    return hashlib.sha256(text.encode()).hexdigest()


def once(row, folder, overrides, name, work):
    """work(folder), a dict, unless folder/name holds what it gave for the same recipe and overrides."""
    result = folder / name
    key = key_of(row, overrides)
    if result.exists():
        known = json.loads(result.read_text())
        if known["key"] == key:
            return known
        shutil.rmtree(folder)
    mmtune("train", row["recipe"], *overrides, "--out", folder, "--resume")
    known = {"key": key, **work(folder)}
    result.write_text(json.dumps(known, indent=1) + "\n")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return known


def learning_rate_of(row):
    """The recipe's, or the multiple of it that does best on the validation data."""
    if "like" in row:
        return learning_rate_of(next(other for other in plan["row"] if other["name"] == row["like"]))
    base = tomllib.loads(pathlib.Path(row["recipe"]).read_text())["train"]["lr"]
    for override in row.get("set", []):
        if override.startswith("train.lr="):
            base = float(override.partition("=")[2])
    if not plan.get("tune"):
        return base
    tried = []
    for multiple in plan["tune"]:
        if "trial" in plan:
            overrides = [*overrides_of(row, base * multiple), *plan["trial"], f"train.seed={seeds[0]}"]
            known = once(row, folder_of(row, base * multiple) / "trial", overrides, "trial.json", lambda folder: {"best": best_of(folder)})
        else:
            known = one(row, seeds[0], base * multiple)
        tried.append((known["best"], base * multiple))
    return max(tried)[1]


def one(row, seed, learning_rate):
    def evaluate(folder):
        metrics = json.loads(mmtune("eval", folder, "--data", plan["test"], *plan.get("eval", []), "--json"))
        if missing := set(plan["metrics"]) - set(metrics["metrics"]):
            sys.exit(f"{options.plan}: no metric {', '.join(sorted(missing))}; there are {', '.join(metrics['metrics'])}")
        record = json.loads((folder / "run.json").read_text())
        return {"metrics": {name: one["value"] for name, one in metrics["metrics"].items()}, "best": best_of(folder),
                "trained": record["trainable_parameters"]}

    overrides = [*overrides_of(row, learning_rate), f"train.seed={seed}"]
    return once(row, folder_of(row, learning_rate) / f"seed-{seed}", overrides, "evidence.json", evaluate)


def priced(row, learning_rate, *more):
    return json.loads(mmtune("cost", row["recipe"], *overrides_of(row, learning_rate), "--tokens", plan.get("tokens", 12), *more, "--json"))["costs"][0]


def cost_of(row, learning_rate):
    """Millions of multiply-accumulates of an example: a forward pass, a step."""
    cost = priced(row, learning_rate)
    return (cost["forward_macs"] + cost["expert_macs"]) / 1e6, cost["training_macs"] / 1e6


def times_of(row, learning_rate):
    """A pass and a step, in passes of the backbone without the expert."""
    whole, step = (priced(row, learning_rate, "--measure", plan["measure"], *more)["step"] for more in (["--inference"], []))
    frozen = whole["fastest_seconds"] - whole.get("extra_seconds", 0)
    return whole["fastest_seconds"] / frozen, step["fastest_seconds"] / frozen


def costs_of(row, learning_rate):
    """The last columns of a row."""
    columns = [f"{macs:.0f}" for macs in cost_of(row, learning_rate)]
    if "measure" in plan:
        columns += [f"{times:.2f}" for times in times_of(row, learning_rate)]
    return columns


cost_names = ["forward, M", "training, M", *(["a pass, ×", "a step, ×"] if "measure" in plan else [])]
lines = [f"| {plan['title']} | trained parameters | learning rate | {' | '.join(plan['metrics'] + cost_names)} |", "|---|---|---|" + "---|" * (len(plan["metrics"]) + len(cost_names))]
for row in plan["row"]:
    if options.only and options.only not in row["name"]:
        continue
    learning_rate = learning_rate_of(row)
    runs = [one(row, seed, learning_rate) for seed in seeds]
    if seeds == plan["seeds"]:
        (row_folder(options.out, options.plan, row["name"]) / "row.json").write_text(json.dumps({"learning_rate": learning_rate}) + "\n")
    values = " | ".join(spread([run["metrics"][metric] for run in runs], 4) for metric in plan["metrics"])
    lines.append(f"| {row['name']} | {runs[0]['trained']:,} | {learning_rate:.2g} | {values} | {' | '.join(costs_of(row, learning_rate))} |")
    print(lines[-1], file=sys.stderr, flush=True)
print("\n".join(lines))
