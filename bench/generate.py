"""Writing answers with cached keys and values against doing everything again for every token, on a model of OFA-Base's shape with random weights.

    python bench/generate.py [--rounds 3] [--threads 2] [--beams 5] [--tokens 16] [--image 384] [--words 12] [--batch 2]

`cached` is what tasks use: one beam search over the decoder that keeps its keys and values. `uncached` asks the whole decoder again for every
token of every beam, with the same encoder's output, which is computed once in both. Prints one JSON object; the tokens of both must agree.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--beams", type=int, default=5)
parser.add_argument("--tokens", type=int, default=16)
parser.add_argument("--image", type=int, default=384)
parser.add_argument("--words", type=int, default=12)
parser.add_argument("--batch", type=int, default=2)
parser.add_argument("--shape", choices=["base", "tiny"], default="base")
options = parser.parse_args()
PROGRAM = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "bench" / "generate_bench"
arguments = [str(PROGRAM), options.shape, *map(str, (options.rounds, options.threads, options.beams, options.tokens, options.image, options.words, options.batch))]
done = subprocess.run(arguments, capture_output=True, text=True)
if done.returncode:
    sys.exit(done.stderr)
print(json.dumps(json.loads(done.stdout)))
