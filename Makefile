# Each target sets up what it needs: .venv, once, from the lock file.
PYTHON ?= python3
BIN := .venv/bin
# The lock with CUDA where there is a GPU to use it.
LOCK := $(if $(shell command -v nvidia-smi),requirements-gpu.lock,requirements.lock)
INSTALL ?= $(BIN)/pip install --disable-pip-version-check
# Test processes: each grows to 3 GB.
AT_ONCE ?= 2

.PHONY: setup train test test-all test-gpu lint lock clean

setup: .venv/ready

.venv/ready: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "error: $$($(PYTHON) --version) found, Python 3.10 to 3.13 needed: call make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(INSTALL) --quiet --no-deps --require-hashes -r $(LOCK)
	$(INSTALL) --quiet --no-deps --no-build-isolation --editable .
	mkdir -p .venv/checkout
	ln -sfn ../.. .venv/checkout/evenkeel
	touch $@

train: setup
	$(BIN)/evenkeel train --preset=quick

test: setup
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

# The locks hold for all supported Python versions at once and name no index. Needs uv (pip install uv).
LOCKING := uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes --no-header --quiet
lock:
	$(LOCKING) --extra dev -o requirements.lock
	$(LOCKING) --extra dev --extra gpu -c requirements.lock -o requirements-gpu.lock

clean:
	rm -rf .venv build *.egg-info
