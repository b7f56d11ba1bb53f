# Two commands: `make demo` shows the method, `make test` checks everything. Both need only Python and pip,
# and pip's own configuration (indexes, caches, proxies) applies.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint types check clean

demo: $(VENV)/.installed
	$(BIN)/compressm demo $(ARGS)

test: lint types check

lint: $(VENV)/.installed-test
	$(BIN)/ruff check src tests benchmarks experiments tools docs
	$(BIN)/ruff format --check src tests benchmarks experiments tools docs

types: $(VENV)/.installed-test
	$(BIN)/mypy

# One thread in each of two processes keeps two cores busy without oversubscribing them.
check: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 $(ARGS)

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache
