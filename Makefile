# make demo: the story in a minute. make test: every test. All targets make .venv and install into it what they need.
# Needed on the machine: make and Python 3.11 or newer. PYTHON=... names another Python than the first that is new enough.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
ROUNDS ?= 50
ROOM_ROUNDS ?= 100
SEEDS ?= 2000
MINUTES ?= 10

.PHONY: demo test check kills kills-rooms simulate fuzz install bench clean

demo: install
	$(BIN)/ds-sync demo

test: install
	$(BIN)/python tests/run.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ds_sync adapters

kills: install
	$(BIN)/python -m pytest tests/kills --rounds $(ROUNDS)

kills-rooms: install
	$(BIN)/python -m pytest tests/kills/test_ywebsocket_kills.py --room-rounds $(ROOM_ROUNDS)

simulate: install
	$(BIN)/python -m ds_sync.testing.simulator --seeds $(SEEDS) --jobs $$($(BIN)/python -c 'import os; print(os.cpu_count() or 1)')

bench: install
	$(BIN)/python tests/benchmarks/bench.py $(BENCH)
	$(BIN)/python tests/benchmarks/rooms.py $(BENCH)

fuzz: install
	$(BIN)/python tests/fuzz --minutes $(MINUTES)

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "ds-sync needs Python 3.11 or newer. $(or $(PYTHON),python3) is: $$("$(or $(PYTHON),python3)" --version 2>&1)"; \
	echo "Say where one is: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; } >&2
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

clean:
	rm -rf $(VENV) tests/interop/node_modules examples/editor/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	rm -rf tests/benchmarks/peers/node_modules tests/benchmarks/peers/.venv
	find . -name __pycache__ -prune -exec rm -rf {} +
