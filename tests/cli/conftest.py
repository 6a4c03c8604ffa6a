"""Fixtures of the command tests: tiny models and data, and how errors must look."""

import os
from pathlib import Path

import pytest

from sounds import make_wav2vec2
from tiny import *  # noqa: F403


@pytest.fixture(scope="session")
def program():
    """Path of the program, for tests that start it in their own way."""
    root = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("MMTUNE_BUILD", root / "build")).resolve() / "mmtune"


@pytest.fixture(scope="session")
def tiny_wav2vec2(tmp_path_factory):
    """Folder of a tiny Wav2Vec2 with its feature extractor: 16 kHz, layer norm, an attention mask."""
    folder = tmp_path_factory.mktemp("models") / "wav2vec2"
    make_wav2vec2(folder, feat_extract_norm="layer", do_stable_layer_norm=True)
    return folder


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
