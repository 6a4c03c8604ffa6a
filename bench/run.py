"""All benchmarks, or those named, and docs/benchmarks.md from what they and earlier calls printed.

    python bench/run.py [NAME…] [--rounds 3] [--threads 2] [--out docs/benchmarks.md]

What a benchmark printed is kept beside the build, in bench/results/NAME.json there; the page has a row for everything that lies there.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build"))
RESULTS = BUILD / "bench" / "results"

# A word of a step's name → its goals: time against the bound, and peak memory against the peer's. The others' are 1.10 and 0.65.
STEP_GOALS = {"Swin": (1.15, 0.65), "CLIP": (1.15, 0.65), "Wav2Vec2": (1.15, 0.65), "ViLT": (1.08, 0.6)}


def step_rows(found):
    for one in found:
        bound, memory = next((goals for word, goals in STEP_GOALS.items() if word in one["work"]), (1.10, 0.65))
        yield (one["work"], f"≤ {bound:.2f} × bound; ≤ 1 × peer; memory ≤ {memory} ×",
               f'{one["step_over_bound"]:.2f} × bound; {one["step_over_peer"]:.2f} × the peer\'s time; {one["peak_over_peer"]:.2f} × its memory'
               f' (float32 products: {one["float32_step_over_bound"]:.2f}; {one["float32_step_over_peer"]:.2f})')


def epoch_rows(found):
    for one in found:
        yield (one["work"], "≥ 2 × the peer's speed, accuracy not lower",
               f'{one["speed_over_peer"]:.2f} ×; accuracy by seed {one["accuracy"]} against {one["peer_accuracy"]}')


def mope_rows(found):
    one, = found
    yield (f'{one["work"]}; the peer is `bench/mope_peer.py`', "≤ 1.20 × bound; ≥ 1.3 × the peer's speed; memory ≤ 0.7 × its and ≤ 1.82 GiB",
           f'{one["step_over_bound"]:.2f} × bound; {1 / one["step_over_peer"]:.2f} × its speed; {one["peak_over_peer"]:.2f} × its memory, '
           f'{one["peak_bytes"] / 2 ** 30:.2f} GiB (float32 products: {one["float32_step_over_bound"]:.2f}; {1 / one["float32_step_over_peer"]:.2f})')
    yield "the same with K = 64", "≤ 1.03 × the step", f'{one["step_of_64_experts_over_4"]:.2f} ×'
    if "first_epoch_over_later" in one:
        yield "MoPE with a frozen text tower, real sentences: the second epoch", "≥ 1.5 × the first's speed", f'{one["first_epoch_over_later"]:.2f} ×'


def apt_rows(found):
    for one in found:
        extra = one["apt_extra_over"]
        yield (f'APT on {one["work"]}', "extra time ≤ 1.15 × its own operations, ≤ 0.15 × deep prompts'" + ("; ≤ 1.20 × bound" if "training" in one["work"] else ""),
               f'{one["apt_extra_over_own"]:.2f} × its own operations; {extra["deep prompts"]:.2f} × deep prompts\' extra time, '
               f'{extra["deep prompts, keys and values for every example"]:.2f} × that of their keys and values alone, '
               f'{extra["deep prompts, keys and values once"]:.2f} × with those computed once; {one["over_bound"]["APT"]:.2f} × bound')


def apt_meter_rows(found):
    for one in found:
        extra = one["apt_extra_over"]
        yield (f'APT on {one["work"]}', "extra time ≤ 0.33 × that of deep prompts at the same 24 places",
               f'{extra["deep prompts, keys and values for every example"]:.2f} × that of deep prompts\' keys and values, {extra["deep prompts"]:.2f} × that of '
               f'prompts that pass through every layer; {one["apt_extra_over_own"]:.2f} × its own operations; {one["over_bound"]["APT"]:.2f} × bound')


def epoch_vilt_rows(found):
    one, = found
    yield (one["work"], "≥ 1.4 × the peer's speed", f'{one["speed_over_peer"]:.2f} × (float32 products: {one["float32_speed_over_peer"]:.2f})')


def tvp_rows(found):
    one, = found
    yield (one["work"], "≤ 1.15 × bound; ≥ 1.5 × the peer's speed; memory ≤ 0.7 ×",
           f'{one["step_over_bound"]:.2f} × bound; {1 / one["step_over_peer"]:.2f} × its speed; {one["peak_over_peer"]:.2f} × its memory'
           f' (float32 products: {one["float32_step_over_bound"]:.2f}; {1 / one["float32_step_over_peer"]:.2f})')


def big_rows(found):
    one, = found
    yield (f'{one["work"]} ({one["checkpoint_bytes"] / 2 ** 30:.1f} GiB)', "≤ 20 GiB",
           f'{one["peak_bytes"] / 2 ** 30:.1f} GiB; {one["last_step_seconds"]:.0f} s a step, {one["step_over_bound"]:.1f} × bound')


def retrieve_rows(found):
    one, = found
    yield (one["work"], "≥ 2 × a plain loop in PyTorch",
           f'{one["times_as_fast_as_single"]:.2f} × a loop over pairs, {one["times_as_fast_as_batched"]:.2f} × one over pictures that batches texts '
           f'(float32 products: {one["float32_times_as_fast_as_single"]:.2f}, {one["float32_times_as_fast_as_batched"]:.2f})')


def fisher_rows(found):
    one, = found
    yield (one["work"], "≥ 20 × a loop of single examples; ≤ 1.6 × a training epoch",
           f'{one["loop_over_ours"]:.1f} × the loop\'s speed; {one["over_epoch"]:.2f} × the epoch')
    yield ("a step that averages three experts, against that of one", "≤ 1.08 ×",
           "; ".join(f"{kind} {ratio:.2f} ×" for kind, ratio in one["pi_over_single"].items()))


def graph_rows(found):
    one, = found
    yield (one["work"], "seconds; memory of two embeddings at a time",
           f'{one["values_per_second"] / 1e6:.0f} M values compared a second, {one["seconds"]:.0f} s; {one["peak_over_two"]:.2f} × two embeddings')


def generate_rows(found):
    one, = found
    yield f'writing answers: {one["work"]}', "≥ 2 × the uncached form", f'{one["uncached_over_cached"]:.1f} ×'


def candidates_rows(found):
    one, = found
    yield one["work"], "≥ 8 × one pass a candidate", f'{one["pass_over_tree"]:.1f} ×'


def cached_epoch_rows(found):
    one, = found
    yield (f'{one["work"]}: the second epoch', "≥ 50 × the first",
           f'{one["first_epoch_over_second"]:.0f} ×; the first epoch of the next run {one["first_epoch_over_first_of_the_next_run"]:.0f} ×')


def lean_rows(found):
    one, = found
    yield (one["work"], "≤ 0.35 × the peer's peak memory, ≤ 1.4 × its time",
           f'{one["peak_over_peer"]:.2f} × its memory, {one["step_over_peer"]:.2f} × its time; '
           f'without both {one["plain_peak_over_peer"]:.2f} × and {one["plain_step_over_peer"]:.2f} ×')


def mpi_rows(found):
    one, = found
    yield one["work"], "≥ 0.95 × its speed", f'{one["speed_over_threads"]:.2f} ×'


def start_rows(found):
    start, loading = found
    yield start["work"], "≥ 10 × the peer's speed", f'{start["speed_over_peer"]:.1f} ×'
    yield (loading["work"], "bounded by the disk, no second copy",
           f'{loading["time_over_reading_the_file"]:.2f} × the time of reading the file; '
           f'memory above a tiny model {loading["memory_above_a_tiny_model_over_file_size"]:.2f} × the file')


def tokenizer_rows(found):
    one, = found
    yield (f'tokenising {one["texts"]:,} texts, one thread', "≥ 1 × the speed of `tokenizers`",
           f'{one["offsets"]["ratio"]:.2f} × with offsets, {one["ids"]["ratio"]:.2f} × ids only')


def bpe_rows(found):
    for name, one in found[0].items():
        if isinstance(one, dict):
            yield (f'the same, byte-pair tokenizer as {"RoBERTa" if name == "roberta" else "CLIP"}\'s', "≥ 1 × the speed of `tokenizers`",
                   f'{one["offsets"]["ratio"]:.2f} × with offsets, {one["ids"]["ratio"]:.2f} × ids only')


def images_rows(found):
    yield ("decoding and resizing JPEG to 224², two threads", "≥ 1.5 × the transformers processor with Pillow",
           "; ".join(f'{name}: {one["times_as_fast_as_peer_threads"]:.2f} × its threads, {one["times_as_fast_as_peer_processes"]:.2f} × its processes'
                     for name, one in found[0]["sets"].items()))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("names", nargs="*", metavar="NAME", help="all but big, where none is given")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "benchmarks.md")
options = parser.parse_args()

rounds, threads = ["--rounds", options.rounds], ["--threads", options.threads]
# Name → its script, what the script is called with, and the rows of what it prints.
BENCHMARKS = {
    "step": ("step", [*rounds, *threads], step_rows),
    # Its accuracies are compared over seeds, a round each.
    "epoch": ("epoch", ["--rounds", max(3, options.rounds), *threads], epoch_rows),
    "mope": ("mope", [*rounds, *threads], mope_rows),
    "apt": ("apt", [*rounds, *threads], apt_rows),
    "apt_meter": ("apt", ["--model", "meter", *rounds, *threads], apt_meter_rows),
    "epoch_vilt": ("epoch_vilt", [*rounds, *threads], epoch_vilt_rows),
    "tvp": ("tvp", [*rounds, *threads], tvp_rows),
    "big": ("big", ["--folder", BUILD / "bench" / "big", *threads], big_rows),
    "retrieve": ("retrieve", [*rounds, *threads], retrieve_rows),
    "fisher": ("fisher", [*rounds, *threads], fisher_rows),
    "graph": ("graph", threads, graph_rows),
    "generate": ("generate", [*rounds, *threads], generate_rows),
    "candidates": ("candidates", [*rounds, *threads], candidates_rows),
    "cached_epoch": ("cached_epoch", threads, cached_epoch_rows),
    "lean": ("lean", [*rounds, *threads], lean_rows),
    "mpi": ("mpi", rounds, mpi_rows),
    "start": ("start", [*rounds, *threads], start_rows),
    "tokenizer": ("tokenizer", ["--program", BUILD / "bench" / "tokenize_bench"], tokenizer_rows),
    "bpe": ("tokenizer", ["--bpe", "--program", BUILD / "bench" / "tokenize_bench"], bpe_rows),
    "images": ("images", ["--program", BUILD / "bench" / "images_bench"], images_rows),
}
# Whose rounds are not options.rounds.
ROUNDS_OF = {"epoch": max(3, options.rounds), "big": 1, "graph": 1, "cached_epoch": 1, "tokenizer": 1, "bpe": 1, "images": 1}


def printed(text):
    """The JSON objects in what a script printed, one a line or one indented."""
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.rstrip().endswith("}")]
    return found or [json.loads(text[text.index("{"):])]


def measure(name):
    script, arguments, _ = BENCHMARKS[name]
    print(f"bench: {name}", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, str(ROOT / "bench" / f"{script}.py"), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        print(f"bench/{script}.py failed:\n{done.stderr}", file=sys.stderr, flush=True)
        return False
    print(f"bench: {name} took {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    result = {"date": time.strftime("%Y-%m-%d"), "rounds": ROUNDS_OF.get(name, options.rounds), "threads": options.threads, "found": printed(done.stdout)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return True


unknown = [name for name in options.names if name not in BENCHMARKS]
if unknown:
    sys.exit(f"no such benchmark: {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
has_mpi = shutil.which("mpirun") and (BUILD / "libmmtune_mpi.so").exists()
# "big" needs 17 GB of disk.
chosen = options.names or [name for name in BENCHMARKS if name != "big" and (name != "mpi" or has_mpi)]
failed = [name for name in chosen if not measure(name)]

table = ""
for name, (_, _, rows) in BENCHMARKS.items():
    if not (RESULTS / f"{name}.json").exists():
        continue
    result = json.loads((RESULTS / f"{name}.json").read_text())
    for work, goal, measured in rows(result["found"]):
        table += f'| {work} | {goal} | {measured} | `{name}`, {result["rounds"]} |\n'

options.out.write_text(f"""# Benchmarks

Made by `make bench` on {platform.machine()} with {options.threads} threads and nothing else running; single rows may be of a later call. Every figure is a ratio of
neighbours in time: the two sides of a row take turns in one run of its benchmark, and the figure is the median over its rounds. Peers do the same work on the same files and
threads. Dropout is off on both sides in every row.

*Operation bound*: two operations for every multiply-accumulate that the step cannot avoid (forward, and the gradients of activations; no gradients of
frozen weights), at the rate of float32 matrix products measured between the steps of the same run.

| work | goal | measured | benchmark, rounds |
|---|---|---|---|
{table}
Products with frozen weights are split in two bfloat16 numbers where the processor multiplies those ([engine](engine.md)), which is how a step can
take less than the bound; the figures in brackets are without that, float32 throughout as the peer's. `bench/parts.py` times the operations of one
block alone.

`python bench/run.py NAME…` measures single rows anew and writes this page; the scripts are `bench/NAME.py` (`bpe`: `bench/tokenizer.py --bpe`), and
each says at its top what it does.
""")
print(f"wrote {options.out}")
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
