#!/usr/bin/env bash
# Runs clang-tidy over our own C++ files, two at a time. usage: tools/lint.sh [FILE…]
# Environment: LINT (files, instead of all; shell patterns), VENV, TORCH_DIR, JOBS.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v clang-tidy-14 >/dev/null || {
  echo "lint: clang-tidy-14 not found. Install it with: sudo apt-get install clang-tidy-14" >&2
  exit 1
}
# A build folder of its own: clang-tidy understands clang's precompiled header and not g++'s, and without one every file takes minutes.
tools/build.sh lint

files=("$@")
if [ ${#files[@]} -eq 0 ] && [ -n "${LINT:-}" ]; then
  read -r -a patterns <<<"$LINT"
  # shellcheck disable=SC2068  # the patterns are to be expanded
  for file in ${patterns[@]}; do files+=("$file"); done
fi
if [ ${#files[@]} -eq 0 ]; then
  mapfile -t files < <(git ls-files -co --exclude-standard 'src/*.cpp' 'cli/*.cpp' 'tests/*.cpp' ':!tests/fuzz/*')
fi
python3 tools/lint_groups.py build-lint "${JOBS:-2}" "${files[@]}"
