# Everything a contributor or CI runs. It needs Python 3.11 or newer with venv and pip, make and git;
# `make help` lists the targets.
#
# make test PYTHON=python3.13   uses its own virtual environment, .venv-3.13, beside the default one.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# A pyenv shim answers for a version only where PYENV_VERSION selects it, so an interpreter that does
# not answer is asked once more with its own version selected. Without pyenv the variable says nothing.
probe = import sys; sys.version_info >= (3, 11) and print(sys.executable, "%d.%d" % sys.version_info[:2])
ask = $(shell { $(1) -c '$(probe)' || PYENV_VERSION=$(patsubst python%,%,$(notdir $(1))) $(1) -c '$(probe)'; } 2>/dev/null)

ifdef PYTHON
  found   := $(call ask,$(PYTHON))
  VENV    := .venv$(addprefix -,$(filter-out 3.11,$(or $(word 2,$(found)),missing)))
else
  # Asked only when the environment has to be made: everything after that runs from inside it.
  found    = $(or $(call ask,python3.11),$(call ask,python3))
  VENV    := .venv
endif

define no_python
No usable Python: $(or $(PYTHON),python3.11 or python3) is missing, does not start or is older than 3.11.
Install Python 3.11 or newer and name it, for example: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12
endef

BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --quiet

# pip is what `venv` writes last: an environment whose making was interrupted is made anew.
$(BIN)/pip:
	$(if $(found),,$(error $(no_python)))
	$(firstword $(found)) -m venv --clear $(VENV)

# What a demo needs, and no more. The stamp makes the second run start at once.
$(VENV)/.demo: pyproject.toml | $(BIN)/pip
	@echo "Installing tidings into $(VENV) ..."
	$(PIP) install --editable '.[all]'
	@touch $@

# What contributors need, which is a demo's and the tools.
$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	@echo "Installing tidings and its tools into $(VENV) ..."
	$(PIP) install --editable '.[all,dev]'
	@touch $(VENV)/.demo $@

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(VENV)/.demo  ## a service, its clients and its server, live in this terminal
	$(BIN)/tidings demo

.PHONY: test
test: $(VENV)/.dev  ## the whole suite, with every snippet of README.md and docs/
	$(BIN)/pytest -n 2 --dist loadfile

.PHONY: check
check: $(VENV)/.dev  ## format, lint, types and the order of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_architecture.py

.PHONY: docs
docs: $(VENV)/.dev  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: soak
soak: $(VENV)/.dev  ## chaos under load for 20 seconds; SOAK_SECONDS and SOAK_SEED are taken
	$(BIN)/pytest -m soak tests/soak

FUZZ_SECONDS ?= 20
.PHONY: fuzz
fuzz: $(VENV)/.dev  ## atheris on what reads foreign bytes, five targets of 20 seconds
	$(PIP) install 'atheris>=2.3'
	$(BIN)/python tests/fuzz/run_atheris.py $(FUZZ_SECONDS)

.PHONY: bench
bench: $(VENV)/.dev  ## the whole benchmark, beside its peers: about 15 minutes
	$(PIP) install -e '.[bench]'
	$(BIN)/python -m bench

.PHONY: bench-quick
bench-quick: $(VENV)/.dev  ## tidings and nats-py only: about two minutes
	$(BIN)/python -m bench --quick

.PHONY: clean
clean:  ## remove everything that the targets above made
	rm -rf .venv .venv-* bench/.venvs site dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
