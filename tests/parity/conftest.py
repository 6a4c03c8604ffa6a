"""Runs the program: `mmtune(args…)` must succeed and returns its standard output; `mmtune_fails(args…)` must fail with one line."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(arguments):
    program = os.environ.get("MMTUNE", str(ROOT / "build" / "mmtune"))
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture
def mmtune():
    def call(*arguments):
        done = run(arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture
def mmtune_fails():
    def call(*arguments):
        done = run(arguments)
        assert done.returncode in (1, 2), (done.returncode, done.stdout, done.stderr)
        return done.stderr

    return call
