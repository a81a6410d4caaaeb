# Verbs of this repository; `make` lists them. Variables, given as `make setup NAME=value`:
#   PYTHON          interpreter that builds .venv, 3.11 or newer
#   PIP_FLAGS       passed to pip, e.g. "--constraint constraints.txt" for the published versions
#   TEST_PROCESSES  processes of the tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS ?=
TEST_PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-model test test-slow coverage lint format typecheck architecture clean

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.dev  ## build .venv with everything, for use and for development

demo: $(VENV)/.run  ## set up, synthesise the demo corpus, train all three fusions on CPU, compare
	@echo "[demo 1/2] Synthesise the demo corpus in data/demo: about a minute"
	@$(BIN)/python -m scripts.make_demo_corpus
	@echo "[demo 2/2] Train 3 fusions x 2 folds = 6 jobs on the CPU, a few minutes each, and 4 of baselines; compare them"
	@PYTHON=$(BIN)/python scripts/ablation.sh demo

demo-model: $(VENV)/.run  ## set up, make a small model for use in runs/demo_gmu/final/seed-0, on CPU
	@PYTHON=$(BIN)/python scripts/train_demo_model.sh

test: $(VENV)/.dev  ## set up, run the tests (CPU, no network)
	$(PYTEST)

test-slow: $(VENV)/.dev  ## tests that need minutes: count every promise of docs/RELIABILITY.md
	$(PYTEST) -m "slow or promise" --record=results/reliability.json
	$(BIN)/python -m scripts.write_tables

coverage: $(VENV)/.dev  ## run the tests, print the share of lines and branches run, by room
	$(PYTEST) --cov --cov-report=json
	$(BIN)/python -m scripts.coverage_by_room

lint: $(VENV)/.dev  ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.dev  ## format the code in place
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

typecheck: $(VENV)/.dev  ## check types
	$(BIN)/mypy

architecture: $(VENV)/.dev  ## draw docs/architecture.svg from README's table of rooms and the imports
	$(BIN)/python -m scripts.draw_architecture

clean:  ## remove .venv, build/ and caches; runs/ and data/ stay
	rm -rf $(VENV) build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Stamps: pip runs again only when a requirements file changed.
$(VENV)/.run: requirements.txt
	@test -n "$(PYTHON)" || { echo "no python3 found: install Python 3.11 or set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11: set PYTHON=..."; exit 1; }
	@echo "[set-up] Install into .venv: 5.8 GB and 12 minutes were measured on two cores, mostly torch"
	@echo "[set-up] and its CUDA libraries. For a smaller torch without CUDA see CONTRIBUTING.md."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --requirement requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-cluster.txt requirements-stream.txt \
		requirements-trackers.txt requirements-formats.txt requirements-vad.txt requirements-onnx.txt \
		requirements-app.txt requirements-speech.txt $(VENV)/.run
	@echo "[set-up] Install the tools for tests and development"
	$(BIN)/python -m pip install $(PIP_FLAGS) --requirement requirements.txt \
		--requirement requirements-dev.txt --requirement requirements-cluster.txt \
		--requirement requirements-stream.txt --requirement requirements-trackers.txt \
		--requirement requirements-formats.txt --requirement requirements-vad.txt \
		--requirement requirements-onnx.txt --requirement requirements-app.txt \
		--requirement requirements-speech.txt
	@touch $@

# The lowest version of each requirement, as pip constraints: make setup PIP_FLAGS="-c build/lowest.txt"
build/lowest.txt: requirements.txt requirements-dev.txt requirements-cluster.txt requirements-stream.txt \
		requirements-trackers.txt requirements-formats.txt requirements-vad.txt requirements-onnx.txt requirements-app.txt \
		requirements-speech.txt
	@mkdir -p $(@D)
	sed -nE 's/^([A-Za-z][A-Za-z0-9_-]*)(\[[a-z]+\])?>=([0-9.]+).*/\1==\3/p' $^ > $@

build/lowest-torch.txt: build/lowest.txt
	grep -E '^(torch|torchvision|torchaudio|timm)==' $< > $@
