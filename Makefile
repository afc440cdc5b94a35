# Every target does its own set-up; `make up` and `make test` are all a newcomer needs.
# Requires Python 3.11 or newer. Everything else comes from uv.lock into .venv/;
# PYTHON=/path/to/python3.12 selects another Python.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
RUN := .venv/bin/

.DEFAULT_GOAL := help
.PHONY: up test test-containers test-systemd test-upgrades test-leaks check lint setup unit bench faults hostile wheel clean help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{split($$1, target, ":"); printf "  make %-15s %s\n", target[1], $$2}'

up: setup ## start Sandlot on this machine (Ctrl+C stops it); options: make up ARGS="--port 8001"
	@exec $(RUN)sandlot up $(ARGS)

# The tests of a file share the servers that it starts, so one process runs them all.
test: lint ## run every check and every test
	@$(RUN)python -m pytest -n auto --dist loadfile $(ARGS)

test-containers: setup ## build the image and run compose.yaml with a real engine (root; minutes)
	@UV_PROJECT_ENVIRONMENT=.venv $(RUN)uv sync --quiet --frozen --inexact --no-python-downloads --group containers
	@SANDLOT_TEST_CONTAINERS=1 $(RUN)python -m pytest tests/containers $(ARGS)

test-systemd: setup ## boot a virtual machine with the systemd units (root; QEMU; minutes)
	@SANDLOT_TEST_SYSTEMD=1 $(RUN)python -m pytest tests/systemd $(ARGS)

test-upgrades: setup ## upgrade from earlier code while calls arrive (a minute; needs the repository's history)
	@SANDLOT_TEST_UPGRADES=1 $(RUN)python -m pytest tests/chaos/test_upgrade.py $(ARGS)

test-leaks: setup ## run 10,000 sandboxes and check that they leave nothing behind (two minutes)
	@SANDLOT_TEST_SANDBOXES=10000 $(RUN)python -m pytest tests/sandbox/test_leaks.py -k many_sandboxes $(ARGS)

check: lint unit ## check format, lint, types and import law, and run the unit tests (under a minute)

lint: setup
	@$(RUN)ruff format --check --quiet . || { echo "not formatted: run $(RUN)ruff format" >&2; exit 1; }
	@$(RUN)ruff check --quiet .
	@$(RUN)mypy
	@$(RUN)lint-imports --no-logo

unit: setup ## run only the unit tests (seconds)
	@$(RUN)python -m pytest -q tests/unit

bench: setup ## measure Sandlot and its alternatives on this machine
	@$(RUN)python -m benchmarks $(ARGS)

faults: setup ## inject faults everywhere and check the results (some need root)
	@$(RUN)python -m tests.chaos $(ARGS)

hostile: setup ## send 10,000 hostile requests and check replies against the OpenAPI document; options: ARGS="--seed 1 --requests 500"
	@$(RUN)python -m tests.hostile $(ARGS)

wheel: setup ## build dist/sandlot-*.whl
	@$(RUN)uv build --quiet --wheel --out-dir dist

setup: .venv/.synced ## create .venv/ and install what uv.lock names

# uv is installed into the environment itself, so that nothing outside this folder is needed or changed.
.venv/.synced: pyproject.toml uv.lock
	@test -n "$(PYTHON)" || { echo "Sandlot needs Python 3.11 or newer. Install it, or: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(RUN)python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(RUN)python -m pip --version >/dev/null 2>&1 || $(RUN)python -m ensurepip --upgrade >/dev/null
	@test -x $(RUN)uv || $(RUN)python -m pip install --quiet --disable-pip-version-check uv
	@UV_PROJECT_ENVIRONMENT=.venv $(RUN)uv sync --quiet --frozen --inexact --no-python-downloads
	@touch $@

clean: ## remove generated files (but not .sandlot/, which has your data)
	@rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
