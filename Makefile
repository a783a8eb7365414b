PYTHON ?= python3
BIN := .venv/bin

.PHONY: finetune test lint

finetune: .venv/installed
	$(BIN)/accelerate launch recipes/finetune.py

# Waiting threads sleep, because runs beside each other would otherwise spin on each other's cores.
test: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	touch $@
