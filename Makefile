# make demo   the main job on data that ships with the package, on a real small model
# make test   style, types, import order, tests
# make lint   the first three of them
# make bench  measured figures: speed, quality, kill tests (long); make bench-gpu  those of a CUDA device
#
# Each target makes its own .venv with pip and installs what it needs; a stamp file per kind of set-up depends on
# pyproject.toml. pip and not uv: uv ignores --find-links from pip's configuration and resolves a bare `torch` on Linux
# to wheels that bring gigabytes of CUDA with them.
#
# Which torch: `torch>=2.6,<2.14` is what pip finds in your index (or in PIP_FIND_LINKS). On Linux without an NVIDIA card
# the CPU wheel is ten times smaller:
#   make demo PIP_TORCH='--index-url https://download.pytorch.org/whl/cpu'
# No make (Windows): README.md, "Install", has the same steps as plain commands.

PYTHON      ?= python3
VENV        ?= .venv
TORCH       ?= torch>=2.6,<2.14
PIP_TORCH   ?=
PYTEST_ARGS ?=

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# Public data for tests and larger examples; without it those tests skip with a message.
ifndef TAILORBIRD_DATA
ifneq ($(wildcard ../shared/data/README.md),)
export TAILORBIRD_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: help demo test lint bench bench-gpu docs clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,4s/^# //p' Makefile

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(0 if v >= (3, 11) else "Python 3.11 or later is needed, %s is %d.%d: make PYTHON=python3.12 ..." % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base: $(VENV)/.made pyproject.toml
	@echo "installing torch, then tailorbird (some minutes the first time)"
	$(PIP) $(PIP_TORCH) "$(TORCH)"
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) -e ".[bench]"
	@touch $@

demo: $(VENV)/.base
	$(BIN)/tailorbird demo

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/all.py

bench-gpu: $(VENV)/.bench
	$(BIN)/python benchmarks/bench_gpu.py

# Pages that are written from the code; a test compares them.
docs: $(VENV)/.dev
	$(BIN)/python docs/make_spec.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
