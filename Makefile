# Everything a newcomer needs: `make demo` and `make test` create .venv, install what they need and run.
# GPU: `make CONSTRAINTS= demo` leaves the choice of the torch build to pip; CONSTRAINTS=mine.txt takes yours.

VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
DEMO ?= demo
DEMO_SIZE ?= --n-development 1000 --n-external 400
TEST_WORKERS ?= 2

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

# One thread per process: the tests and the grid run several processes at once.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow check bench docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.ready-run $(DEMO)/study.yaml
	$(BIN)/concordant run $(DEMO)/study.yaml

# The simulation takes its place whole or not at all, so a study file means a complete cohort.
$(DEMO)/study.yaml: | $(VENV)/.ready-run
	$(BIN)/concordant simulate $(DEMO) $(DEMO_SIZE)

test: $(VENV)/.ready-test
	$(BIN)/pytest -n $(TEST_WORKERS) -m "not slow"

test-slow: $(VENV)/.ready-test
	$(BIN)/pytest -n $(TEST_WORKERS) -m slow

check: $(VENV)/.ready-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready-bench
	@set -e; for script in benchmarks/*.py; do test -f "$$script" || { echo "no benchmark in benchmarks/"; exit 1; }; \
		echo "$$script"; $(BIN)/python "$$script"; done

docs: $(VENV)/.ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(DEMO) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# `run` is the package alone; any other name is one of its extras. The stamp is older than what it depends on: install again.
$(VENV)/.ready-%: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "installing concordant ($*) into $(VENV); the first time takes a minute or two"
	@$(PIP_INSTALL) --editable '.$(if $(filter run,$*),,[$*])'
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "concordant needs Python 3.11 or newer: none of python3, python3.13, python3.12, python3.11 is." \
		"Install one, or name it: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot create a virtual environment: its module ensurepip is missing." \
		"On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
