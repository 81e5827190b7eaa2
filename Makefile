# make demo   installs geoseg into .venv; predicts and evaluates a real scene; tiles, trains, predicts
#             and evaluates a synthetic town
# make test   installs geoseg and its test dependencies into .venv; runs the tests
# make lint   checks style, types and spelling
# make clean  removes .venv and everything that was built

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Byte code is compiled after the installation, on all cores: pip compiles on one, and without byte
# code every start would compile thousands of modules. Modules for other versions of Python, which
# some packages have, do not compile: that is no error.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --quiet
COMPILE := env -u PYTHONDONTWRITEBYTECODE -u PYTHONPYCACHEPREFIX \
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
# Smallest building F1 at an IoU of 0.5 that the demo must reach on its test area.
DEMO_F1 ?= 0.80

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	@echo "== demo: predict and evaluate a real scene, then tile, train, predict, evaluate a town"
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

$(VENV)/.created:
	@echo "== creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "geoseg needs Python 3.11 or newer; run make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "== installing geoseg (torch is large: this takes some minutes)"
	$(PIP) -e .
	@$(COMPILE)
	@touch $@

$(VENV)/.test: $(VENV)/.created pyproject.toml
	@echo "== installing geoseg and its test dependencies (torch is large: this takes some minutes)"
	$(PIP) -e '.[test]'
	@$(COMPILE)
	@touch $@ $(VENV)/.installed

$(VENV)/.lint: $(VENV)/.test
	@echo "== installing linters"
	$(PIP) -e '.[test,lint]'
	@$(COMPILE)
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
