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

.PHONY: servers
servers: ## make .venv-servers, from which tests start MLflow, Phoenix and S3, and find or install PostgreSQL
	@scripts/setup servers

.PHONY: clean
clean: ## remove what the targets made (not .venv, .venv-servers)
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	rm -rf backfill_demo spark-warehouse metastore_db derby.log backfill_spark.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# --- use ---

.PHONY: demo
demo: venv ## see a backfill happen on 20,000 traces
	@$(BIN)/backfill-spark demo

.PHONY: wheel
wheel: venv ## build dist/backfill_spark-….whl, which spark-submit --py-files takes
	$(BIN)/python -m hatchling build --target wheel

# --- work on it ---

.PHONY: check
check: venv ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: dead-code
dead-code: venv ## what nobody calls
	$(BIN)/vulture

.PHONY: coverage
coverage: venv servers ## the lines that the unit tests do not reach
	$(BIN)/coverage run -m pytest tests/unit
	$(BIN)/coverage report

.PHONY: fmt
fmt: venv ## format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Spark tests leave half a core idle: unit tests run beside them, and are shown after them.
.PHONY: test
test: venv servers ## unit tests, Spark tests, guards taken out
	@mkdir -p build
	@$(BIN)/python -m pytest tests/unit >build/unit.log 2>&1 & unit=$$!; \
	$(BIN)/python -m pytest tests/spark $(FAULTS_HERE) --junitxml=build/spark.xml; spark=$$?; \
	wait $$unit; unit=$$?; cat build/unit.log; exit $$((spark + unit))

# The first file starts the JVM, and the other worker goes on with the unit tests.
.PHONY: test-quick
test-quick: venv servers ## unit tests and the README's example on Spark; two minutes
	$(BIN)/python -m pytest tests/spark/test_readme.py tests/unit -n 2 --dist worksteal

.PHONY: test-unit
test-unit: venv servers ## the tests that start no JVM
	$(BIN)/python -m pytest tests/unit

# Two files at a time: a runner that starts keeps one core busy, and leases run out while nobody works.
.PHONY: test-faults
test-faults: venv servers ## the faults: a failing storage, changing sources, overlaps, kills, a cluster (FAULTS names files)
	$(BIN)/python -m pytest $(or $(FAULTS),tests/faults $(FAULTS_HERE:%=--ignore=%)) --junitxml=build/faults.xml \
		-n 2 --dist loadfile --no-loadscope-reorder

# Into environments of their own below build/, 500 MB each.
.PHONY: compat
compat: ## main job, resume and judge on the oldest PySpark and Delta, and on Python 3.13
	scripts/compat 4.0.1 4.0.1 $(or $(PYTHON),python3)
	scripts/compat 4.2.0 4.4.0 python3.13

.PHONY: reliability
reliability: test test-faults ## run every test, and write docs/reliability.md from what passed
	$(BIN)/python -m scripts.reliability build/spark.xml build/faults.xml

.PHONY: soak
soak: venv ## 100 kills and stops in one job, 20 overlaps of two, 100,000 filters (NEMESIS_BLOWS, NEMESIS_SEED change it)
	FILTER_EXAMPLES=100000 $(BIN)/python -m pytest tests/unit/test_filters.py -k "any_words or comes_back"
	NEMESIS_BLOWS=$${NEMESIS_BLOWS:-100} OVERLAP_PHASES=10 $(BIN)/python -m pytest tests/faults/test_kills.py \
		tests/faults/test_overlap.py -k "f10 or any_distance"

.PHONY: docs
docs: venv ## write the pages that follow from the code
	$(BIN)/python -m scripts.reference

.PHONY: bench
bench: venv ## measure jobs against what people do instead, and record it (an hour)
	$(BIN)/python -m benchmarks --million --write $(if $(wildcard .venv-servers/mlflow),--mlflow-python .venv-servers/mlflow/bin/python)

.PHONY: bench-check
bench-check: venv ## measure once, and compare the ratios with those recorded
	$(BIN)/python -m benchmarks --rounds 1 --check
