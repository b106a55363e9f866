# From nothing: `make demo` or `make test`, each alone. The virtual environment is made once and again when
# pyproject.toml or constraints.txt changes. Another Python: `make clean`, then `PYTHON=python3.12 make test`.

PYTHON ?= python3
BIN := .venv/bin
# torch goes in first and alone: it decides which build (CPU or CUDA) everything after it has to fit.
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# Workers import torch each, so more than a few cost more than they bring; a file stays on one worker.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-all test-browser test-interop check lint bench bench-quick clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-19s %s\n", $$1, $$2 }'

demo: .venv/.core  ## run the digits experiment and leave a report
	@$(BIN)/unweave run digits

serve: .venv/.app  ## run the digits experiment if need be, and open all runs in the browser
	@$(BIN)/unweave run digits
	@$(BIN)/unweave serve runs

test: .venv/.dev  ## run the tests (not the slow ones)
	@$(PYTEST)

test-all: .venv/.dev  ## run the tests, slow ones too
	@$(PYTEST) -m ''

test-browser: .venv/.dev  ## run the tests that need a browser (headless Chromium)
	@$(BIN)/python -m pytest -m browser -rs

test-interop: .venv-interop/.done  ## compare the formats of other libraries with those libraries, in an environment of its own
	@UNWEAVE_REQUIRE_PEERS=1 .venv-interop/bin/python -m pytest tests/interop --confcutdir=tests/interop

check: lint test  ## lint, types, floors, then the tests: what CI runs

lint: .venv/.dev  ## lint, format, types and floors without the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: .venv-bench/.done  ## measure beside the peers, in an environment of its own (hours); writes docs/performance.md
	@.venv-bench/bin/python -m benchmarks

bench-quick: .venv/.dev  ## a look at the same in minutes, beside the peers that are installed
	@bin=$(BIN); if [ -e .venv-bench/.done ]; then bin=.venv-bench/bin; fi; $$bin/python -m benchmarks --quick

clean:  ## remove the environment, caches and build products; runs/ stays
	@rm -rf .venv .venv-bench .venv-interop build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# .venv/.unfinished says that an install was cut short: such an environment is not repaired but made again.
.venv/.core: pyproject.toml constraints.txt
	@if [ -e .venv/.unfinished ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    found=$$($(PYTHON) -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null); \
	    echo "Unweave needs Python 3.11 or newer; '$(PYTHON)' is $${found:-no Python that runs}." >&2; \
	    echo "Name another one: PYTHON=python3.12 make $(or $(firstword $(MAKECMDGOALS)),demo)" >&2; \
	    exit 1; \
	  fi; \
	  $(PYTHON) -m venv --clear .venv; \
	fi
	@touch .venv/.unfinished
	@echo "Installing Unweave into .venv (the first install takes a minute or more: torch is large) ..."
	@$(PIP) $(TORCH)
	@$(PIP) -e .
	@rm .venv/.unfinished
	@touch $@

.venv/.app: .venv/.core
	@mv .venv/.core .venv/.unfinished
	@echo "Installing the app into .venv ..."
	@$(PIP) -e '.[app,study]'
	@mv .venv/.unfinished .venv/.core
	@touch $@

.venv/.dev: .venv/.core
	@mv .venv/.core .venv/.unfinished
	@echo "Installing the development tools into .venv ..."
	@$(PIP) -e '.[dev]'
	@mv .venv/.unfinished .venv/.core
	@touch .venv/.core .venv/.app $@

# The peers want versions of their own; torchvision, which some bring along, does not import beside a CPU build of torch.
.venv-bench/.done: pyproject.toml benchmarks/constraints.txt benchmarks/requirements.txt
	@echo "Installing the peers into .venv-bench (minutes) ..."
	@$(PYTHON) -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip install -qq --disable-pip-version-check -c benchmarks/constraints.txt $(TORCH)
	@.venv-bench/bin/python -m pip install -qq --disable-pip-version-check -c benchmarks/constraints.txt -e '.[app,study]' \
	  -r benchmarks/requirements.txt
	@.venv-bench/bin/python -c 'import torchvision' 2>/dev/null || \
	  .venv-bench/bin/python -m pip uninstall -qq -y torchvision
	@touch $@

.venv-interop/.done: pyproject.toml $(addprefix tests/interop/,constraints.txt requirements.txt alone.txt)
	@echo "Installing the libraries whose formats Unweave reads into .venv-interop (minutes) ..."
	@$(PYTHON) -m venv --clear .venv-interop
	@.venv-interop/bin/python -m pip install -qq --disable-pip-version-check -c tests/interop/constraints.txt $(TORCH)
	@.venv-interop/bin/python -m pip install -qq --disable-pip-version-check -c tests/interop/constraints.txt -e . \
	  -r tests/interop/requirements.txt
	@.venv-interop/bin/python -m pip install -qq --disable-pip-version-check -c tests/interop/constraints.txt --no-deps \
	  -r tests/interop/alone.txt
	@.venv-interop/bin/python -c 'import torchvision' 2>/dev/null || \
	  .venv-interop/bin/python -m pip uninstall -qq -y torchvision
	@touch $@
