"""What the scripts about a plan's runs share: where a row lies, and how its seeds are summed up."""

import json
import statistics


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
