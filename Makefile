# What CI calls is what a newcomer types.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install develop demo test lint docs format benchmark pictures clean

install: $(VENV)/installed
develop: $(VENV)/developing

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable "."
	touch $@

$(VENV)/developing: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $(VENV)/installed $@

demo: install
	$(BIN)/featcache demo

# The order of the names starts long files early; by default those with few tests, one of them the longest, come last.
# A worker that dies ends the run: with another in its place xdist has been seen to wait for ever at the end.
test: develop lint docs
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Pages for a browser, in build/docs. Warnings are errors.
docs: develop
	$(BIN)/python docs/write_reference.py
	$(BIN)/sphinx-build -W --keep-going -q -j auto docs build/docs

format: develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: install
	$(BIN)/python benchmarks/routes.py

pictures: install
	$(BIN)/python benchmarks/pictures.py

clean:
	rm -rf $(VENV) demo demo-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
