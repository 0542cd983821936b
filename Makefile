# What CI calls is what a newcomer types.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install demo test lint format benchmark pictures clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/featcache demo

# The order of the names starts long files early; by default those with few tests, one of them the longest, come last.
test: install lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: install
	$(BIN)/python benchmarks/routes.py

pictures: install
	$(BIN)/python benchmarks/pictures.py

clean:
	rm -rf $(VENV) demo demo-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
