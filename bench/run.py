"""All benchmarks in one run, and docs/benchmarks.md from what they printed.

    python bench/run.py [--rounds 3] [--threads 2] [--out docs/benchmarks.md]
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--out", default=str(ROOT / "docs" / "benchmarks.md"))
options = parser.parse_args()
BUILD = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build"))


def bench(name, *arguments):
    """The JSON objects that bench/NAME.py prints, one a line."""
    print(f"bench: {name}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, str(ROOT / "bench" / f"{name}.py"), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench/{name}.py failed:\n{done.stderr}")
    return done.stdout


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def whole(text):
    """The one JSON object of a script that prints it indented."""
    return json.loads(text[text.index("{"):])


# Backbones whose step has the looser goal.
LOOSER = ("Swin", "CLIP", "Wav2Vec2")
rows = []
for one in lines(bench("step", "--rounds", options.rounds, "--threads", options.threads)):
    bound = "1.15" if any(name in one["work"] for name in LOOSER) else "1.10"
    rows.append((one["work"], f"≤ {bound} × bound; ≤ 1 × peer; memory ≤ 0.65 ×",
                 f'{one["step_over_bound"]:.2f} × bound; {one["step_over_peer"]:.2f} × the peer\'s time; {one["peak_over_peer"]:.2f} × its memory'
                 f' (float32 products: {one["float32_step_over_bound"]:.2f}; {one["float32_step_over_peer"]:.2f})'))
for one in lines(bench("epoch", "--rounds", options.rounds, "--threads", options.threads)):
    rows.append((one["work"], "≥ 2 × the peer's speed, accuracy not lower",
                 f'{one["speed_over_peer"]:.2f} ×; accuracy by seed {one["accuracy"]} against {one["peer_accuracy"]}'))
mope, = lines(bench("mope", "--rounds", options.rounds, "--threads", options.threads))
rows.append((f'{mope["work"]}; the peer is `bench/mope_peer.py`', "≤ 1.20 × bound; ≥ 1.3 × the peer's speed; memory ≤ 0.7 × its and ≤ 1.82 GiB",
             f'{mope["step_over_bound"]:.2f} × bound; {1 / mope["step_over_peer"]:.2f} × its speed; {mope["peak_over_peer"]:.2f} × its memory, '
             f'{mope["peak_bytes"] / 2 ** 30:.2f} GiB (float32 products: {mope["float32_step_over_bound"]:.2f}; {1 / mope["float32_step_over_peer"]:.2f})'))
rows.append(("the same with K = 64", "≤ 1.03 × the step", f'{mope["step_of_64_experts_over_4"]:.2f} ×'))
if "first_epoch_over_later" in mope:
    rows.append(("MoPE with a frozen text tower, real sentences: the second epoch", "≥ 1.5 × the first's speed", f'{mope["first_epoch_over_later"]:.2f} ×'))
fisher, = lines(bench("fisher", "--rounds", options.rounds, "--threads", options.threads))
rows.append((fisher["work"], "≥ 20 × a loop of single examples; ≤ 1.6 × a training epoch",
             f'{fisher["loop_over_ours"]:.1f} × the loop\'s speed; {fisher["over_epoch"]:.2f} × the epoch'))
rows.append(("a step that averages three experts, against that of one", "≤ 1.08 ×",
             "; ".join(f"{kind} {ratio:.2f} ×" for kind, ratio in fisher["pi_over_single"].items())))
graph, = lines(bench("graph", "--threads", options.threads))
rows.append((graph["work"], "seconds; memory of two embeddings at a time",
             f'{graph["values_per_second"] / 1e6:.0f} M values compared a second, {graph["seconds"]:.0f} s; {graph["peak_over_two"]:.2f} × two embeddings'))
written, = lines(bench("generate", "--rounds", options.rounds, "--threads", options.threads))
rows.append((f'writing answers: {written["work"]}', "≥ 2 × the uncached form", f'{written["uncached_over_cached"]:.1f} ×'))
cached, = lines(bench("cached_epoch", "--threads", options.threads))
rows.append((f'{cached["work"]}: the second epoch', "≥ 50 × the first",
             f'{cached["first_epoch_over_second"]:.0f} ×; the first epoch of the next run {cached["first_epoch_over_first_of_the_next_run"]:.0f} ×'))
lean, = lines(bench("lean", "--rounds", options.rounds, "--threads", options.threads))
rows.append((lean["work"], "≤ 0.35 × the peer's peak memory, ≤ 1.4 × its time",
             f'{lean["peak_over_peer"]:.2f} × its memory, {lean["step_over_peer"]:.2f} × its time; without both {lean["plain_peak_over_peer"]:.2f} × and {lean["plain_step_over_peer"]:.2f} ×'))
if shutil.which("mpirun") and (BUILD / "libmmtune_mpi.so").exists():
    processes, = lines(bench("mpi", "--rounds", options.rounds))
    rows.append((processes["work"], "≥ 0.95 × its speed", f'{processes["speed_over_threads"]:.2f} ×'))
start, loading = lines(bench("start", "--rounds", options.rounds, "--threads", options.threads))
rows.append((start["work"], "≥ 10 × the peer's speed", f'{start["speed_over_peer"]:.1f} ×'))
rows.append((loading["work"], "bounded by the disk, no second copy",
             f'{loading["time_over_reading_the_file"]:.2f} × the time of reading the file; memory above a tiny model {loading["memory_above_a_tiny_model_over_file_size"]:.2f} × the file'))
tokens = whole(bench("tokenizer", "--program", BUILD / "bench" / "tokenize_bench"))
rows.append((f'tokenising {tokens["texts"]:,} texts, one thread', "≥ 1 × the speed of `tokenizers`",
             f'{tokens["offsets"]["ratio"]:.2f} × with offsets, {tokens["ids"]["ratio"]:.2f} × ids only'))
for name, one in whole(bench("tokenizer", "--bpe", "--program", BUILD / "bench" / "tokenize_bench")).items():
    if isinstance(one, dict):
        rows.append((f'the same, byte-pair tokenizer as {"RoBERTa" if name == "roberta" else "CLIP"}\'s', "≥ 1 × the speed of `tokenizers`",
                     f'{one["offsets"]["ratio"]:.2f} × with offsets, {one["ids"]["ratio"]:.2f} × ids only'))
pictures = whole(bench("images", "--program", BUILD / "bench" / "images_bench"))["sets"]
rows.append(("decoding and resizing JPEG to 224², two threads", "≥ 1.5 × the transformers processor with Pillow",
             "; ".join(f'{name}: {one["times_as_fast_as_peer_threads"]:.2f} × its threads, {one["times_as_fast_as_peer_processes"]:.2f} × its processes'
                       for name, one in pictures.items())))

table = "\n".join(f"| {work} | {goal} | {result} |" for work, goal, result in rows)
pathlib.Path(options.out).write_text(f"""# Benchmarks

Made by one run of `make bench` on {platform.machine()} with {options.threads} threads; every figure is a ratio of neighbours in time, the median over
{options.rounds} rounds. Peers do the same work on the same files and threads. Dropout is off on both sides in every row.

*Operation bound*: two operations for every multiply-accumulate that the step cannot avoid (forward, and the gradients of activations; no gradients of
frozen weights), at the rate of float32 matrix products measured between the steps of the same run.

| work | goal | measured |
|---|---|---|
{table}

Products with frozen weights are split in two bfloat16 numbers where the processor multiplies those (docs/engine.md), which is how a step can
take less than the bound; the figures in brackets are without that. `bench/parts.py` times the operations of one block alone.

Single rows: `python bench/step.py`, `bench/epoch.py`, `bench/cached_epoch.py`, `bench/lean.py`, `bench/mope.py`, `bench/fisher.py`, `bench/graph.py`, `bench/generate.py`, `bench/mpi.py`, `bench/start.py`, `bench/tokenizer.py`, `bench/images.py`; each says at its top what it does.
""")
print(f"wrote {options.out}")
