"""Fixtures of the command tests: tiny models and data, and how errors must look."""

import os
from pathlib import Path

import pytest

from tiny import *  # noqa: F403


@pytest.fixture(scope="session")
def program():
    """Path of the program, for tests that start it in their own way."""
    root = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("MMTUNE_BUILD", root / "build")).resolve() / "mmtune"


@pytest.fixture
def refused(mmtune):
    """refused(code, *arguments): the program must fail with that exit code and exactly one line, which is returned."""

    def call(code, *arguments, **options):
        done = mmtune(*arguments, **options)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert done.stdout == ""
        assert done.stderr.startswith("mmtune: error: ")
        assert done.stderr.endswith("\n")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("mmtune: error: ").rstrip("\n")

    return call
