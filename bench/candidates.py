"""The likelihoods of candidate answers about a picture: all of them as a tree behind one prompt, against one pass a candidate.

    python bench/candidates.py [--rounds 3] [--threads 2] [--candidates 100] [--tokens 5] [--layers 12] [--vocabulary 32000]

The model is a LLaVA of ViT-B/16 and a LLaMA of width 768 with random weights, the candidates are random tokens that share next to nothing. Both
forms encode the picture once (outside of the time) and have the same language model, which then reads prompt and candidate together for
every candidate, or the prompt once and behind it the tree that `mmtune eval` and `prompt transfer` ask. Prints one JSON object; the likelihoods of both
must agree.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--candidates", type=int, default=100)
parser.add_argument("--tokens", type=int, default=5)
parser.add_argument("--layers", type=int, default=12)
parser.add_argument("--vocabulary", type=int, default=32000)
options = parser.parse_args()
PROGRAM = pathlib.Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")) / "bench" / "candidates_bench"
arguments = [str(PROGRAM), *map(str, (options.rounds, options.threads, options.candidates, options.tokens, options.layers, options.vocabulary))]
done = subprocess.run(arguments, capture_output=True, text=True)
if done.returncode:
    sys.exit(done.stderr)
found = json.loads(done.stdout)
if not found["largest_difference"] < 0.05:
    sys.exit(f"the two forms differ by {found['largest_difference']}")
print(json.dumps(found))
