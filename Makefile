# `make help` lists the targets. Each one installs what it needs, once, into .venv (VENV= names another place).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
WORKERS ?= 2
WHEEL_DIR ?= dist
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
FAST = not slow and not gpu and not browser and not cluster

# One thread per process: the networks are small, and a second thread costs more than it brings.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv install demo test lint format type slow wheel clean

help:
	@echo "make demo      install, train a small team, read its credit, find the agent that idles"
	@echo "make test      install with the test tools, run the fast tests"
	@echo "make install   install for use and for work on the code (environments, test tools)"
	@echo "make lint      ruff: rules and format        make format   let ruff rewrite"
	@echo "make type      pyright                       make slow     the slow tests"
	@echo "make wheel     dist/*.whl                    make clean    remove what these targets made"

venv: $(VENV)/made
install: $(VENV)/installed-dev

$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "error: no python3 found. Install Python 3.11, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: $(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml constraints.txt
	$(INSTALL) -e ".[envs]"
	@touch $@

$(VENV)/installed-dev: $(VENV)/made pyproject.toml constraints.txt
	$(INSTALL) -e ".[envs,dev]"
	@touch $(VENV)/installed $@

demo: $(VENV)/installed
	$(BIN)/marl demo

# loadfile: the tests of one file share their fixtures, so they stay in one worker.
test: install
	$(BIN)/python -m pytest -m "$(FAST)" -n $(WORKERS) --dist loadfile --jaxtyping-packages=teamcredit,beartype.beartype

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pyright cannot follow the editable install's import hook, so it gets the package as a link (git-ignored).
type: install
	@mkdir -p typings && ln -sfn .. typings/teamcredit
	$(BIN)/pyright --pythonpath $(BIN)/python

slow: install
	PYTHON=$(BIN)/python scripts/run_slow.sh

# setuptools packs whatever an earlier build left in build/, so that goes first.
wheel: install
	rm -rf build
	$(BIN)/python -m build --wheel --no-isolation --outdir $(WHEEL_DIR)
	rm -rf build

clean:
	rm -rf $(VENV) build dist typings teamcredit.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
