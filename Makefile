# Usage: make quickstart | test | test-slow | smoke | check | bench | clean
# Another interpreter: make PYTHON=/path/to/python test; more pytest arguments: make test ARGS="-k kalman"

SUPPORTED := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
CANDIDATES := python3 python3.13 python3.12 python3.11
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	if $$python -c "$(SUPPORTED)" >/dev/null 2>&1; then echo $$python; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
ARGS ?=

.DELETE_ON_ERROR:
.PHONY: quickstart test test-slow smoke check bench clean

quickstart: $(VENV)/.installed
	$(BIN)/python tutorials/quickstart.py

test: $(VENV)/.installed-aeon
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-aeon
	XLA_FLAGS="$$XLA_FLAGS" $(BIN)/python -m pytest -n 2 --dist loadfile -m slow $(ARGS)

smoke: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m smoke $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: $(VENV)/.installed-bench
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf .venv .venv-smoke .cache

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { \
		echo "tsppl needs Python 3.11 or newer with its venv module; found none among: $(CANDIDATES)."; \
		echo "Install one, or name it: make PYTHON=/path/to/python"; \
		exit 1; } >&2
	$(PYTHON) -m venv $(VENV)

# The package is installed in place, so that a changed source needs no new installation.
$(VENV)/.installed: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "Installing tsppl into $(VENV) (some minutes the first time)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "Installing tsppl[$*] into $(VENV) (some minutes the first time)"
	@$(PIP) install --editable ".[$*]"
	@touch $@ $(VENV)/.installed

# For the data files in it, without what it would hold back: see the extra `examples` in pyproject.toml.
$(VENV)/.installed-aeon: $(VENV)/.installed-dev
	@$(PIP) install --no-deps "aeon>=1.0"
	@touch $@
