# make demo      the whole network on this machine, in a minute or two
# make test      everything that is checked before a change lands
# make test-all  the same with the slow tests
# make test-gpu  what only a machine with a CUDA device can test, and bench/gpu.py; PYTHON=... for one with torch and CuPy that is no set-up
# make review    static analysis and symbolic proofs of the contracts (slither and halmos from PyPI, 400 MB, a minute or two)
# make setup     the virtual environment and anvil, without running anything
# make clean     what was built or run here; `make distclean` the virtual environment and the tools, too
.DEFAULT_GOAL := demo
VENV ?= .venv
BIN := $(VENV)/bin
# Hundreds of processes import the same modules: compiled once, also where PYTHONDONTWRITEBYTECODE is set, as it is in many containers.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: setup tools demo checked test test-all test-gpu lint contracts review clean distclean

setup:
	@VENV=$(VENV) tools/setup.sh
	@PYTHON=$(BIN)/python contracts/tools/install.sh anvil

tools: setup
	@PYTHON=$(BIN)/python contracts/tools/install.sh

demo: setup
	@$(BIN)/assay demo $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

contracts: tools
	$(BIN)/python contracts/build.py --check
	cd contracts && ../.tools/bin/forge test

review: tools
	$(BIN)/python contracts/review.py

# Linting and compiling side by side: each takes one core.
checked: setup
	@tools/compiler.sh
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint contracts

test: checked
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: checked
	cd contracts && FOUNDRY_PROFILE=slow ../.tools/bin/forge test --match-contract DisputeInvariants
	$(PYTEST) $(ARGS)

PYTHON ?= $(BIN)/python
test-gpu:
	$(PYTHON) tests/gpu.py
	$(PYTHON) bench/gpu.py --seconds 200

clean:
	rm -rf .assay build dist contracts/out contracts/cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find assay worker scheduler verifier tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .tools
