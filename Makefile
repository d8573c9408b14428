# Every target does its own set-up: a virtual environment with the locked packages.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo demo-text test lint check nightly clean
.DEFAULT_GOAL := help

help:
	@echo "make install  set up .venv and nothing else; the other targets do it, too"
	@echo "make demo     train a model on PolyDigits and write its report (minutes)"
	@echo "make demo-text  the same on drawn shapes and captions of them"
	@echo "make test     fast tests"
	@echo "make lint     format, lint, types, import floors"
	@echo "make check    all of lint, then the fast tests"
	@echo "make nightly  the slow learning tests as well"

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/multiebm train polydigits --out demo --overwrite
	$(BIN)/multiebm evaluate demo
	$(BIN)/multiebm report demo

demo-text: $(STAMP)
	$(BIN)/multiebm train shapes --out demo-text --overwrite
	$(BIN)/multiebm evaluate demo-text
	$(BIN)/multiebm report demo-text

# one thread: waiting threads would slow a busy machine down, and the tests are small
test check nightly: export OMP_NUM_THREADS := 1

# a process a core, each with files of its own: some tests of a file go on from the ones before; tests/conftest.py
# puts the longest files first, which their numbers of tests would put last
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

nightly: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "slow or not slow"

clean:
	rm -rf .venv
