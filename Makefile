# Every target does its own set-up; `make up` and `make test` are all a newcomer needs.
PYTHON ?= python3
UV := .venv/bin/uv
RUN := .venv/bin/

.PHONY: up test check setup unit bench clean help

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

up: setup ## start everything on this machine (Ctrl+C stops it)
	@$(RUN)sandlot up

test: check ## every check and every test
	@$(RUN)python -m pytest

check: setup ## format, lint, types, import law and unit tests: under a minute
	@$(RUN)ruff format --check --quiet .
	@$(RUN)ruff check --quiet .
	@$(RUN)mypy
	@$(RUN)lint-imports --no-logo
	@$(RUN)python -m pytest -q tests/unit

bench: setup ## Sandlot beside its peers, on this machine: under 25 minutes (needs wrk)
	@$(RUN)python -m benchmarks

setup: .venv/.synced ## create .venv and install what uv.lock names

.venv/.synced: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Sandlot needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=/path/to/python3.11." >&2; exit 1; }
	@command -v uv >/dev/null 2>&1 || test -x $(UV) || { $(PYTHON) -m venv .venv && .venv/bin/python -m pip install --quiet uv; }
	@uv=$$(command -v uv || echo $(UV)); UV_PROJECT_ENVIRONMENT=.venv $$uv sync --quiet --frozen --inexact --python $$(command -v $(PYTHON)) --no-python-downloads
	@touch $@
