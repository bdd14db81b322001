PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
# What computes with arrays; when it is tested, the shapes in annotations are executed.
ARRAYS := boxes data evaluation losses nn prediction

.PHONY: demo test check docs format clean

demo: .venv/ready
	rm -rf runs/demo
	$(BIN)/damoyolo demo --output runs/demo

test: .venv/ready
	$(RUN) pytest -q -n 2 --dist worksteal $(ARRAYS:%=tests/%) --jaxtyping-packages=damoyolo,beartype.beartype
	$(RUN) pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARRAYS:%=--ignore=tests/%)

check: .venv/ready
	$(RUN) ruff format --check src tests benchmarks examples docs
	$(RUN) ruff check src tests benchmarks examples docs
	$(RUN) mypy
	$(BIN)/lint-imports

docs: .venv/ready
	$(RUN) mkdocs build --strict

format: .venv/ready
	$(RUN) ruff format src tests benchmarks examples docs
	$(RUN) ruff check --fix src tests benchmarks examples docs

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(RUN) pip install -q -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv
