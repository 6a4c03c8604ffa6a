"""What the routers of a plan's MoPE runs do, over its seeds: `mmtune explain` on the test data, in numbers.

    python evidence/specialisation.py evidence/mope_easy_vqa.toml --out runs/evidence "MoPE, K = 4" "MoPE without importance loss"

The runs must be there (evidence/run.py, with the same --out). Printed for every row, mean and standard deviation over the seeds: how decided the
routers are (entropy, 0 decided to 1 all alike), how unevenly they use their experts (squared coefficient of variation), what an expert's choice
tells of the label (mutual information: mean over the blocks, and that of the block that tells most), and the largest share of answers that changes
when one expert is switched off.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import tomllib

from plans import chosen_rate, program, rate_folder, row_folder, spread

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("plan", type=pathlib.Path)
parser.add_argument("rows", nargs="+")
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/evidence"))
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--limit", type=int, default=1000, help="test examples")
options = parser.parse_args()
mmtune = program(options.threads)
plan = tomllib.loads(options.plan.read_text())


def explained(run):
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(mmtune("explain", run, *plan.get("eval", []), "--data", plan["test"], "--limit", options.limit, "--gallery", 0, "--out",
                                 pathlib.Path(folder) / "page.html", "--json"))


def runs_of(name):
    row = row_folder(options.out, options.plan, name)
    return [rate_folder(row, chosen_rate(row)) / f"seed-{seed}" for seed in plan["seeds"]]


print("| | entropy | CV² | information, bits | most telling block, bits | answers that one expert changes |")
print("|---|---|---|---|---|---|")
for row in options.rows:
    numbers = [explained(run) for run in runs_of(row)]
    mean = lambda key: [statistics.mean(block[key] for block in one["blocks"]) for one in numbers]
    most = [max(block["information"] for block in one["blocks"]) for one in numbers]
    changed = [max(expert["changed"] for expert in one["without_expert"]) for one in numbers]
    print(f"| {row} | {' | '.join((spread(values, 3) for values in (mean('entropy'), mean('variation'), mean('information'), most, changed)))} |", flush=True)
