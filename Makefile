# `make demo` trains a small model and lets it write; `make test` runs the whole suite. Both need Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PY := $(VENV)/bin/python

.PHONY: demo test lint environment

demo: environment
	$(PY) -m training pretrain configuration/recipes/demo.yaml
	$(PY) -m training generate runs/demo/model --prompt "def " --max_new_tokens 100 --seed 1

test: environment
	$(PY) -m pytest

lint: environment
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

environment: $(VENV)/.installed-$(CONSTRAINTS)

$(VENV)/.installed-$(CONSTRAINTS): setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[train,dev]"
	touch $@
