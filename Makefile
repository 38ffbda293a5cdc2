.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help: ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

# Strict: a tree of links that the interpreter, mypy, import-linter and editors all follow (docs/adr/0001-one-import-package.md).
EDITABLE := -C editable_mode=strict -e

$(STAMP): pyproject.toml setup.py requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c requirements.lock torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -c requirements.lock $(EDITABLE) '.[all,dev]'
	$(FILES) > $(VENV)/.linked
	touch $@

install: link ## create the environment

FILES := find services shared deploy docs -type f -not -name '*.pyc' | sort

link: $(STAMP) ## link files that are new
	@$(FILES) | cmp -s - $(VENV)/.linked || { \
	  $(BIN)/pip install -q --disable-pip-version-check --no-deps $(EDITABLE) . && $(FILES) > $(VENV)/.linked; }

$(VENV)/.release: $(STAMP)
	$(BIN)/pip install -q --disable-pip-version-check -c requirements.lock $(EDITABLE) '.[release]' && touch $@

up: link ## start the whole product on this machine; Ctrl-C stops it
	@exec $(BIN)/autopilot up

test: link ## run all tests
	$(BIN)/pytest -n 2 --dist worksteal -q tests/unit tests/contract
	$(BIN)/pytest -n 2 --dist worksteal -q tests/integration
	$(BIN)/pytest -q tests/e2e tests/chaos

lint: link ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: link ## the benchmarks, short form
	$(BIN)/python -m tests.benchmarks.jobs --short
	$(BIN)/python -m tests.benchmarks.batching --short
	$(BIN)/python -m tests.benchmarks.soak --short
	$(BIN)/python -m tests.benchmarks.ingest --short
	$(BIN)/python -m tests.benchmarks.agent --short
	$(BIN)/python -m tests.benchmarks.rest --short
	$(BIN)/python -m tests.benchmarks.storage --short
	$(BIN)/python -m tests.benchmarks.detect --short
	$(BIN)/python -m tests.benchmarks.detect_live --short
	$(BIN)/python -m tests.benchmarks.notify --short
	$(BIN)/python -m tests.benchmarks.faults --short
	$(BIN)/python -m tests.benchmarks.twin --short
	$(BIN)/python -m tests.benchmarks.decide --short
	$(BIN)/python -m tests.benchmarks.forecast --short
	$(BIN)/python -m tests.benchmarks.arena --short
	$(BIN)/python -m tests.benchmarks.live --short

nightly: link $(VENV)/.release ## half an hour of every fault under load, thirty days of data, and long fuzzing
	$(BIN)/python -m tests.chaos.soak --minutes $(or $(SOAK_MINUTES),30)
	$(BIN)/python -m tests.benchmarks.storage_30_days
	AUTOPILOT_FUZZ_MINUTES=$(or $(AUTOPILOT_FUZZ_MINUTES),60) $(BIN)/pytest -q tests/chaos -k fuzz; test $$? -eq 0 -o $$? -eq 5
	$(BIN)/python -m tools.mutation

gpu-wheels: link ## fetch what a GPU machine without a network lacks for gpu-check
	$(BIN)/python -m tests.gpu_check.wheels build/gpu-wheels

gpu-check: ## on a machine with an NVIDIA GPU: real NVML, CUDA and energy, in five minutes; sets nothing on the card
	GPU_PYTHON=$(or $(GPU_PYTHON),python3) tests/gpu_check/run.sh

docs: link ## build the manual into site/, without a network; fails on a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-generate: link ## write generated pages, API documents, dashboards and golden files of new messages
	$(BIN)/python -m tests.contract.generate
	$(BIN)/python -m accelerator_autopilot.deploy.grafana.generator

release: link $(VENV)/.release ## build the source distribution and the wheel, and check both
	rm -rf dist build/lib build/bdist*
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m tools.check_wheel dist

coverage: link $(VENV)/.release ## line and branch coverage of the unit and contract tests, least covered modules last
	$(BIN)/pytest -n 2 --dist worksteal -q tests/unit tests/contract --cov=accelerator_autopilot --cov-branch --cov-report=json:build/coverage.json
	$(BIN)/python -m tools.coverage_summary build/coverage.json

mutation: link $(VENV)/.release ## mutation testing of the pure domain of two services; takes about twenty minutes
	$(BIN)/python -m tools.mutation

audit: link $(VENV)/.release ## known vulnerabilities, licences and an SBOM of everything installed
	$(BIN)/python -m tools.dependency_review build

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info

.PHONY: help install link up test lint bench nightly gpu-wheels gpu-check docs docs-generate release coverage mutation audit clean
