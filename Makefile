# Verbs of this repository; `make` lists them. Set PYTHON=... to choose an interpreter (3.11 or newer).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format typecheck clean

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.dev  ## build .venv with everything, for use and for development

demo: $(VENV)/.run  ## set up, speak the demo corpus, train all three fusions on CPU, print the table
	$(BIN)/python -m scripts.make_demo_corpus
	PYTHON=$(BIN)/python scripts/ablation.sh demo

test: $(VENV)/.dev  ## set up, run the tests (CPU, no network)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

test-slow: $(VENV)/.dev  ## the tests that need minutes: every promise of docs/RELIABILITY.md, counted
	$(BIN)/python -m pytest -m "slow or promise" --record=results/reliability.json
	$(BIN)/python -m scripts.write_tables

lint: $(VENV)/.dev  ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.dev  ## format the code in place
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

typecheck: $(VENV)/.dev  ## check types
	$(BIN)/mypy

clean:  ## remove .venv and caches; runs/ and data/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Stamps: pip runs again only when a requirements file changed.
$(VENV)/.run: requirements.txt
	@test -n "$(PYTHON)" || { echo "no python3 found: install Python 3.11 or set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11: set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@
