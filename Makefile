# make demo, make test: each does all the set-up on a fresh machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-exhaustive smoke lint bench clean

demo: $(INSTALLED)
	$(BIN)/qsim demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-exhaustive: $(INSTALLED)
	$(BIN)/python -m pytest -q -m exhaustive --durations=0

smoke: $(INSTALLED)
	$(BIN)/qsim experiment all --scale smoke --out smoke --jobs 2

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[peers]'
	$(BIN)/qsim bench rounding --peers
	$(BIN)/qsim bench gemm
	$(BIN)/qsim bench quantizers
	$(BIN)/qsim bench train

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed, $$($(PYTHON) --version) was found; run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
