# Every target does all the set-up it needs and skips it when it is done.
SHELL := /bin/bash
BIN := .venv/bin
SEED ?= 0
WORKSPACE ?= workspace
PYTEST := $(BIN)/python -m pytest -q -p no:cacheprovider
# One thread per process: tests run in two processes, and two thread pools on two cores fight.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help setup demo test test-fast test-slow lint format bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: ## build .venv (Python 3.11; CUDA=1 for the CUDA variant)
	@CUDA="$(CUDA)" PYTHON="$(PYTHON)" bash infra/setup.sh

demo: setup ## the whole loop on a simulated marketplace (SEED=0 WORKSPACE=workspace)
	@$(BIN)/pagewise demo --workspace "$(WORKSPACE)" seed=$(SEED)

test: setup ## all tests but slow and gpu, doctests included
	@$(ONE_THREAD) $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" tests

test-fast: setup ## the quick ones (at most a minute)
	@$(ONE_THREAD) $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not integration" tests

test-slow: setup ## the full proofs
	@$(ONE_THREAD) $(PYTEST) -m "slow and not gpu" tests

lint: setup ## ruff, mypy strict, import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## reformat, and mend what ruff can mend
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: setup ## the benchmarks' table and build/bench.json (ONLY=name, FULL=1)
	@$(BIN)/python tests/benchmarks/run.py $(if $(ONLY),--only $(ONLY)) $(if $(FULL),--full)
