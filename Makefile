# One door to everything; `make help` lists the rooms.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= $(or $(BMFLOW_TEST_DATA),../shared/data)
EXTRAS ?= dev,pipeline
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: help setup demo up down example walkthrough test check coverage bench accuracy docs clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## create .venv with every tool on its path

$(VENV)/.ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[$(EXTRAS)]'
	touch $@

demo: setup ## the whole pipeline on the built-in example: compile, measure, gate, register, promote, report; in ./demo
	$(RUN) scripts/pipeline_demo

up: setup ## the pages of Airflow and MLflow over ./demo, for this machine alone
	$(RUN) scripts/up

down: setup ## stop what `make up` started
	$(RUN) scripts/down

example: setup ## the compiler's tools alone on the built-in example: F16 and INT8 bmodels, boxes drawn; in ./example
	$(RUN) scripts/example

walkthrough: setup ## the main job on yolov5n, in ./walkthrough; DATA=folder of models and pictures
	$(RUN) scripts/walkthrough "$(DATA)"

test: setup ## every test, style checks included
	$(RUN) scripts/check
	$(RUN) scripts/test

check: setup ## style: ruff, pyright, import-linter
	$(RUN) scripts/check

coverage: setup ## tests with line coverage
	$(RUN) scripts/coverage

bench: setup ## speed against onnxruntime, printed as ratios; DATA=folder of models and pictures
	$(RUN) python -m benchmarks "$(DATA)"
	$(RUN) python -m benchmarks.pipeline

accuracy: setup ## accuracy in two folds, in ./accuracy; with other quantizers where the extra `bench` is installed
	$(RUN) python -m benchmarks.accuracy "$(DATA)" --folder accuracy

docs: setup ## write the pages that are made from the code
	$(RUN) scripts/docs

clean: ## remove what builds left behind
	rm -rf $(VENV) accuracy demo example walkthrough dist .pytest_cache .ruff_cache .hypothesis
