"""Trains the rows of a plan over several seeds, evaluates each on test data, and prints a table: mean and standard deviation.

    python evidence/run.py evidence/mope_easy_vqa.toml --out runs/evidence [--threads 2] [--only NAME] [--seeds 1,2,3]

A plan names the test data, the seeds, overrides that all rows share, and rows: a recipe with overrides of its own. What is done already is not
done again: a row's runs stay under OUT/PLAN/ROW, and are made anew only where its recipe or overrides changed. Paths in a plan are relative to
the folder that the command is run in.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("plan", type=pathlib.Path)
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/evidence"))
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--only", help="the rows whose name contains this")
parser.add_argument("--seeds", help="instead of the plan's: 1,2,3")
options = parser.parse_args()
program = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"
plan = tomllib.loads(options.plan.read_text())
seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else plan["seeds"]


def mmtune(*arguments):
    done = subprocess.run([str(program), "--threads", str(options.threads), *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"mmtune {' '.join(map(str, arguments))} ended with {done.returncode}")
    return done.stdout


def key_of(row):
    """What a row's results depend on."""
    text = json.dumps([row.get("set", []), plan.get("set", []), plan["test"]]) + pathlib.Path(row["recipe"]).read_text()
    return hashlib.sha256(text.encode()).hexdigest()


def one(row, seed):
    folder = options.out / options.plan.stem / row["name"].replace(" ", "-").replace("/", "-") / f"seed-{seed}"
    result = folder / "evidence.json"
    key = key_of(row)
    if result.exists():
        known = json.loads(result.read_text())
        if known["key"] == key:
            return known
        shutil.rmtree(folder)
    start = time.monotonic()
    mmtune("train", row["recipe"], *plan.get("set", []), *row.get("set", []), f"train.seed={seed}", "--out", folder, "--resume")
    seconds = time.monotonic() - start
    metrics = json.loads(mmtune("eval", folder, "--data", plan["test"], *plan.get("eval", []), "--json"))
    record = json.loads((folder / "run.json").read_text())
    known = {"key": key, "metrics": {name: one["value"] for name, one in metrics["metrics"].items()},
             "trained": record["trainable_parameters"], "seconds": seconds}
    result.write_text(json.dumps(known, indent=1) + "\n")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return known


def spread(values):
    if len(values) < 2:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


lines = [f"| {plan['title']} | trained parameters | {' | '.join(plan['metrics'])} | training, relative |", "|---|---|" + "---|" * (len(plan["metrics"]) + 1)]
first_seconds = None
for row in plan["row"]:
    if options.only and options.only not in row["name"]:
        continue
    runs = [one(row, seed) for seed in seeds]
    seconds = statistics.median(run["seconds"] for run in runs)
    first_seconds = first_seconds or seconds
    values = " | ".join(spread([run["metrics"][metric] for run in runs]) for metric in plan["metrics"])
    lines.append(f"| {row['name']} | {runs[0]['trained']:,} | {values} | {seconds / first_seconds:.2f} |")
    print(lines[-1], file=sys.stderr, flush=True)
print("\n".join(lines))
