# Everything from a fresh machine with Python 3.11+ and make: `make demo`, `make test`.
# `make help` lists the rest. The environment is .venv; nothing outside the tree is touched.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON_CANDIDATES ?= python3.13 python3.12 python3.11 python3 python

# Without bytecode every kernel start compiles its imports again and is two to three times slower.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PIP := $(BIN)/python -m pip install --quiet --quiet --no-compile
COMPILE := $(BIN)/python -m compileall -q -q -j 0 $(VENV)/lib || true

.PHONY: help demo test bench docs lint format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## analyse real data in a live kernel through MCP (no network, under a minute)
	@$(BIN)/ci-tools demo

test: $(VENV)/dev.stamp ## run every check: format, lint, types, imports, tests, docs, wheel
	@$(BIN)/python tests/run_checks.py $(ARGS)

bench: $(VENV)/dev.stamp ## measure against raw baselines; writes build/bench.jsonl (ARGS="--rows a,b --rounds 3")
	@$(BIN)/python -m tests.benchmarks $(ARGS)

docs: $(VENV)/dev.stamp ## build the documentation strictly into build/site
	@$(BIN)/python tests/run_checks.py docs

lint: $(VENV)/dev.stamp ## check format, lint, types and import contracts
	@$(BIN)/python tests/run_checks.py format lint types imports

format: $(VENV)/dev.stamp ## format the code and apply safe fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage .coverage.*

$(BIN)/python:
	@for candidate in $(PYTHON_CANDIDATES); do \
	  if "$$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "Making $(VENV) with $$("$$candidate" --version) ($$candidate)"; \
	    PIP_QUIET=2 exec "$$candidate" -m venv --upgrade-deps $(VENV); \
	  fi; \
	done; \
	echo "ci-tools needs Python 3.11 or newer; none of these is: $(PYTHON_CANDIDATES)." >&2; \
	echo "Install one, or name it: make PYTHON_CANDIDATES=/path/to/python3.12 …" >&2; \
	exit 1

# A stamp is newer than pyproject.toml as long as what it declares is installed.
$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing ci-tools with what the demo needs (once; some minutes) …"
	@$(PIP) --editable '.[mcp,data]'
	@$(COMPILE)
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing ci-tools with every extra and the development tools …"
	@$(PIP) --editable '.[mcp,assistants,deepagents,data,postgres,otel]' --group dev
	@$(COMPILE)
	@touch $@ $(VENV)/demo.stamp
