# make demo   fresh machine: environment, real runs trained, analysed, report written, its path printed
# make test   the fast tests        make test-all   with the slow ones        make lint   ruff and mypy
# make bench  tables of ratios; peers: make bench WEIGHTWATCHER=WW/bin/python DIFFRACT=D/bin/python

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= demo

.PHONY: help demo test test-all lint format bench clean

help:
	@sed -n 's/^# //p' Makefile

# The stamp is newer than what it was made from: a changed pin or dependency makes the environment anew.
$(VENV)/.stamp-core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("varve needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": call make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "varve: installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-core
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.stamp-core
	@$(BIN)/varve catalog make demo --out $(DEMO)/archive
	@$(BIN)/varve analyze $(DEMO)/archive --out $(DEMO)/out
	@echo "open $(abspath $(DEMO))/out/report.html"
	@echo "and for archives of your own: source $(VENV)/bin/activate; varve analyze RUNS/ --out out/"

# Two processes of one BLAS thread each: the modules of the tests are shared out between them.
test: export OMP_NUM_THREADS = 1
test: export OPENBLAS_NUM_THREADS = 1
test: export MKL_NUM_THREADS = 1
test: $(VENV)/.stamp-dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" tests

test-all: $(VENV)/.stamp-dev
	@$(BIN)/python -m pytest -m "not gpu" tests

lint: $(VENV)/.stamp-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: export OMP_NUM_THREADS = 1
bench: export OPENBLAS_NUM_THREADS = 1
bench: export MKL_NUM_THREADS = 1
bench: $(VENV)/.stamp-dev
	@$(BIN)/python -m tests.benchmarks.spectra $(if $(WEIGHTWATCHER),--weightwatcher $(WEIGHTWATCHER)) $(if $(DIFFRACT),--diffract $(DIFFRACT))
	@$(BIN)/python -m tests.benchmarks.adapter_intruders
	@$(BIN)/python -m tests.benchmarks.dense_intruders
	@$(BIN)/python -m tests.benchmarks.growth
	@$(BIN)/python -m tests.benchmarks.lora_series
	@$(BIN)/python -m tests.benchmarks.fanout $(or $(FOLDER),$(shell mktemp -d))

format: $(VENV)/.stamp-dev
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
