# Every target does its own set-up; `make up` and `make test` are all a newcomer needs.
# Wanted: Python 3.11 or newer. Everything else comes from uv.lock into .venv/; PYTHON=/path/to/python3.12 chooses another Python.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
RUN := .venv/bin/

.DEFAULT_GOAL := help
.PHONY: up test test-containers test-systemd test-upgrades test-leaks check lint setup unit bench faults hostile wheel clean help

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{split($$1, target, ":"); printf "  make %-15s %s\n", target[1], $$2}'

up: setup ## start everything on this machine (Ctrl+C stops it); options: make up ARGS="--port 8001"
	@exec $(RUN)sandlot up $(ARGS)

# A file's tests share what it has started, so a file stays with one process.
test: lint ## every check and every test
	@$(RUN)python -m pytest -n auto --dist loadfile $(ARGS)

test-containers: setup ## build the image and run compose.yaml with a real engine (root; minutes)
	@UV_PROJECT_ENVIRONMENT=.venv $(RUN)uv sync --quiet --frozen --inexact --no-python-downloads --group containers
	@SANDLOT_TEST_CONTAINERS=1 $(RUN)python -m pytest tests/containers $(ARGS)

test-systemd: setup ## boot a machine with the systemd units in it (root; QEMU; minutes)
	@SANDLOT_TEST_SYSTEMD=1 $(RUN)python -m pytest tests/systemd $(ARGS)

test-upgrades: setup ## put this code in the place of an earlier day's while calls come in (a minute; needs the repository's history)
	@SANDLOT_TEST_UPGRADES=1 $(RUN)python -m pytest tests/faults/test_upgrade.py $(ARGS)

test-leaks: setup ## 10,000 sandboxes, and that nothing stays of them (two minutes)
	@SANDLOT_TEST_SANDBOXES=10000 $(RUN)python -m pytest tests/sandbox/test_walls_leaks.py -k many_sandboxes $(ARGS)

check: lint unit ## format, lint, types, import law and unit tests: under a minute

lint: setup
	@$(RUN)ruff format --check --quiet . || { echo "not formatted: run $(RUN)ruff format" >&2; exit 1; }
	@$(RUN)ruff check --quiet .
	@$(RUN)mypy
	@$(RUN)lint-imports --no-logo

unit: setup ## the unit tests alone: seconds
	@$(RUN)python -m pytest -q tests/unit

bench: setup ## measure this machine, and what people would use instead, side by side
	@$(RUN)python -m benchmarks $(ARGS)

faults: setup ## break everything on purpose and judge what happened (some of it needs root)
	@$(RUN)python -m tests.faults $(ARGS)

hostile: setup ## throw 10,000 hostile requests at the API, and hold it to its OpenAPI document; options: make hostile ARGS="--seed 1 --requests 500"
	@$(RUN)python -m tests.hostile $(ARGS)

wheel: setup ## build dist/sandlot-*.whl
	@$(RUN)uv build --quiet --wheel --out-dir dist

setup: .venv/.synced ## create .venv/ and install what uv.lock names

# uv is fetched into the environment itself, so that nothing outside this folder is needed or changed.
.venv/.synced: pyproject.toml uv.lock
	@test -n "$(PYTHON)" || { echo "Sandlot needs Python 3.11 or newer. Install it, or: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(RUN)python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(RUN)python -m pip --version >/dev/null 2>&1 || $(RUN)python -m ensurepip --upgrade >/dev/null
	@test -x $(RUN)uv || $(RUN)python -m pip install --quiet --disable-pip-version-check uv
	@UV_PROJECT_ENVIRONMENT=.venv $(RUN)uv sync --quiet --frozen --inexact --no-python-downloads
	@touch $@

clean: ## remove what can be made again (not .sandlot/, which has your data)
	@rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
