# The two commands of a new user are `make demo` and `make test`; both make .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BUNDLE ?= data/bach
CLIP ?= data/demo/big_buck_bunny.mp4
OUT ?= out

.PHONY: demo test test-full lint wheel clean

$(VENV)/base: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "v2meow: Python 3.11 or 3.12 is needed; name one with make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/dev: $(VENV)/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,app,dev]'
	touch $@

demo: $(VENV)/base
	$(BIN)/v2meow generate $(CLIP) --bundle $(BUNDLE) --out $(OUT)

test: $(VENV)/dev
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-full: $(VENV)/dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

wheel: $(VENV)/dev
	$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf build dist out *.egg-info
