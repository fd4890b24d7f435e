# make setup     virtual environment with everything (again only when pyproject.toml changed)
# make demo      the whole loop on generated pictures, offline, in minutes
# make test      fast tests        make test-all  all tests, with coverage
# make docs      the pages, into site/
# make bench-masks   masks against slimming, hours; benchmarks/masks.py says what else it does
# make bench-runtimes  dense and slim networks in every runtime, an hour on a quiet machine
# make bench-torchvision  every network of torchvision, slimmed by one call, hours
# make bench-NAME ARGS=…  any other claim: benchmarks/NAME.py, whose first lines say what it does
# make fuzz      files at random for every reader, FUZZ_SECONDS=600 in all
# make check     lint, format and types, as CI and pre-commit run them

PYTHON ?= python3
FUZZ_SECONDS ?= 600
# TORCH=cpu make setup   torch without CUDA's libraries: 4 GB less
TORCH ?= index
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
#: a process a core, a thread each
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo docs bench-masks bench-runtimes bench-torchvision test test-all fuzz check lint format types

help:
	@sed -n 's/^# //p' Makefile

setup: $(STAMP)

TORCH_cpu = $(BIN)/python -m pip install --index-url $(CPU_INDEX) 'torch>=2.6' 'torchvision>=0.21'
TORCH_index =

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(TORCH_$(TORCH))
	$(BIN)/python -m pip install -e '.[dev,docs,runtimes]'
	@touch $@

demo: setup
	$(BIN)/python benchmarks/demo.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench-masks: setup
	$(BIN)/python benchmarks/masks.py table
	$(BIN)/python benchmarks/masks.py picture

bench-runtimes: setup
	$(BIN)/python -m pip install -e '.[ncnn]'
	$(BIN)/python benchmarks/bench_runtimes.py

bench-torchvision: setup
	$(BIN)/python benchmarks/torchvision_table.py

bench-%: setup
	$(BIN)/python benchmarks/$(subst -,_,$*).py $(ARGS)

test: setup
	$(PYTEST) -m 'not slow'

test-all: setup
	$(PYTEST) --cov

fuzz: setup
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

check: lint format types

lint: setup
	$(BIN)/ruff check

format: setup
	$(BIN)/ruff format --check

types: setup
	$(BIN)/mypy
