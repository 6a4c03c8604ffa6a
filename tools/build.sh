#!/usr/bin/env bash
# Configures and builds. usage: tools/build.sh program | unit | bench | asan | fuzz | lint
# Environment: BUILD (build), VENV (.venv), TORCH_DIR, JOBS; set by the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build}
VENV=${VENV:-.venv}
JOBS=${JOBS:-2}

torch_dir() {
  if [ -n "${TORCH_DIR:-}" ]; then
    realpath "$TORCH_DIR"
    return
  fi
  local found
  for found in "$VENV"/lib/python3.*/site-packages/torch; do
    [ -e "$found/include/ATen/ATen.h" ] && realpath "$found" && return
  done
  echo "build: no LibTorch in $VENV. Run \`make setup\`, or name one: make build TORCH_DIR=/path/to/site-packages/torch" >&2
  return 1
}

configure() {
  local folder=$1
  shift
  cmake -S . -B "$folder" -G Ninja "$@" >"$folder.log" 2>&1 || {
    cat "$folder.log" >&2
    rm -f "$folder.log"
    return 1
  }
  rm -f "$folder.log"
}

case ${1:-} in
  program | unit | bench)
    torch=$(torch_dir)
    configure "$BUILD" -DTORCH_DIR="$torch" -DMMTUNE_BENCH="$([ "$1" = bench ] && echo ON || echo OFF)"
    if [ "$1" = program ]; then
      cmake --build "$BUILD" -j "$JOBS" --target mmtune
    else
      cmake --build "$BUILD" -j "$JOBS"
    fi
    ;;
  asan)
    configure build-asan -DMMTUNE_TORCH=OFF -DMMTUNE_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug
    cmake --build build-asan -j "$JOBS"
    ;;
  fuzz)
    command -v clang++-14 >/dev/null || {
      echo "build: clang++-14 not found. Install it with: sudo apt-get install clang-14 libclang-rt-14-dev" >&2
      exit 1
    }
    configure build-fuzz -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14 -DMMTUNE_TORCH=OFF -DMMTUNE_FUZZ=ON
    cmake --build build-fuzz -j "$JOBS"
    ;;
  lint)
    command -v clang++-14 >/dev/null || {
      echo "build: clang++-14 not found. Install it with: sudo apt-get install clang-14" >&2
      exit 1
    }
    configure build-lint -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14 -DTORCH_DIR="$(torch_dir)"
    cmake --build build-lint -j "$JOBS" --target CMakeFiles/mmtune_torch.dir/cmake_pch.hxx.pch
    ;;
  *)
    echo "usage: tools/build.sh program | unit | bench | asan | fuzz | lint" >&2
    exit 2
    ;;
esac
