# demo, test, check and bench each do all the set-up they need on a Linux machine with Python 3.11 or later.
# bench also compiles the data plane, where there is a C compiler; nginx, haproxy and wrk it can install only as root with apt-get.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 \
	&& $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
PEERS := .venv-peers
COMPILED := .venv-compiled
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: demo test check bench wheel test-compiled fuzz soak sim rollouts test-peers clean

demo: $(VENV)/.installed
	$(BIN)/bluegreen demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(COMPILED)/.installed
	$(COMPILED)/bin/python -m benchmarks.bench $(ARGS)

# A wheel for this machine's Python (in dist/), its data plane compiled where there is a C compiler with Python's headers.
wheel: $(VENV)/bin/python
	$(call built)

# The data plane's tests once more, over compiled workers.
test-compiled: $(COMPILED)/.installed
	$(COMPILED)/bin/bluegreen --version | grep compiled
	$(COMPILED)/bin/python -m pytest tests/router/test_conformance*.py tests/router/test_faults*.py tests/router/test_tls*.py \
		tests/router/test_upstream_addresses.py tests/router/test_end_to_end.py $(PYTEST_ARGS)

sim: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.simulate --write

fuzz: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.fuzz --count 1000000

# Ten minutes; what it finds goes into docs/soak.md.
soak: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.soak --minutes 10 --write

# A quarter of an hour; what it finds goes into docs/rollouts.md.
rollouts: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.rollouts --write

# Real clients and model servers, each with a virtual environment of its own (1.5 GB in all); not part of `test`.
test-peers: $(PEERS)/clients/.installed $(PEERS)/mlserver/.installed $(PEERS)/mlflow/.installed
	@command -v curl >/dev/null || { echo "curl is needed: install it (for example apt-get install curl)" >&2; exit 1; }
	$(PEERS)/clients/bin/python -m pytest tests_peers $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(PEERS) $(COMPILED) build dist bluegreen-demo bluegreen-state benchmarks/.work

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

PEER_CLIENTS := --editable . 'pytest>=8.3,<10' 'requests>=2.32' 'httpx>=0.27' 'aiohttp>=3.10' 'websockets>=14' 'openai>=1.60'
PEER_MLSERVER := 'mlserver==1.7.1' 'mlserver-sklearn==1.7.1'
PEER_MLFLOW := 'mlflow>=3.1,<4' scikit-learn

$(PEERS)/clients/.installed: $(VENV)/bin/python pyproject.toml
	$(call filled,clients,$(PEER_CLIENTS))

$(PEERS)/mlserver/.installed: $(VENV)/bin/python
	$(call filled,mlserver,$(PEER_MLSERVER))

$(PEERS)/mlflow/.installed: $(VENV)/bin/python
	$(call filled,mlflow,$(PEER_MLFLOW))

define filled
	@test -x $(PEERS)/$(1)/bin/python || $(VENV)/bin/python -m venv $(PEERS)/$(1)
	$(PEERS)/$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)
	@touch $@
endef

# Built from a copy, since the compiler leaves its output beside the sources, where it would be taken instead of them.
SOURCES := $(shell find models router shadow -name '*.py')
COMPILES := $(shell command -v cc >/dev/null 2>&1 && echo true || echo false)

define built
	@test $(COMPILES) = true || echo "no C compiler (cc) here: the data plane is built without being compiled" >&2
	@rm -rf build/copy && mkdir -p build/copy dist && cp -r models router shadow pyproject.toml README.md LICENSE build/copy
	HATCH_BUILD_HOOK_ENABLE_MYPYC=$(COMPILES) $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist build/copy
endef

$(COMPILED)/.installed: $(VENV)/bin/python pyproject.toml $(SOURCES)
	@test -x $(COMPILED)/bin/python || $(VENV)/bin/python -m venv $(COMPILED)
	@rm -f dist/bluegreen-*.whl
	$(call built)
	$(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check "$$(ls dist/bluegreen-*.whl)[test,bench]"
	$(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/bluegreen-*.whl
	@touch $@
