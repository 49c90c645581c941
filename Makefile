# `make demo` and `make test` need Python 3.11 or newer, pip and make; nothing else.

# The first interpreter that starts and is new enough; PYTHON=/path/to/python overrides.
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
  && { echo $$p; break; }; done)
endif

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready
DEMO := runs/demo
HOSTS := runs/hosts
JOBS ?= 2# test processes
PART ?= 1/1# of the architectures
ARGS ?=# more words for pytest, as in: make test ARGS="-m parity"

# Compiled programs are kept, so that a second run does not compile again.
JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_COMPILATION_CACHE_DIR JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS

.PHONY: help setup test demo lint fmt check configs faults hosts parity results api \
  pictures notebook clean

help: ## print this list (the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## make .venv and install the pinned requirements

$(READY): requirements.txt requirements-dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { \
	  echo "No Python >= 3.11 found: install one, or name it with PYTHON=..."; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) (a few minutes, once)"
	"$(PYTHON)" -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

test: $(READY) ## run the tests (JOBS=2 processes; ARGS="..." goes to pytest)
	$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

demo: $(READY) ## draw a data set, train on it, print its AP table, draw detections
	$(PY) tools/make_shapes.py --out=$(DEMO)/data --train=240 --val=60 --seed=0
	$(PY) train.py --config=configs/demo.py --workdir=$(DEMO)
	$(PY) eval.py --config=configs/demo.py --workdir=$(DEMO) --pictures

lint: $(READY) ## check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

fmt: $(READY) ## repair style and formatting
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

check: lint test ## lint, then test

configs: $(READY) ## a step and a prediction of every architecture (PART=K/N: a part)
	$(PY) tools/check_configs.py --part=$(PART)

faults: $(READY) ## kill training 20 times and compare with a run left alone
	$(PY) tools/check_faults.py

hosts: $(READY) ## train in 1, 2 and 4 processes, kill one, compare losses and scores
	$(PY) tools/make_shapes.py --out=$(HOSTS) --train=24 --val=9 --seed=0
	$(PY) tools/check_hosts.py --data=$(HOSTS)

parity: $(READY) ## compare with the peers' numbers and keep the largest errors
	FRCNN_RECORD_PARITY=benchmarks/results/parity.json \
	  $(PY) -m pytest tests/parity -n 0

results: $(READY) ## write docs/results.md and docs/performance.md from result files
	$(PY) tools/results.py
	$(PY) tools/performance.py

api: $(READY) ## write the reference of every module, build/api/index.html
	$(PY) tools/api.py --out=build/api

pictures: $(READY) ## run docs/walkthrough.md and take its pictures again (chromium)
	$(PY) tools/pictures.py --folder=build/walkthrough

notebook: $(READY) ## run docs/quick_start.ipynb and keep its outputs
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-notebook.txt
	$(PY) tools/notebook.py docs/quick_start.ipynb

clean: ## remove the demo, caches and build products (not .venv)
	rm -rf $(DEMO) $(HOSTS) .cache .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
