"""What the benchmarks share: a command that runs in a process of its own, on so many threads and without a network."""

import os
import subprocess
import sys


def output_of(command, threads, **environment):
    """What it prints. Where it fails, this program ends with its message."""
    own = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=own)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr}")
    return done.stdout
