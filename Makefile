# Everything runs in .venv, which the first call makes. PYTHON: the interpreter to make it with, 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints/cpu.txt

.PHONY: demo test lint test-slow clean

demo: .venv/installed    ## audit the two built-in classifiers; writes demo-report/
	$(BIN)/robustest demo -o demo-report

test: lint               ## lint, types, and every test that is not slow
	$(BIN)/python -m pytest -n 2

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test-slow: .venv/installed-dev   ## the slow tests too
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"

.venv/installed: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) --editable '.[bounds,fast]'
	touch $@

# torchattacks without its dependencies: its pins would downgrade requests and urllib3, and it runs without them.
.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[bounds,compare,fast,grpc,pytest]' --group dev
	$(PIP) --no-deps torchattacks==3.5.1
	touch $@

clean:                   ## remove the virtual environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-report
	find robustest -name '*.nb[ci]' -delete
