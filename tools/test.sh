#!/usr/bin/env bash
# Runs the named parts of the tests in order and stops at the first that fails.
# usage: tools/test.sh [format] [unit] [python] [sanitize] [fuzz]
# Environment: BUILD, VENV, JOBS, TORCH_DIR, PYTEST_ARGS, FUZZ_SECONDS (10), FUZZ_SEED (1: the same inputs every time; 0: new ones).
set -euo pipefail
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build}
VENV=${VENV:-.venv}
FUZZ_SECONDS=${FUZZ_SECONDS:-10}
FUZZ_SEED=${FUZZ_SEED:-1}

heading() { printf '\n=== %s ===\n' "$*"; }

check_format() {
  heading "format"
  command -v clang-format-14 >/dev/null || {
    echo "test: clang-format-14 not found. Install it with: sudo apt-get install clang-format-14" >&2
    return 1
  }
  git ls-files -z -co --exclude-standard '*.cpp' '*.h' | xargs -0 clang-format-14 --dry-run -Werror || {
    echo "test: mend the formatting with: make format" >&2
    return 1
  }
  echo "all C++ files are formatted"
}

unit() {
  heading "unit tests"
  tools/build.sh unit
  ctest --test-dir "$BUILD" --output-on-failure --no-tests=error -j "${JOBS:-2}" --progress
}

python() {
  heading "parity and command tests"
  tools/build.sh unit
  local arguments=()
  read -r -a arguments <<<"${PYTEST_ARGS:-}"
  # The hub's libraries must not look for a network; a test that needs a file makes it.
  HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MMTUNE_BUILD="$(realpath "$BUILD")" \
    "$VENV/bin/python" -m pytest -q -p no:cacheprovider tests/parity tests/cli "${arguments[@]}"
}

sanitize() {
  heading "readers under AddressSanitizer and UndefinedBehaviorSanitizer"
  tools/build.sh asan
  ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 build-asan/tests/test_base --gtest_brief=1
}

fuzz() {
  tools/build.sh fuzz
  local target name found=0
  for target in build-fuzz/*_fuzz; do
    [ -x "$target" ] || continue
    found=$((found + 1))
    name=$(basename "$target" _fuzz)
    heading "fuzzing $name for $FUZZ_SECONDS s"
    mkdir -p "build-fuzz/corpus/$name" "build-fuzz/crashes"
    local options=(-max_total_time="$FUZZ_SECONDS" -seed="$FUZZ_SEED" -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1
      -artifact_prefix="build-fuzz/crashes/$name-")
    [ -e "tests/fuzz/$name.dict" ] && options+=(-dict="tests/fuzz/$name.dict")
    # New inputs go to the first folder; the seeds in tests/ are only read.
    local folders=("build-fuzz/corpus/$name")
    [ -d "tests/fuzz/corpus/$name" ] && folders+=("tests/fuzz/corpus/$name")
    "$target" "${options[@]}" "${folders[@]}" >"build-fuzz/$name.log" 2>&1 || {
      tail -n 60 "build-fuzz/$name.log" >&2
      echo "test: the fuzz target $name failed; its input lies in build-fuzz/crashes/" >&2
      return 1
    }
    grep -E '^stat::(number_of_executed_units|new_units_added|peak_rss_mb)' "build-fuzz/$name.log"
  done
  [ "$found" -gt 0 ] || {
    echo "test: no fuzz targets were built" >&2
    return 1
  }
  echo "$found fuzz targets ran $FUZZ_SECONDS s each without a finding"
}

[ $# -gt 0 ] || set -- format unit python sanitize fuzz
for part in "$@"; do
  case $part in
    format) check_format ;;
    unit | python | sanitize | fuzz) "$part" ;;
    *)
      echo "test: unknown part '$part'; known: format unit python sanitize fuzz" >&2
      exit 2
      ;;
  esac
done
heading "done: $*"
