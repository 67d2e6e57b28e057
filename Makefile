# `make demo` and `make test` install what they need into .venv.

PYTHON ?= python3
# Also for `make PYTHON=`: an empty program would skip the check of its version.
override PYTHON := $(or $(strip $(PYTHON)),python3)
VENV := .venv
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
# DVC sends no usage statistics.
export DVC_NO_ANALYTICS := 1

# One process for each core, each with one thread: more threads than cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 python -m pytest --numprocesses logical

.PHONY: install demo test quick check deps docs stress clean

install: $(VENV)/installed  ## the pinned requirements and the command `sop`, in .venv

demo: install  ## run the pipeline with params.yaml, then show its metrics
	@git rev-parse --git-dir > /dev/null 2>&1 || test "$$(dvc config core.no_scm)" = true || { echo \
		'error: this folder is not in a git repository, which DVC needs: run `git init`,' \
		'`git add --all` and `git commit --message start`; or `dvc config core.no_scm true`,' \
		'to work without git' >&2; exit 1; }
	dvc repro
	sop summary

test: install  ## all tests
	$(PYTEST) --dist loadfile --durations=15

quick: install  ## all tests but the slow ones, in two minutes on two cores
	$(PYTEST) --dist loadfile -m "not slow"

stress: install  ## all tests, with the full number of kills and damaged files
	SOP_STRESS=1 $(PYTEST) --dist loadfile --durations=15

check: install  ## style, types, and that dvc.yaml agrees with the imports
	ruff check
	ruff format --check
	mypy
	python -m stages.dependencies --check

deps: install  ## write the code dependencies of the stages into dvc.yaml
	python -m stages.dependencies

docs: install  ## build the documentation in site/
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

$(VENV)/installed: pyproject.toml requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 10) <= v < (3, 14) or sys.exit( \
		"Python 3.10 to 3.13 is required, but $(PYTHON) is %d.%d; try make PYTHON=python3.12 ..." % v[:2])'
	@# A .venv without pip is half-made, by a Python without ensurepip for instance: made again.
	"$(BIN)/python" -m pip --version > /dev/null 2>&1 || \
		$(PYTHON) -m venv $$(test ! -f $(VENV)/pyvenv.cfg || echo --clear) $(VENV)
	"$(BIN)/python" -m pip install --quiet --upgrade pip
	"$(BIN)/python" -m pip install --quiet -r requirements-dev.txt
	"$(BIN)/python" -m pip install --quiet --no-deps --editable .
	touch $@

clean:  ## remove what the pipeline made; DVC's cache stays
	rm -rf data/audio data/denoise data/evaluate data/frames data/index data/model data/motion data/report \
		data/validated.txt data/videos site
