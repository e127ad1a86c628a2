# Two commands on a fresh machine: `make bench` and `make test`. Everything runs in .venv, made here.
PYTHON ?= python3
SUITE ?= quick
OUT ?= results/$(SUITE)
BIN = .venv/bin

.PHONY: setup bench test check format report smollm2

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "depthbench needs Python 3.11 or 3.12; name one with 'make setup PYTHON=python3.11'" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,dev]'
	@touch $@

bench: setup
	$(BIN)/depthbench run $(SUITE) --out $(OUT) --resume
	$(BIN)/depthbench report $(OUT)

smollm2: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gguf]'
	$(BIN)/depthbench generate 'The capital of France is' --model smollm2-135m --max-new-tokens 8

test: setup
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadscope

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

report: setup
	$(BIN)/depthbench report $(OUT)
