# Everything happens in .venv, made by python3 -m venv and pip. A stamp file is younger than what it was made from, so
# that an environment is brought up to date when pyproject.toml or constraints.txt changes, and only then.

PYTHON ?= python3
TORCH ?= torch==2.13.0

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Two workers of one BLAS thread each, rather than two that fight for the same cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow lint types bench docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: .venv/.base ## Run the experiments of the original notebook and write a report (light: without PyTorch)
	$(BIN)/skipscope demo

test: .venv/.dev ## Run the quick tests
	$(PYTEST) -m "not slow"

test-slow: .venv/.dev ## Run the slow tests
	$(PYTEST) -m slow || [ $$? -eq 5 ] # 5: none is marked slow

lint: .venv/.dev ## Check style, format and the direction of every import
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: .venv/.dev ## Check types
	$(BIN)/mypy

bench: .venv/.bench ## Measure speed and memory (five minutes)
	$(BIN)/python -m benchmarks.run

docs: .venv/.dev ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean: ## Remove the environment and everything that was built
	rm -rf .venv build dist docs/_build .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. pyvenv.cfg stands for the venv, because its date is the day it was made (the interpreter in bin/ is
# a link, and as old as Python itself).
.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "skipscope needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	         "Name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.base: .venv/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e .
	@touch $@

# PyTorch comes first, and nothing after it asks for it, so that TORCH may name another version or build than the
# constraints do; its own dependencies are held to them.
.venv/.dev: .venv/.base
	grep -v '^torch==' constraints.txt > .venv/constraints.txt
	$(PIP) install -c .venv/constraints.txt '$(TORCH)'
	$(PIP) install -c .venv/constraints.txt -e '.[dev]'
	@touch $@

# Without JAX the benchmarks run too, and say so.
.venv/.bench: .venv/.dev
	$(PIP) install -c .venv/constraints.txt -e '.[bench]' && touch $@ || echo "JAX could not be installed" >&2
