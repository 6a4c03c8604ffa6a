"""Decoding JPEG files and making ViT's pixel_values (224 x 224, bilinear), two threads: mmtune against transformers with Pillow.

All encoded files are in memory before the clock starts. Passes over the same pictures alternate between mmtune (threads of one
program), the peer with a pool of threads, and the peer with a pool of processes (whose results stay in the worker, so that nothing
is copied between them). The ratio of each round is taken between neighbours in time; the median over the rounds is reported.

    python bench/images.py --program build/bench/images_bench [--shared ../shared] [--json FILE]
"""

import argparse
import concurrent.futures
import io
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # the pool is the parallelism

import PIL  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402

PICTURES = []
PROCESSOR = transformers.ViTImageProcessorPil()


def process(index):
    with Image.open(io.BytesIO(PICTURES[index])) as image:
        return PROCESSOR(image.convert("RGB"), return_tensors="np")["pixel_values"].size


def jpegs(shared, name):
    folder = shared / "data" / name
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["member"].endswith((".jpg", ".jpeg")):
            with open(folder / row["shard"], "rb") as shard:
                shard.seek(row["offset"])
                yield shard.read(row["size"])


def timed(pool, chunk):
    start = time.perf_counter()
    values = sum(pool.map(process, range(len(PICTURES)), chunksize=chunk))
    return time.perf_counter() - start, values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/bench/images_bench")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MMTUNE_SHARED", "../shared")))
    parser.add_argument("--sets", nargs="+", default=["coco_cc", "caltech20"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=int, default=300, help="pictures a set")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = {"threads": arguments.threads, "pillow": PIL.__version__, "transformers": transformers.__version__, "sets": {}}
    for name in arguments.sets:
        PICTURES[:] = list(jpegs(arguments.shared, name))[: arguments.limit]
        with tempfile.TemporaryDirectory() as folder:
            PROCESSOR.save_pretrained(folder)
            paths = [Path(folder) / f"{index}.jpg" for index in range(len(PICTURES))]
            for path, data in zip(paths, PICTURES, strict=True):
                path.write_bytes(data)
            listing = Path(folder) / "list"
            listing.write_text("".join(f"{path}\n" for path in paths))
            command = [arguments.program, folder, str(arguments.threads), str(listing)]
            with (
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program,
                concurrent.futures.ThreadPoolExecutor(arguments.threads) as threads,
                concurrent.futures.ProcessPoolExecutor(arguments.threads) as processes,  # forks here, after PICTURES is filled
            ):

                def ours(program=program):
                    print("go", file=program.stdin, flush=True)
                    seconds, values = program.stdout.readline().split()
                    return float(seconds), int(values)

                rounds = []
                for turn in range(arguments.rounds + 1):
                    results = {"mmtune": ours(), "threads": timed(threads, 1), "processes": timed(processes, 4)}
                    assert len({values for _, values in results.values()}) == 1, "not the same work"
                    if turn > 0:  # the first round warms up
                        rounds.append({key: seconds for key, (seconds, _) in results.items()})
                program.stdin.close()
        median = {key: statistics.median(turn[key] for turn in rounds) for key in rounds[0]}
        report["sets"][name] = {
            "pictures": len(PICTURES),
            "bytes": sum(map(len, PICTURES)),
            "milliseconds_a_picture": {key: round(1000 * seconds / len(PICTURES), 3) for key, seconds in median.items()},
            "times_as_fast_as_peer_threads": round(statistics.median(turn["threads"] / turn["mmtune"] for turn in rounds), 2),
            "times_as_fast_as_peer_processes": round(statistics.median(turn["processes"] / turn["mmtune"] for turn in rounds), 2),
        }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
