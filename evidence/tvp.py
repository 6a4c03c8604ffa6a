"""What a visual prompt that was trained through one small multimodal model is worth on others.

    python evidence/tvp.py [--models llava,blip2-opt,blip2-t5] [--data ../shared/data] [--out runs/tvp] [--threads 2] [--seeds 1,2,3] [--train-only MODELS]

The models are models/mmtune-NAME-small, or folders. For every task and seed, prompts are trained through each model in four ways (EVP's rule, with feature
consistency, with task semantics, with both: TVP), with TVP through the first two models together, and with TVP through the first on a tenth of
the data for as many steps. All are tried on all models, and so are the TVP prompts of the other tasks; those of the first model also with
worse pictures, and on a model that learned the task by LoRA. The length of a step is chosen for every task and model among four with EVP's rule, the
first seed and the validation data. Prints accuracy on the test data as mean and standard deviation over the seeds, and what each way gains over the
framed picture without a prompt. What is done already is not done again.
"""

import argparse
import json
import pathlib
import random
import statistics
import sys

from plans import ROOT, picture_of, program, rows_of, spread

sys.path.append(str(ROOT / "tools"))
from prepare_multimodal import spoken, with_article  # noqa: E402

WAYS = {"EVP": (0, 0), "FCA": (0.005, 0), "TSE": (0, 0.001), "TVP": (0.005, 0.001)}
RATES = (0.1, 0.5, 2, 10)
CHANGES = ("gaussian_noise:3", "contrast:3", "jpeg:3")
RECIPES = {"eurosat": "eurosat", "emoji": "emoji_twemoji", "platelets": "bccd_platelets", "yes_no": "fashion_yes_no"}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--models", default="llava,blip2-opt,blip2-t5")
parser.add_argument("--caption-model", default="clip")
parser.add_argument("--data", type=pathlib.Path, default=ROOT.parent / "shared" / "data")
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/tvp"))
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seeds", default="1,2,3")
parser.add_argument("--tasks", default=",".join(RECIPES))
parser.add_argument("--steps", type=int, default=300, help="of every training, 16 pictures each")
parser.add_argument("--train-only", metavar="MODELS", help="train the prompts of these models and stop, so that several processes share the work")
parser.add_argument("--test", type=int, default=500, help="test pictures of a task")
options = parser.parse_args()
mmtune = program(options.threads)
seeds = [int(seed) for seed in options.seeds.split(",")]
tasks = options.tasks.split(",")


def folder_of(name):
    return name if pathlib.Path(name).is_dir() else f"mmtune-{name}-small"


models = {pathlib.Path(name).name: folder_of(name) for name in options.models.split(",")}
first = next(iter(models))


def examples(task):
    """Rows with split, picture and label (and text) of one task."""
    pack = options.data / {"platelets": "bccd", "yes_no": "fashion_mnist"}.get(task, task)
    label = "count_platelets" if task == "platelets" else "class_name"
    rows = rows_of(pack / "manifest.jsonl")
    # The models were asked about emoji of another style; recipes have candidates for up to six platelets.
    rows = [row for row in rows if row.get("style") != "noto" and (task != "platelets" or row[label] <= 6)]
    names = sorted({row[label] for row in rows})
    rng = random.Random(0)
    for row in rows:
        example = {"id": row["id"], "split": row["split"], "image": picture_of(pack, row), "label": str(row[label])}
        if task == "yes_no":
            true = rng.random() < 0.5
            name = row[label] if true else rng.choice([other for other in names if other != row[label]])
            example |= {"text": f"Is this {with_article(spoken('fashion_mnist', name))}?", "label": "yes" if true else "no"}
        yield example


def manifests(task):
    """train, valid and test of a task: all that is there to learn from, some 300 to choose by, options.test to judge by."""
    folder = options.out / "data" / task
    paths = {split: folder / f"{split}.jsonl" for split in ("train", "valid", "test")}
    if not paths["test"].exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(examples(task))
        limits = {"train": 4000, "valid": 300, "test": options.test}
        for split, path in paths.items():
            own = [row for row in rows if row["split"] == ("val" if split == "valid" else split)]
            # Spread over the pack, which may be sorted by class.
            taken = own[::max(1, len(own) // limits[split])][:limits[split]]
            path.write_text("".join(json.dumps(row) + "\n" for row in taken))
    return paths


def reading(task):
    """The changes of a recipe that make it read the task's manifests."""
    paths = manifests(task)
    return [f"data.train={paths['train']}", f"data.valid={paths['valid']}", "data.columns={}", "data.train_where={}", "data.valid_where={}",
            "data.limit=0"]


def prompt(task, seed, name, sources, way, rate, *changes):
    """A run's folder; trained unless it was."""
    out = options.out / task / f"seed-{seed}" / f"{name}-{way}-{rate}"
    fca, tse = WAYS[way]
    through = ", ".join(f"{{ model = '{models[one]}' }}" for one in sources)
    mmtune("train", ROOT / "recipes/tvp" / f"{RECIPES[task]}.toml", *reading(task), f"source=[{through}]",
           f"expert.fca={fca}", f"expert.tse={tse}", f"expert.caption_model={folder_of(options.caption_model)}", f"train.lr={rate}", f"train.seed={seed}",
           f"train.steps={options.steps}", "train.matmul_precision=medium", "train.eval_every=0", *changes, "--out", out, "--resume")
    return out


def rate_of(task, source):
    def valid(rate):
        run = prompt(task, seeds[0], source, [source], "EVP", rate)
        return json.loads((run / "run.json").read_text())["valid"]["accuracy"]

    return max(RATES, key=valid)


def prompts_of(task, seed, rates):
    """Name → run."""
    runs = {}
    for source, rate in rates.items():
        for way in WAYS:
            runs[source, way] = prompt(task, seed, source, [source], way, rate)
    if first in rates:
        both = list(models)[:2]
        runs[" and ".join(both), "TVP"] = prompt(task, seed, "both", both, "TVP", rates[first])
        runs[f"{first}, a tenth of the data", "TVP"] = prompt(task, seed, f"{first}-tenth", [first], "TVP", rates[first], "data.train_fraction=0.1")
    return runs


def tuned_model(seed):
    """LoRA on the second model, for eurosat."""
    out = options.out / "eurosat" / f"seed-{seed}" / "lora"
    mmtune("train", ROOT / "recipes/tvp/eurosat_lora.toml", *reading("eurosat"), f"backbone.main={list(models.values())[1]}",
           f"train.steps={options.steps}", f"train.seed={seed}", "backbone.matmul_precision=medium", "--out", out, "--resume")
    return out


def matrix(task, seed, name, runs, on, *flags):
    """Blocks of rows of accuracies, the two without a prompt first."""
    path = options.out / task / f"seed-{seed}" / f"{name}.json"
    if not path.exists():
        found = mmtune("prompt", "transfer", *runs, "--models", *on, "--data", manifests(task)["test"], *flags, "--json", "--html", path.with_suffix(".html"))
        path.write_text(found)
    blocks = json.loads(path.read_text())["blocks"]
    return [[[cell["metrics"]["accuracy"]["value"] for cell in row["cells"]] for row in block["rows"]] for block in blocks]


def table(head, columns, rows):
    print(f"\n| {head} | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(spread(values, 3) for values in cells)} |")


def by_column(rows, name, values):
    for i, value in enumerate(values):
        rows.setdefault(name, [[] for _ in values])[i].append(value)


through = options.train_only.split(",") if options.train_only else models
rates = {task: {source: rate_of(task, source) for source in through} for task in tasks}
trained = {(task, seed): prompts_of(task, seed, rates[task]) for task in tasks for seed in seeds}
if options.train_only:
    sys.exit()
gains, own_gains = {}, {}
for task in tasks:
    rows, worse = {}, {}
    for seed in seeds:
        runs = trained[task, seed]
        foreign = {f"TVP of {other}, {first}": trained[other, seed][first, "TVP"] for other in tasks if other != task}
        on = [*models.values(), *([tuned_model(seed)] if task == "eurosat" else [])]
        values, = matrix(task, seed, "matrix", [*runs.values(), *foreign.values()], on)
        names = ["no prompt, framed", "no prompt, whole", *(f"{way}, {source}" for source, way in runs), *foreign]
        for name, cells in zip(names, values):
            by_column(rows, name, cells)
        for (source, way), cells in zip(runs, values[2:]):
            for column, target in enumerate(models):
                gain = cells[column] - values[0][column]
                if source in models:
                    (own_gains if target == source else gains).setdefault(way, []).append(gain)
        blocks = matrix(task, seed, "worse", [runs[first, "EVP"], runs[first, "TVP"]], models.values(), *(part for change in CHANGES for part in ("--corrupt", change)))
        for change, block in zip(CHANGES, blocks[1:]):
            for name, cells in zip((f"{change}: no prompt, framed", None, f"{change}: EVP, {first}", f"{change}: TVP, {first}"), block):
                if name:
                    by_column(worse, name, cells)
        print(f"{task}, seed {seed}: done", file=sys.stderr, flush=True)
    table(f"{task}: way, source", [*models, *([f"{list(models)[1]} with LoRA"] if task == "eurosat" else [])], rows)
    table(f"{task}, worse pictures", models, worse)

print("\n| way | gain on its own source | gain on the other models | share of them that gain |\n|---|---|---|---|")
for way in WAYS:
    share = statistics.mean(gain > 0 for gain in gains[way])
    print(f"| {way} | {spread(own_gains[way], 3)} | {spread(gains[way], 3)} | {share:.2f} |")
