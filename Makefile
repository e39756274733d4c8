# `make demo` and `make test` do all of their set-up. No recipe names an absolute path: a folder with spaces is fine.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow benchmark benchmark-report lint format clean
SHELL := /bin/sh
PY := .venv/bin/python
WORKERS ?= 2

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile

setup: ## .venv with everything that is needed (PYTHON=... names the interpreter)
	@command -v "$${PYTHON:-python3}" >/dev/null 2>&1 || { echo "setup: $${PYTHON:-python3} not found: install Python 3.10, 3.11 or 3.12, or name one: make setup PYTHON=python3.11" >&2; exit 1; }
	@"$${PYTHON:-python3}" tools/setup_env.py

demo: setup ## generate a data set, train Mask R-CNN with TRT-ViT on it, evaluate, draw: minutes on two cores
	@$(PY) tools/demo.py

test: setup ## the test suite
	@$(PY) -m pytest -n $(WORKERS) --dist worksteal

test-slow: setup ## what takes longer: the whole zoo, fault injection, the demo itself
	@$(PY) -m pytest -n $(WORKERS) --dist worksteal --slow --durations 25

benchmark: setup ## TRT-ViT beside its peers on this machine: minutes; ARGS="--models ..." for more
	@$(PY) tools/benchmark.py $(ARGS)

benchmark-report: setup ## the tables and pictures of benchmarks/ and README.md from the results that are kept
	@$(PY) benchmarks/update.py

lint: setup ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup ## let ruff rewrite the files
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean: ## remove the environment and what was generated
	rm -rf .venv build dist work_dirs/demo data/shapes *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
