# One door to everything; `make help` lists the rooms.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= $(or $(BMFLOW_TEST_DATA),../shared/data)

.PHONY: help setup demo test check coverage bench clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## create .venv with every tool on its path

$(VENV)/.ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev,pipeline]'
	touch $@

demo: setup ## the main job: yolov5n to F16 and INT8 bmodels, boxes drawn by each, in ./demo
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo "$(DATA)"

test: setup ## every test, style checks included
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test

check: setup ## style: ruff, pyright, import-linter
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

coverage: setup ## tests with line coverage
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/coverage

bench: setup ## speed against onnxruntime, printed as ratios
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m benchmarks "$(DATA)"

clean: ## remove what builds left behind
	rm -rf $(VENV) demo dist .pytest_cache .ruff_cache .hypothesis
