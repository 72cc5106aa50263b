# Every target does its own set-up; nothing needs another target to have run before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# Bytecode is kept, whatever the shell says: without it each worker spends 13 seconds on rewriting the asserts of all tests again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-all check format bench browser clean

demo: $(VENV)/.demo
	$(BIN)/vitreg demo --out demo-report

# What belongs to a folder (or module) of src/vitreg: its mirror in tests/unit, and rooms and files elsewhere that carry its name.
named = tests/*/$(1) tests/*/test_$(1)*.py $(foreach kind,contracts end_to_end parity planted,tests/$(kind)/*/test_$(1)*.py)
room = $(or $(sort $(wildcard $(call named,$(1)))),$(error no tests of '$(1)'; ROOM is one of $(notdir $(patsubst %/,%,$(dir $(wildcard tests/unit/*/.))))))

# ROOM=backbones runs the tests of one folder of the source only; a ROOM that has none is refused before anything else.
test: $(if $(ROOM),$(if $(call room,$(ROOM)),),browser) $(VENV)/.dev
	$(PYTEST) -m "not slow" $(if $(ROOM),$(call room,$(ROOM)))

test-all: $(VENV)/.dev browser
	$(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pyright -p pyright-strict.json

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/scan.py

# The tests of the page need a browser; without one they are skipped and say so.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } || \
	  echo "no chromium and no way to install it: the browser tests will be skipped"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv $(VENV); }

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e ".[dev]"
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) demo-report .pytest_cache .ruff_cache .hypothesis
