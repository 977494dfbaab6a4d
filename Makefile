# What there is to do here. Bare `make` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup run check format test quick docs bench clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make the environment in .venv

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $(READY)

run: $(READY)  ## fetch a real model, serve it, ask it, measure it, keep serving
	@$(BIN)/palio demo

check: $(READY)  ## lint, types, import contracts, generated pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/pages.py --check

format: $(READY)  ## put the code in its usual form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(READY)  ## the whole suite
	$(BIN)/python -m pytest

quick: $(READY)  ## the suite without what takes long or needs the real model
	$(BIN)/python -m pytest -m 'not slow and not model'

docs: $(READY)  ## write the generated pages anew
	$(BIN)/python scripts/pages.py

bench: $(READY)  ## measure the claims of the README (minutes)
	$(BIN)/python benchmarks/embed.py
	$(BIN)/python benchmarks/health.py

clean:  ## remove what was made here, the model cache excepted
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache out
