# Every target does its own set-up first (scripts/setup): the virtual environment in .venv with
# the `daiko` command in it, and the Debian packages that the target needs.
SHELL := /bin/bash
# Where it is set, each of the hundreds of processes that the tests start makes byte code anew.
unexport PYTHONDONTWRITEBYTECODE
# A file of tests goes to a worker as a whole, so that what its tests share is set up once; in the
# order of tests/conftest.py.
PYTEST := .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
REPORT ?=
SECONDS_OF_SOAK ?= 1800
COUNT ?= 1000000
KILLS ?= 200
HISTORIES ?= 10000

.PHONY: setup demo demo-sites test check format bench soak soak-pairs conformance fuzz docs clean

setup:                ## the virtual environment and the Debian packages
	@scripts/setup

demo: setup           ## the main job end to end on loopback; REPORT=file.json writes the figures
	@PYTHONPATH=tests .venv/bin/python scripts/demo.py $(if $(REPORT),--report $(REPORT))

demo-sites: setup     ## a mirror over two sites under load; REPORT=file.json writes the figures
	@PYTHONPATH=tests .venv/bin/python scripts/demo_sites.py $(if $(REPORT),--report $(REPORT)) $(ARGS)

test: setup           ## all tests
	@$(PYTEST) $(ARGS)

check: setup          ## what developers run: format, lint, types, import contracts, tests
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PYTEST) --cov --cov-report=term:skip-covered $(ARGS)

format: setup
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

bench: setup          ## the benchmarks; results in bench/results/latest.json
	@PYTHONPATH=scripts:tests .venv/bin/python bench/run.py $(ARGS)

soak: setup           ## verified load for SECONDS_OF_SOAK (1800) while everything round it fails
	@PYTHONPATH=tests .venv/bin/python -m soak.run --seconds $(SECONDS_OF_SOAK) $(ARGS)

soak-pairs: setup     ## KILLS (200) random kills round a pair, then HISTORIES (10000) of each model
	@PYTHONPATH=tests .venv/bin/python -m soak.pairs --kills $(KILLS) --histories $(HISTORIES)

conformance: setup    ## libiscsi's suite on every kind of LU; writes docs/conformance.md
	@PYTHONPATH=tests .venv/bin/python -m conformance.page $(ARGS)

fuzz: setup           ## random bytes at every parser, COUNT each
	@.venv/bin/python fuzz/run.py --count $(COUNT) $(ARGS)

docs: setup           ## regenerate the documents that come from tables
	@.venv/bin/python scripts/generate_docs.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache bench/results
