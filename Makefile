PYTHON ?= python3
BIN := .venv/bin

.PHONY: finetune test lint

finetune: .venv/installed
	$(BIN)/accelerate launch recipes/finetune.py

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	touch $@
