# The verbs of healthd. `make` alone lists them. Paths are relative, so that a checkout may lie anywhere, spaces included.

PYTHON ?= python3
MINUTES ?= 30
VENV := .venv
BIN := $(VENV)/bin
# Compiled is what is imported, when it first is: to compile all of torch takes pip a minute. Where that is switched off
# a daemon compiles all of its own sources at each start, of which the tests make hundreds.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE
SOURCES := pyproject.toml $(wildcard plugins/*/pyproject.toml) constraints.txt
OUR_PLUGINS := -e plugins/healthd-snapshot-url -e plugins/healthd-faults

.DEFAULT_GOAL := help
.PHONY: help run test test-all lint types pytest bench bench-quick soak chaos chart format clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

run: $(VENV)/light ## set up (light: no torch), then watch two demo cameras at http://127.0.0.1:8080
	@exec $(BIN)/python -m healthd demo

test: $(VENV)/full ## set up everything, then lint, types and all tests
	@$(MAKE) --no-print-directory lint types pytest

lint: $(VENV)/full ## ruff: rules and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(VENV)/full ## mypy, strict
	$(BIN)/python -m mypy

# Much of their time they wait: more at once than cores. One that fails is tried once more, and told as RERUN: look into
# it when you see it. What fails then too is tried again at the end, alone: too much to do is no bug, what fails alone is.
# They run in the order that tests/conftest.py gives them: those that start daemons last.
PYTEST := $(BIN)/python -m pytest
TOGETHER := -n 5 --dist loadfile --no-loadscope-reorder --reruns 1 -rR --cache-clear
ALONE := --last-failed --last-failed-no-failures none --maxfail 1 -rp
tried = $(PYTEST) $(TOGETHER) $(1) || { test $$? -eq 1 && \
  echo 'What has failed beside other tests is tried again, alone.' && $(PYTEST) $(ALONE) $(1); }

pytest: $(VENV)/full ## the tests; all but those that try more of the same for minutes
	@$(call tried,-m 'not thorough')

test-all: $(VENV)/full ## the tests that try more of the same, too: every network in every precision, more requests
	@export HEALTHD_FUZZ_EXAMPLES=50; $(call tried,)

bench: $(VENV)/full ## all figures and plots of docs/benchmarks.md, measured here (an hour, half of it the soak)
	MINUTES=$(MINUTES) $(BIN)/python -m benchmarks

bench-quick: $(VENV)/full ## most of them in three minutes, less exact; writes nothing
	$(BIN)/python -m benchmarks --quick

soak: $(VENV)/full ## MINUTES=30 of cameras, viewers and requests with a fault each minute, and what grows
	MINUTES=$(MINUTES) $(BIN)/python -m benchmarks --only soak

chaos: $(VENV)/full ## break what may break around a running daemon; figures and bounds go to docs/reliability.md
	$(BIN)/python -m benchmarks.chaos

chart: $(VENV)/light ## make schema and table of the Helm chart anew, from its values and the settings
	$(BIN)/python deploy/helm/generate.py

format: $(VENV)/full ## let ruff mend what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean: ## remove what the verbs made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'healthd needs Python 3.11 or newer: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/light: $(VENV)/made $(SOURCES)
	@echo 'installing healthd with the light engine ...'
	$(PIP) -e . -e plugins/healthd-yolo $(OUR_PLUGINS)
	@touch $@

# ultralytics asks for opencv-python, which owns the same folder cv2/ as our headless build: the headless one must win.
$(VENV)/full: $(VENV)/made $(SOURCES)
	@echo 'installing everything, torch included: 6 GB, a few minutes ...'
	$(PIP) -e '.[dev]' -e 'plugins/healthd-yolo[ultralytics,quantize]' $(OUR_PLUGINS)
	@$(BIN)/python -m pip --disable-pip-version-check uninstall --quiet --yes opencv-python
	$(PIP) --force-reinstall --no-deps opencv-python-headless
	@touch $(VENV)/light $@
