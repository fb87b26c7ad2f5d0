# Everything a person or CI does here. Each target sets up what it needs in .venv, once; `make help` lists them.
#
# Useful settings, on the command line or in the environment:
#   STEEPEST_DATA=DIR   where real data sets lie (otherwise the user's cache, then the network)
#   TORCH_INDEX=URL     where torch comes from; https://download.pytorch.org/whl/cpu avoids the large CUDA build
#   PYTEST_ADDOPTS=...  more options for pytest, as pytest itself reads them
#   PYTHON=python3.12   which Python (3.11 or newer) makes the environment
#   WORKERS=4           how many processes run the unit tests

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
DEMO_OUT ?= demo-report
BENCH_ARGS ?=
CLAIMS_ARGS ?= --size laptop --out docs/claims
DEMO_METHODS ?= adamw,sgd,lion,adabelief,ademamix,diffgrad,adamp,muon
TORCH_INDEX ?=
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
# The first of the usual names that is new enough.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)

LOUD_PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
PIP := $(LOUD_PIP) --quiet
# The build backend is installed, pinned, beside the rest, so that installing the checkout fetches nothing else.
EDITABLE := $(PIP) --no-build-isolation
# A stamp is written only after its last command succeeded, so an interrupted set-up is simply repeated.
STAMPS := $(VENV)/.steepest
NEEDS := pyproject.toml constraints.txt

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1: \2/p' $(MAKEFILE_LIST)

# --- set-up ---------------------------------------------------------------------------------------------------------

$(STAMPS)/torch: constraints.txt
	@test -n "$(PYTHON)" || { echo "steepest needs Python 3.11 or newer; found none. Set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "could not make $(VENV); on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "set-up: $(TORCH) into $(VENV) (minutes; a build with CUDA is several gigabytes, see TORCH_INDEX in the Makefile)"
	@$(LOUD_PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	@$(PIP) hatchling editables
	@$(BIN)/python -c 'import torch' || { echo "$(VENV) is damaged (an interrupted install?): remove it, then run make again"; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

# One stamp per extra: `$(STAMPS)/test` installs the checkout with the extra `test`.
$(STAMPS)/%: $(STAMPS)/torch $(NEEDS)
	@echo "set-up: steepest[$*] into $(VENV)"
	@$(EDITABLE) -e '.[$*]'
	@touch $@

# An oracle of the tests; it asks for what it uses only to draw.
$(STAMPS)/test: $(STAMPS)/torch $(NEEDS)
	@echo "set-up: steepest[test] into $(VENV)"
	@$(EDITABLE) -e '.[test]'
	@$(PIP) --no-deps mup
	@touch $@

# These want torchvision, which has to be built for the same torch; what is measured uses none of it.
$(STAMPS)/bench: $(STAMPS)/torch $(NEEDS)
	@echo "set-up: steepest[bench] and its peers into $(VENV)"
	@$(EDITABLE) -e '.[bench]'
	@$(PIP) --no-deps pyscnn linalg-backends backpack-for-pytorch curvlinops-for-pytorch
	@touch $@

# --- the main job ---------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(STAMPS)/arena ## tune 8 optimizers on real data, retrain each with 5 seeds, write a report
	$(BIN)/steepest compare digits-mlp --methods $(DEMO_METHODS) --trials 12 --seeds 5 --workers 2 --out $(DEMO_OUT)
	@test -s $(DEMO_OUT)/report.html
	@echo && echo "The report: $(abspath $(DEMO_OUT))/report.html (open it in a browser; it needs no network)"

# --- checks ---------------------------------------------------------------------------------------------------------

.PHONY: test
test: $(STAMPS)/test ## the unit tests (a few minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not integration"

.PHONY: test-integration
test-integration: $(STAMPS)/integration $(STAMPS)/docs $(STAMPS)/system ## the real parts: PostgreSQL, Ray, Chromium, trainers, two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m integration

.PHONY: check
check: $(STAMPS)/dev ## lint, format, types on core, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: $(STAMPS)/bench ## step times of every optimizer, the convex solvers and the oracles, against the peers
	$(BIN)/steepest bench step $(BENCH_ARGS)
	$(BIN)/steepest bench convex $(BENCH_ARGS)
	$(BIN)/steepest bench oracles $(BENCH_ARGS)

.PHONY: claims
claims: $(STAMPS)/arena ## test every paper's claim at laptop size and write the evidence (long)
	$(BIN)/steepest claims $(CLAIMS_ARGS)

.PHONY: docs
docs: $(STAMPS)/docs ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: wheel
wheel: $(STAMPS)/torch ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

$(STAMPS)/system: .ci/install-system
	@bash .ci/install-system
	@mkdir -p $(STAMPS) && touch $@

# --- housekeeping ---------------------------------------------------------------------------------------------------

.PHONY: lock
lock: ## write constraints.txt anew from the newest versions that the extras allow
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	.venv-lock/bin/python -m pip install --quiet hatchling editables '.[integration,bench,docs,dev]'
	{ echo '# Exact versions of everything that CI and `make` install; written by `make lock`.'; \
	  echo '# torch has no local tag, so that its CPU and CUDA builds both satisfy the pin.'; \
	  .venv-lock/bin/python -m pip freeze --all --exclude pip --exclude steepest | sed 's/+c[pu][0-9u]*$$//'; \
	} > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-lock

.PHONY: clean
clean: ## remove what was built, tested and cached, but not .venv
	rm -rf build dist site $(DEMO_OUT) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis lightning_logs
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
