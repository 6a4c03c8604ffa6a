"""What neighbours' experts are worth: a library of experts on one backbone, the graph of their tasks, and interpolation for new tasks.

    python evidence/pi_tasks.py ../shared/data data data/pi_tasks
    python evidence/pi.py --out runs/pi [--threads 2] [--seeds 1,2,3] [--targets a,b,c] [--sizes 16,0]

Every task's expert (LoRA on the bundled ViLT, recipes/pi/small_vilt.toml) is trained once on its data: the library, and its graph with
pictures and a page. Then, for every target, size (examples a class; 0: all) and seed: the target's own expert on that data with half of
the steps; a graph of it and the library without the target; interpolation with its neighbours for the other half, from the own expert;
and, with all steps, a longer run of one expert, one expert begun from the nearest neighbour's, and full fine-tuning. Rates of the
experts and of full fine-tuning are chosen among three with the first seed by the validation data; interpolations take the expert's.
Prints test accuracies as mean and standard deviation, what the coefficients did, and how the graph groups the modalities. What is done
already is not done again.
"""

import argparse
import collections
import json
import pathlib
import shutil
import statistics
import sys

from plans import ROOT, program, spread

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--tasks", type=pathlib.Path, default=pathlib.Path("data/pi_tasks"))
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/pi"))
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seeds", default="1,2,3")
parser.add_argument("--targets", default="caltech20,flowers5,emoji_twemoji,digits_heard,snips,easy_vqa")
parser.add_argument("--sizes", default="16,0", help="examples a class; 0: all of the training data")
parser.add_argument("--steps", default="30,45", help="half of the steps, one number a size")
parser.add_argument("--library-steps", type=int, default=240)
parser.add_argument("--samples", type=int, default=300, help="examples of a task embedding")
options = parser.parse_args()
mmtune = program(options.threads)
modalities = json.loads((options.tasks / "tasks.json").read_text())
seeds = [int(seed) for seed in options.seeds.split(",")]
sizes = dict(zip(map(int, options.sizes.split(",")), map(int, options.steps.split(","))))
RECIPE = ROOT / "recipes/pi/small_vilt.toml"
EXPERT_RATES, FULL_RATES = (3e-4, 1e-3, 3e-3), (3e-5, 1e-4, 3e-4)


def trained(folder, task, steps, *changes):
    """A run's numbers; trained and tested unless it was."""
    result = folder / "result.json"
    if not result.exists():
        data = options.tasks / task
        shutil.rmtree(folder, ignore_errors=True)
        mmtune("train", RECIPE, f"data.train={data / 'train.jsonl'}", f"data.valid={data / 'valid.jsonl'}", f"train.steps={steps}",
               f"train.eval_every={max(steps // 2, 1)}", "backbone.matmul_precision=medium", *changes, "--out", folder)
        record = json.loads((folder / "run.json").read_text())
        metrics = json.loads(mmtune("eval", folder, "--data", data / "test.jsonl", "--json"))["metrics"]
        result.write_text(json.dumps({"accuracy": metrics["accuracy"]["value"], "valid": record["best"]["value"],
                                      "averages": record.get("interpolation")}) + "\n")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        print(f"{folder.relative_to(options.out)}: {metrics['accuracy']['value']:.4f}", file=sys.stderr, flush=True)
    return json.loads(result.read_text())


def best_rate(rates, run):
    """run(rate): a run's numbers. The first of the best."""
    return max(rates, key=lambda rate: run(rate)["valid"])


def library():
    runs = {task: options.out / "library" / task for task in modalities}
    for task, folder in runs.items():
        trained(folder, task, options.library_steps)
    graph = options.out / "library.json"
    if not graph.exists():
        kinds = (part for modality in modalities.values() for part in ("--modality", modality))
        mmtune("graph", "build", *runs.values(), *kinds, "--samples", options.samples, "--out", graph)
        mmtune("graph", "show", "--graph", graph, *(part for end in ("html", "svg", "png") for part in (f"--{end}", graph.with_suffix(f".{end}"))))
    return runs, json.loads(mmtune("graph", "show", "--graph", graph, "--json"))


def methods(target, size, seed, runs):
    """Name of a method → its numbers, for one target, size and seed."""
    half = sizes[size]
    base = options.out / target / f"{size or 'all'}-shots"
    data, first = ((f"data.shots={size}", f"data.shot_seed={number}", f"train.seed={number}") for number in (seed, seeds[0]))
    rate = best_rate(EXPERT_RATES, lambda lr: trained(base / f"seed-{seeds[0]}" / f"own-{lr:g}", target, half, *first, f"train.lr={lr:g}"))
    full = best_rate(FULL_RATES, lambda lr: trained(base / f"seed-{seeds[0]}" / f"full-{lr:g}", target, 2 * half, *first, f"train.lr={lr:g}",
                                                    "expert={method='full'}"))
    folder = base / f"seed-{seed}"
    own = folder / f"own-{rate:g}"
    found = {"own expert, half of the steps": trained(own, target, half, *data, f"train.lr={rate:g}"),
             "one expert": trained(folder / "longer", target, 2 * half, *data, f"train.lr={rate:g}"),
             "full fine-tuning": trained(folder / f"full-{full:g}", target, 2 * half, *data, f"train.lr={full:g}", "expert={method='full'}")}
    graph = folder / "graph.json"
    others = {task: run for task, run in runs.items() if task != target}
    if not graph.exists():
        names = (part for name in (target, *others) for part in ("--name", name))
        mmtune("graph", "build", own, *others.values(), *names, "--samples", options.samples, "--out", graph)

    def average(name, keys):
        expert = f"expert={{method='pi',target='{own}',graph='{graph}',task='{target}',{keys}}}"
        return trained(folder / name, target, half, *data, f"train.lr={rate:g}", expert)

    for k in (1, 2, 3):
        found[f"π, k = {k}"] = average(f"pi-{k}", f"neighbours={k}")
    found["π, k = 2, coefficients at the experts' rate"] = average("pi-2-slow", f"neighbours=2,coefficient_lr={rate:g}")
    found["random neighbours, k = 2"] = average("random-2", f"neighbours=2,pick='random',pick_seed={seed}")
    found["least similar, k = 2"] = average("least-2", "neighbours=2,pick='least_similar'")
    near, = json.loads(mmtune("graph", "neighbours", target, "-k", 1, "--graph", graph, "--json"))
    found["begun from the nearest neighbour"] = trained(folder / "from-nearest", target, 2 * half, *data, f"train.lr={rate:g}",
                                                        f"expert={{method='pi',experts=['{runs[near['neighbour']]}']}}")
    found["uniform soup, k = 2; the head learns"] = average("soup-2", "neighbours=2,train_experts=false,train_coefficients=false")
    return found


def moved(numbers):
    """How far the target's coefficient went from its start, mean over the sites; None where the run left the target's own expert."""
    averages = numbers["averages"][0]
    rows, target = averages["coefficients"], averages["target"]
    if all(row[target] == 1 for row in rows):
        return None
    return statistics.mean(abs(row[target] - 1 / len(row)) for row in rows)


def told(shifts):
    """Of the runs of one method."""
    went = [shift for shift in shifts if shift is not None]
    return f"{spread(went, 3) if went else ''} | {len(shifts) - len(went)} of {len(shifts)}"


runs, graph = library()
alike = 0
print("| task | modality | its expert's test accuracy | nearest tasks |\n|---|---|---|---|")
for task, modality in modalities.items():
    near = json.loads(mmtune("graph", "neighbours", task, "-k", 3, "--graph", options.out / "library.json", "--json"))
    alike += modalities[near[0]["neighbour"]] == modality
    nearest = ", ".join(f"{one['neighbour']} {one['similarity']:.3f}" for one in near)
    print(f"| {task} | {modality} | {trained(runs[task], task, options.library_steps)['accuracy']:.3f} | {nearest} |")

names, pairs = list(modalities), {}
for i, one in enumerate(names):
    for j, other in enumerate(names[:i]):
        kinds = sorted((modalities[one], modalities[other]))
        pairs.setdefault(" and ".join(dict.fromkeys(kinds)), []).append(graph["similarity"][i][j])
print("\n| modalities of two tasks | similarity, mean and standard deviation over the pairs |\n|---|---|")
for kinds, values in sorted(pairs.items(), key=lambda item: -statistics.mean(item[1])):
    print(f"| {kinds} | {spread(values, 3)} |")
chance = sum(count * (count - 1) for count in collections.Counter(modalities.values()).values()) / (len(names) - 1)
print(f"\nThe nearest task is of the same modality for {alike} of {len(names)} tasks; by chance {chance:.1f} would be.")

targets = options.targets.split(",")
for size in sizes:
    found, shifts = {}, {}
    for target in targets:
        for seed in seeds:
            for name, numbers in methods(target, size, seed, runs).items():
                found.setdefault(name, {}).setdefault(target, []).append(numbers["accuracy"])
                if numbers["averages"] and numbers["averages"][0]["target"] is not None:
                    shifts.setdefault(name, []).append(moved(numbers))
    print(f"\n| {f'{size} examples a class' if size else 'all examples'} | {' | '.join(targets)} | mean | target's coefficient moved by | own expert kept |")
    print("|---" * (len(targets) + 4) + "|")
    for name, by_target in found.items():
        mean = statistics.mean(statistics.mean(values) for values in by_target.values())
        cells = " | ".join(spread(by_target[target], 3) for target in targets)
        print(f"| {name} | {cells} | {mean:.3f} | {told(shifts[name]) if name in shifts else ' | '} |")
