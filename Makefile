# `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# The faults that `make test` injects; `make test-faults` takes the others.
FAULTS_HERE := tests/faults/test_guards.py
export VENV

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  make %-11s %s\n", $$1, $$2}'

# --- set-up ---

.PHONY: venv
venv: ## make .venv with everything pinned, and find or install Java
	@scripts/setup

.PHONY: clean
clean: ## remove what the targets made (not .venv)
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	rm -rf backfill_demo spark-warehouse metastore_db derby.log backfill_spark.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# --- use ---

.PHONY: demo
demo: venv ## see a backfill happen on 20,000 traces
	@$(BIN)/backfill-spark demo

# --- work on it ---

.PHONY: check
check: venv ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: fmt
fmt: venv ## format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Spark tests leave half a core idle: unit tests run beside them, and are shown after them.
.PHONY: test
test: venv ## unit tests, Spark tests, guards taken out
	@mkdir -p build
	@$(BIN)/python -m pytest tests/unit >build/unit.log 2>&1 & unit=$$!; \
	$(BIN)/python -m pytest tests/spark $(FAULTS_HERE) --junitxml=build/spark.xml; spark=$$?; \
	wait $$unit; unit=$$?; cat build/unit.log; exit $$((spark + unit))

.PHONY: test-unit
test-unit: venv ## the tests that start no JVM
	$(BIN)/python -m pytest tests/unit

# Two files at a time: a runner that starts keeps one core busy, and leases run out while nobody works.
.PHONY: test-faults
test-faults: venv ## the faults: a failing storage, changing sources, overlaps, kills, a cluster (FAULTS names files)
	$(BIN)/python -m pytest $(or $(FAULTS),tests/faults $(FAULTS_HERE:%=--ignore=%)) --junitxml=build/faults.xml \
		-n 2 --dist loadfile --no-loadscope-reorder

.PHONY: reliability
reliability: test test-faults ## run every test, and write docs/reliability.md from what passed
	$(BIN)/python -m scripts.reliability build/spark.xml build/faults.xml

.PHONY: soak
soak: venv ## 100 kills and stops in one job, 20 overlaps of two (NEMESIS_BLOWS and NEMESIS_SEED change them)
	NEMESIS_BLOWS=$${NEMESIS_BLOWS:-100} OVERLAP_PHASES=10 $(BIN)/python -m pytest tests/faults/test_kills.py \
		tests/faults/test_overlap.py -k "f10 or any_distance"

.PHONY: docs
docs: venv ## write the pages that follow from the code
	$(BIN)/python -m scripts.reference

.PHONY: bench
bench: venv ## run the benchmarks
	$(BIN)/python -m benchmarks
