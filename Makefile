# Everything from an empty Debian machine to a measured lab. Needs root or sudo, asks nothing.

VENV ?= .venv
BIN := $(abspath $(VENV))/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit controller bench lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install what the lab needs; the second time only check
	@testbed/setup.sh $(VENV)

demo: setup ## the tour: build the reference lab, send traffic through its firewalls, print what was proved
	$(SUDO) $(BIN)/bumpwire run tour

test: lint unit controller ## lint, types and all tests
	$(SUDO) $(BIN)/python -m pytest tests/lab -p no:cacheprovider

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: setup ## tests of the parts, without root
	$(BIN)/python -m pytest tests/unit

controller: setup ## tests of the controller and the management, without root
	$(BIN)/python -m pytest tests/controller

bench: setup ## the performance table
	$(SUDO) $(BIN)/bumpwire bench

lock: ## solve requirements.lock again (needs uv)
	uv pip compile --quiet --upgrade --universal --python-version 3.10 --extra dev --generate-hashes \
	  --no-emit-package ovs --custom-compile-command 'make lock' pyproject.toml -o requirements.lock

clean: ## remove the virtual environment and caches; results/ stays
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
