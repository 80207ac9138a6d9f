# Two commands from a clone: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all test-fast check docs package clean

demo: $(VENV)/runtime
	$(BIN)/python -m launch.demo --out demo_output

test: $(VENV)/development
	$(PYTEST) -m "not long"

test-all: $(VENV)/development
	$(PYTEST)

# For every save, about two minutes on two cores: what takes longer is marked `slow`.
test-fast: $(VENV)/development
	$(PYTEST) -m "not slow and not long"

check: $(VENV)/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

docs: $(VENV)/development
	$(BIN)/mkdocs build --strict --quiet --site-dir site

# Builds the wheel, installs it into an environment of its own and segments a phantom from there.
package: $(VENV)/bin/python
	.ci/package $(BIN)/python

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python %d.%d; expected 3.11 or later: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/development: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) demo_output site dist
