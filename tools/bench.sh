#!/usr/bin/env bash
# Builds the program and the C++ benchmarks, runs all of bench/ and writes docs/benchmarks.md. Run through `make bench`.
# Environment: VENV (.venv), BUILD (build), ROUNDS (3), THREADS (2).
set -euo pipefail
cd "$(dirname "$0")/.."
tools/build.sh program bench
MMTUNE_BUILD="$(realpath "${BUILD:-build}")" "${VENV:-.venv}/bin/python" bench/run.py --rounds "${ROUNDS:-3}" --threads "${THREADS:-2}"
