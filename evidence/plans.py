"""What the scripts of this folder share: the program, rows of data sets, where a plan's row lies, and how its seeds are summed up."""

import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def program(threads):
    """A function that runs mmtune (the build's, or MMTUNE_BUILD's) and gives what it printed; where mmtune fails, the script ends."""
    path = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "mmtune"

    def mmtune(*arguments):
        done = subprocess.run([str(path), "--threads", str(threads), *map(str, arguments)], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"mmtune {' '.join(map(str, arguments))} ended with {done.returncode}")
        return done.stdout

    return mmtune


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def picture_of(folder, row):
    """A picture of a data set that keeps them in archives, as a manifest anywhere may name it."""
    return f"{(folder / row['shard']).resolve()}#{row['member']}"


def row_folder(out, plan, name):
    """`plan`: the plan's file. It holds a folder a learning rate, with one a seed, and row.json."""
    return out / plan.stem / name.replace(" ", "-").replace("/", "-")


def rate_folder(row, learning_rate):
    return row / f"lr-{learning_rate:g}"


def chosen_rate(row):
    """The learning rate that all seeds of a finished row were trained with."""
    file = row / "row.json"
    if not file.exists():
        raise SystemExit(f"{row}: not trained yet, or not by every seed; evidence/run.py does it")
    return json.loads(file.read_text())["learning_rate"]


def spread(values, digits):
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"
