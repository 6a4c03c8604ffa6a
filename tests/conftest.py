"""What the parity and command tests share: where the built programs lie, and how to run them.

MMTUNE_BUILD names the build folder (default: build/), MMTUNE_SHARED the folder of shared data sets (default: ../shared, which may be
absent: tests that need it ask for the fixture `shared`, which skips them).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")).resolve()
SHARED = Path(os.environ.get("MMTUNE_SHARED", ROOT.parent / "shared"))

sys.path.insert(0, str(ROOT / "tests"))


def runner(program):
    """A function that runs `program` with arguments and returns the completed process, its output as text."""
    path = BUILD / program
    if not path.exists():
        pytest.fail(f"{path} is not built; build it with: make build")

    def run(*arguments, **options):
        options.setdefault("timeout", 600)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([str(path), *map(str, arguments)], capture_output=True, text=True, check=False, **options)

    return run


@pytest.fixture(scope="session")
def mmtune():
    """Runs the program: mmtune("inspect", path, "--json")."""
    return runner("mmtune")


@pytest.fixture(scope="session")
def tool():
    """Runs a test tool: tool("safetensors")("copy", a, b) runs mmtune_safetensors_tool."""
    return lambda name: runner(f"mmtune_{name}_tool")


@pytest.fixture(scope="session")
def shared():
    """The folder of shared data sets."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data in {SHARED}")
    return SHARED
