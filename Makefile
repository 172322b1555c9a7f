# All commands of contributors and CI. You need Python 3.11 or newer with venv and pip, make and git.
# `make help` lists the targets.
#
# `make test PYTHON=python3.13` uses a separate virtual environment, .venv-3.13.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# A pyenv shim such as python3.12 fails unless PYENV_VERSION selects its version. If an interpreter
# fails, `ask` runs it again with PYENV_VERSION set. Without pyenv the variable has no effect.
probe = import sys; sys.version_info >= (3, 11) and print(sys.executable, "%d.%d" % sys.version_info[:2])
ask = $(shell { $(1) -c '$(probe)' || PYENV_VERSION=$(patsubst python%,%,$(notdir $(1))) $(1) -c '$(probe)'; } 2>/dev/null)

ifdef PYTHON
  found   := $(call ask,$(PYTHON))
  VENV    := .venv$(addprefix -,$(filter-out 3.11,$(or $(word 2,$(found)),missing)))
else
  # Expanded only when the environment has to be created. All later commands run inside it.
  found    = $(or $(call ask,python3.11),$(call ask,python3))
  VENV    := .venv
endif

define no_python
No usable Python: $(or $(PYTHON),python3.11 or python3) is missing, does not start or is older than 3.11.
Install Python 3.11 or newer and name it, for example: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12
endef

BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --quiet

# venv installs pip last. If its creation was interrupted, pip is missing and make creates it again.
$(BIN)/pip:
	$(if $(found),,$(error $(no_python)))
	$(firstword $(found)) -m venv --clear $(VENV)

# An editable installation builds the compiled core if there is a C compiler.
BUILT := pyproject.toml setup.py $(wildcard src/core/*)

# Only what the demo needs. Because of this stamp file, the demo starts at once the second time.
$(VENV)/.demo: $(BUILT) | $(BIN)/pip
	@echo "Installing tidings into $(VENV) ..."
	$(PIP) install --editable '.[all]'
	@touch $@

# What contributors need: everything for the demo, and the tools.
$(VENV)/.dev: $(BUILT) | $(BIN)/pip
	@echo "Installing tidings and its tools into $(VENV) ..."
	$(PIP) install --editable '.[all,dev]'
	@touch $(VENV)/.demo $@

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(VENV)/.demo  ## show a service, its clients and its server at work in this terminal
	$(BIN)/tidings demo

.PHONY: test
test: $(VENV)/.dev  ## run the whole test suite on the Python modules, with every snippet of README.md and docs/
	TIDINGS_CORE=pure $(BIN)/pytest -n 2 --dist loadfile

.PHONY: test-compiled
test-compiled: $(VENV)/.dev  ## run the whole test suite on the compiled core; TESTS names a part of it
	TIDINGS_CORE=compiled $(BIN)/pytest -n 2 --dist loadfile $(TESTS)

.PHONY: check
check: $(VENV)/.dev  ## check format, lint rules, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_architecture.py

.PHONY: docs
docs: $(VENV)/.dev  ## build the documentation in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: soak
soak: $(VENV)/.dev  ## cause random faults under load for 20 seconds; SOAK_SECONDS and SOAK_SEED change the run
	$(BIN)/pytest -m soak tests/soak

FUZZ_SECONDS ?= 18
LEAK_MESSAGES ?= 10000000
.PHONY: fuzz
fuzz: $(VENV)/.dev  ## run atheris on what reads bytes from outside, FUZZ_SECONDS a target; sanitizers and LEAK_MESSAGES on the compiled core
	$(PIP) install 'atheris>=2.3'
	TIDINGS_CORE=compiled $(BIN)/python tests/fuzz/leaks.py $(LEAK_MESSAGES)
	$(BIN)/python tests/fuzz/sanitize.py
	TIDINGS_CORE=compiled $(BIN)/python tests/fuzz/run_atheris.py $(FUZZ_SECONDS)

.PHONY: bench
bench: $(VENV)/.dev  ## run the whole benchmark, with all clients: about 20 minutes
	$(PIP) install -e '.[bench]'
	$(BIN)/python -m bench

.PHONY: bench-quick
bench-quick: $(VENV)/.dev  ## run the benchmark of tidings and nats-py: about two minutes
	$(BIN)/python -m bench --quick

.PHONY: clean
clean:  ## remove everything that the other targets created
	rm -rf .venv .venv-* bench/.venvs site dist build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f src/tidings/_core.*.so
