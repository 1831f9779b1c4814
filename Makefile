# What a newcomer needs: `make demo`, `make test`. Each sets up .venv first, once.
#
#   make demo PYTHON=python3.12        another Python than the first one found
#   make test PIP_FLAGS="..."          more flags for pip, such as an index that has the CPU build of torch

PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Where the real images and teachers are; empty means that the tests which need them are skipped.
export QAEDGE_DATA
# What starts an aarch64 Linux behind SSH (see tests/device); empty means that `make test` skips what needs one.
export QAEDGE_ARM_TARGET

.PHONY: demo test test-aarch64 lint format clean install

demo: $(STAMP)
	$(BIN)/qaedge demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not device" $(PYTEST_FLAGS)

# From nothing to a measured network on an emulated board: device add, setup without internet, check, profile, bench.
test-aarch64: $(STAMP)
	@test -n "$(QAEDGE_ARM_TARGET)" || { \
		echo "error: QAEDGE_ARM_TARGET is not set: it names the script that starts an aarch64 machine." >&2; \
		echo "  tests/device/test_aarch64.py says what such a script prints." >&2; exit 1; }
	$(BIN)/python -m pytest -m device tests/device $(PYTEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(STAMP)

# The stamp is older than pyproject.toml or constraints.txt exactly when what they name has to be installed again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "error: qaedge needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "  Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "error: '$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e ".[nn,tflite,page,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
