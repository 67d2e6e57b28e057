# `make demo` and `make test` are all the set-up there is.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
# One machine, one user: nothing is sent anywhere.
export DVC_NO_ANALYTICS := 1

.PHONY: demo test quick check deps install clean

demo: install  ## the whole pipeline on params.yaml, then its metrics
	dvc repro
	python -m sop summary

test: install  ## every test, with the coverage of sop/
	OMP_NUM_THREADS=1 python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile \
		--cov --cov-report=term --durations=15

quick: install  ## the tests that take no longer than a few seconds each
	python -m pytest -m "not slow"

check: install  ## style and types
	ruff check
	ruff format --check
	mypy

deps: install  ## the code that each stage depends on, from its imports into dvc.yaml
	python -m stages.dependencies

install: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-dev.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

clean:  ## what the pipeline made; its cache stays
	rm -rf data/audio data/evaluate data/frames data/index data/model data/videos
