# `make demo` trains a small model and lets it write; `make test` runs the whole suite, for which it installs the
# libraries that the tests try the model with; `make canary` tries a model folder on the oldest supported releases of the
# library and on the newest as the index gives them today. All need Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRAS ?= train,data,finetune,evaluate,export,gguf,llama,quantize,space,track,dev
PY := $(VENV)/bin/python

.PHONY: demo test canary lint environment floor

demo: $(VENV)/.installed-train
	$(PY) -m training pretrain configuration/recipes/demo.yaml
	$(PY) -m training generate runs/demo/model --prompt "def " --max_new_tokens 100 --seed 1

# Most tests wait for a process of their own, so three at a time suit two cores.
test: environment
	$(PY) -m pytest -n 3 --dist worksteal

canary: environment floor
	$(PY) -m tests.exchange .venv-floor/bin/python

lint: environment
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# The oldest supported versions.
floor:
	$(MAKE) environment VENV=.venv-floor CONSTRAINTS=constraints-floor.txt EXTRAS=train,dev

environment: $(VENV)/.installed-$(EXTRAS)

$(VENV)/.installed-%: setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[$*]"
	touch $@
