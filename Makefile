# Everything from one place. `make help` lists the targets; CONTRIBUTING.md says more.
# Variables: VENV (.venv), TORCH_DIR (an existing LibTorch), BUILD (build), JOBS, FUZZ_SECONDS, PYTEST_ARGS.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
BUILD ?= build
TORCH_DIR ?=
# A compile job of a file that includes LibTorch takes about 1.5 GB.
JOBS ?= $(shell awk -v cores=$$(nproc) '/^MemAvailable/ { jobs = int($$2 / 2000000); print jobs < 1 ? 1 : (jobs < cores ? jobs : cores) }' /proc/meminfo)
FUZZ_SECONDS ?= 3600
PYTEST_ARGS ?=
export VENV BUILD TORCH_DIR JOBS

.PHONY: help setup build test check-format format unit pytest sanitize fuzz-short fuzz lint demo bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install everything that any target needs (Debian packages, virtual environment)
	tools/setup.sh build test demo pretrain lint bench

build: ## build the program, build/mmtune
	tools/setup.sh build
	tools/build.sh program

test: ## format check, build, all tests, sanitizer build of the readers, 10 s of each fuzz target
	tools/setup.sh test demo
	tools/test.sh format unit python sanitize fuzz

check-format: ## check the formatting only
	tools/setup.sh test
	tools/test.sh format

format: ## format every C++ file in place
	git ls-files -z -co --exclude-standard '*.cpp' '*.h' | xargs -0 clang-format-14 -i

unit: ## C++ unit tests only
	tools/setup.sh build
	tools/test.sh unit

pytest: ## parity and command tests only (PYTEST_ARGS="-k name")
	tools/setup.sh test demo
	tools/test.sh python

sanitize: ## the readers and their tests under AddressSanitizer and UndefinedBehaviorSanitizer
	tools/setup.sh build
	tools/test.sh sanitize

fuzz: ## long fuzzing: FUZZ_SECONDS (3600) for each target
	tools/setup.sh test
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=0 tools/test.sh fuzz

lint: ## clang-tidy over our own code
	tools/setup.sh lint
	tools/lint.sh

demo: ## train, evaluate and use an expert on easy-VQA, from nothing
	tools/setup.sh demo
	tools/build.sh program
	tools/demo.sh

bench: ## the benchmarks against transformers + peft; writes docs/benchmarks.md
	tools/setup.sh bench
	tools/bench.sh

clean: ## remove what was built (not the virtual environment)
	rm -rf build build-asan build-fuzz build-lint
