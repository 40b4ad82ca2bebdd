# make run     start the proxy on http://127.0.0.1:8000
# make test    run the tests, two files at a time
# make check   lint and types
# make crash   kill -9 it 300 times under load, and compare what clients, upstream and receiver have (ten minutes)
# make fuzz    mutate a million requests and answers (ten minutes)
# make outage  take the sink away for 100,000 events under full load; then a million events that wait (five minutes)
# make bench   it beside nginx, a direct call, and LiteLLM and vllm-router where they are installed (ten minutes)
# make curves  what it costs against requests in flight, sizes, tenants, ten million events, a backlog (ten minutes)
# make soak    four fifths of its capacity for twenty minutes, and see whether anything is left over
# make lock    renew the locked dependencies after a change of pyproject.toml

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# These load the whole machine themselves, or need one port again and again.
ALONE := tests/bench tests/crash tests/endurance tests/fuzz
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

.PHONY: run test check crash fuzz outage soak bench curves lock clean

run: .venv/installed
	@exec $(BIN)/tollgate serve

test: .venv/installed-dev
	@PYTHONHASHSEED=0 $(BIN)/python -m pytest -n 2 --dist loadfile $(ALONE:%=--ignore=%)
	@$(BIN)/python -m pytest $(ALONE)

check: .venv/installed-dev
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

crash: .venv/installed-dev
	@$(BIN)/python -m tests.crash

fuzz: .venv/installed-dev
	@$(BIN)/python -m tests.fuzz

outage: .venv/installed-dev
	@$(BIN)/python -m tests.endurance.outage && $(BIN)/python -m tests.endurance.backlog

soak: .venv/installed-dev
	@$(BIN)/python -m tests.endurance.soak

bench: .venv/installed-dev
	@$(BIN)/python -m tests.bench

curves: .venv/installed-dev
	@$(BIN)/python -m tests.bench.curves

lock: .venv/installed-dev
	@$(PIP) uv
	@$(COMPILE) pyproject.toml -o requirements.lock
	@$(COMPILE) pyproject.toml --extra dev -o tests/requirements.lock

clean:
	@rm -rf .venv

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Tollgate needs Python 3.11 or newer, and none was found." >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/installed: requirements.lock pyproject.toml | .venv/bin/python
	@echo "Installing Tollgate into .venv …" >&2
	@$(PIP) --require-hashes -r requirements.lock && $(PIP) --no-deps --editable .
	@touch $@

.venv/installed-dev: tests/requirements.lock .venv/installed
	@$(PIP) --require-hashes -r tests/requirements.lock
	@touch $@
