# Two commands need nothing done before them: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ROOMS := core corpus tokenizer model pretrain distill convert finetune launch
NAMESPACE := build/ns/biolm

.PHONY: setup demo test check bench clean namespace

setup: $(VENV)/.ready

$(VENV)/.ready: setup.py constraints.txt tools/install.sh
	PYTHON="$(PYTHON)" sh tools/install.sh $(VENV)
	touch $@

namespace:
	@mkdir -p $(NAMESPACE)
	@for room in $(ROOMS); do ln -sfn ../../../$$room $(NAMESPACE)/$$room; done

demo: setup
	$(BIN)/biolm launch demo --out runs/demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov --cov-report=term

check: setup namespace
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: setup
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
