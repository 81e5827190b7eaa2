# make demo   installs geoseg into .venv and runs the whole job on a synthetic town
# make test   installs what the tests need into .venv and runs them
# make lint   style, types, spelling

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --quiet
# The demo's building F1@0.5 on unseen ground must reach this.
DEMO_F1 ?= 0.80

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	@echo "== geoseg demo: tile, train for some minutes, predict, evaluate"
	$(BIN)/geoseg demo -o demo --overwrite --min-f1 $(DEMO_F1)

test: $(VENV)/.test
	@echo "== tests"
	$(BIN)/python -m pytest -n auto --dist loadscope

lint: $(VENV)/.lint
	@echo "== style, types, spelling"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell geoseg pipelines configs tests benchmarks data docs README.md ARCHITECTURE.md CHANGELOG.md

$(VENV)/.made:
	@echo "== making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "geoseg needs Python 3.11 or newer; run make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	@echo "== installing geoseg and what it needs (torch is large: this takes some minutes)"
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	@echo "== installing geoseg and what its tests need (torch is large: this takes some minutes)"
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.lint: $(VENV)/.test
	@echo "== installing linters"
	$(PIP) -e '.[test,lint]'
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
