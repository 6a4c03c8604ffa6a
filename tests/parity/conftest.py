"""Runs of the program that must succeed (its standard output is returned), or fail with one line (which is returned)."""

import pytest


@pytest.fixture
def succeeds(mmtune):
    def call(*arguments):
        done = mmtune(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture
def fails(mmtune):
    def call(*arguments):
        done = mmtune(*arguments)
        assert done.returncode in (1, 2), (done.returncode, done.stdout, done.stderr)
        return done.stderr

    return call
