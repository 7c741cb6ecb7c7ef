# Two commands need nothing done before them: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# Processes that share the tests; their coverage is added together.
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: setup lock demo recipes test test-slow check audit gpu-check matrix bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: setup.py src/biomlm/__init__.py constraints.txt tools/install.sh
	PYTHON="$(PYTHON)" sh tools/install.sh $(VENV)
	touch $@

# Resolves all packages anew with uv: make lock LOCK=--upgrade
lock:
	sh tools/lock.sh $(LOCK)

demo: setup
	$(BIN)/biomlm launch demo --out runs/demo

recipes: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/recipes.py --run all

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" --cov --cov-report=term

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

check: setup audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

# Every package with its licence and hashes (CycloneDX), and what is known against it where the package index answers.
audit: setup
	$(BIN)/python tools/supply_chain.py build

gpu-check:
	PYTHON="$(PYTHON)" sh tools/gpu_check.sh build/gpu-check

matrix:
	sh tools/matrix.sh build/matrix

bench: setup
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
