# demo, test, check and bench each do all the set-up they need on a Linux machine with Python 3.11 or later.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 \
	&& $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: demo test check bench fuzz sim test-peers clean

demo: $(VENV)/.installed
	$(BIN)/bluegreen demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.bench $(ARGS)

sim: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.simulate --write

fuzz: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.fuzz --count 1000000

clean:
	rm -rf $(VENV) bluegreen-demo bluegreen-state benchmarks/.work

# One virtual environment, filled as far as the command needs; it is made again when what is to be installed changes.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: install it (for example apt-get install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv $(VENV); } \
		|| { rm -rf $(VENV); echo "cannot make a virtual environment: install your distribution's python3-venv" >&2; exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	@touch $@
