# Two commands matter: `make demo` runs the whole chain on the shipped sample, `make test` the test suite.
# Every target sets up the virtual environment .venv first, where it is missing or older than its inputs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Tests start hundreds of processes; without bytecode each would compile the modules anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test cluster exhaustive triton-versions faults adapters lint typecheck docs release-check bench bench-record gpu-wheels gpu-day-rehearsal study pretrained clean

help:            ## show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

setup: $(READY)  ## make .venv and install climax_hpc with everything its tests need

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Everything but torch is compared with its hash; torch and what it needs come from the index of the platform.
$(READY): pyproject.toml constraints.txt constraints-torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "climax_hpc needs Python 3.11 or newer; apt install python3, or make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "python3 -m venv cannot work here; run: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --no-deps --requirement constraints.txt
	$(PIP) --constraint constraints-torch.txt --no-build-isolation --editable '.[mpi,stores,fetch,dev,docs]'
	@touch $@

demo: $(READY)   ## CMIP6 sample -> shards -> pretraining -> fine-tuning -> scorecard (about 5 minutes on two cores)
	@$(BIN)/climax-hpc demo

# Three files at a time, each on one thread: more threads would only wait for each other, but tests that start processes
# wait for a quarter of their time. Slow files come first (tests/conftest.py), not those with many tests.
test: $(READY)   ## run the test suite, without the cluster tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore=tests/cluster -n 3 --dist loadfile --no-loadscope-reorder

cluster: $(READY) ## the cluster tests: two nodes of a real Slurm on this host (root on Linux, Debian's Slurm packages)
	$(BIN)/python -m pytest tests/cluster

exhaustive: $(READY) ## the tests that take minutes: every kernel compiled for every target, every layout, every size
	$(BIN)/python -m pytest -m exhaustive

# torch 2.11 for CUDA pins 3.6.0, whose interpreter needs NumPy before 2.4. Installed aside: nothing in .venv changes.
TRITONS := 3.6.0 3.7.1
triton-versions: $(READY) ## kernels under each Triton that torch brings: compiled for every target, and interpreted
	@for version in $(TRITONS); do set -e; folder=$(CURDIR)/build/triton-$$version; export PYTHONPATH=$$folder; \
	  [ -e $$folder/triton ] || $(PIP) --no-deps --target $$folder triton==$$version 'numpy>=2,<2.4'; \
	  $(BIN)/python -c "import triton; assert triton.__version__ == '$$version', triton.__version__"; \
	  echo "Triton $$version"; $(BIN)/python -m climax_hpc.kernels.aot --typical; \
	  $(BIN)/python -m pytest -q -m '' tests/kernels/test_triton_kernels.py; \
	done

faults: $(READY) ## the fuzzers, and tests that kill and starve processes again and again (half an hour); prints counts
	@rm -rf build/faults
	OMP_NUM_THREADS=1 FAULT_COUNTS=$(CURDIR)/build/faults $(BIN)/python -m pytest -m faults -n 2 --dist load \
	  tests/faults/fuzzers; status=$$?; $(BIN)/python tests/faults/fuzzers/counts.py build/faults; exit $$status
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults -n 2 --dist load

# Their versions conflict with ours (zarr 2, netCDF4 1.7.2). Installed aside: nothing in .venv changes.
ADAPTERS := anemoi earth2studio compliance
adapters: $(READY) ## anemoi-datasets, earth2studio and the compliance checker on what we read and write (1.1 GB in build)
	@for name in $(ADAPTERS); do set -e; list=tests/adapters/$$name.txt; folder=build/adapters/$$name; \
	  cmp -s $$list $$folder/installed.txt && continue; rm -rf $$folder; \
	  $(PIP) --no-deps --target $$folder --requirement $$list; cp $$list $$folder/installed.txt; \
	done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m adapters tests/adapters

lint: $(READY)   ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory typecheck

# mypy sees the package as it is installed, because the folders on disk are mapped into it.
typecheck: MYPY = ../../$(BIN)/python -m mypy --python-executable ../../$(BIN)/python
typecheck: $(READY) ## mypy on the built tree, and strict on a user's script
	@rm -rf build/tc build/lib build/bdist.* # setuptools would install modules that have moved away
	@$(PIP) --no-deps --no-build-isolation --target build/tc .
	cd build/tc && $(MYPY) --config-file ../../pyproject.toml -p climax_hpc
	cd build/tc && $(MYPY) --config-file= --strict --follow-imports silent ../../tests/typing/user_script.py

# Strict: a broken link, a page outside the navigation or any other warning fails. The built site needs no network.
docs: $(READY)   ## build the documentation site in build/site
	@$(BIN)/python docs/tools/drawings.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "open build/site/index.html"

release-check: $(READY) ## sdist and wheel built, installed without the checkout, the quick demo run there (about 5 minutes)
	@tests/release_check.sh $(CURDIR)/$(BIN)/python

bench: $(READY)  ## benchmarks: kernels, packing and loading, training steps, against what they replace
	@mkdir -p runs
	$(BIN)/climax-hpc bench kernels --json runs/kernels.json --csv runs/kernels.csv --plots runs/kernels
	$(BIN)/climax-hpc bench data --json runs/data.json --csv runs/data.csv
	$(BIN)/climax-hpc bench step --json runs/step.json --csv runs/step.csv

bench-record: bench ## bench, then the durations of demo and test; writes all as benchmarks/MACHINE-DATE.json
	$(BIN)/climax-hpc bench command 'make demo' --limit_seconds 360 --json runs/demo_time.json
	$(BIN)/climax-hpc bench command 'make test' --limit_seconds 900 --json runs/test_time.json
	$(BIN)/climax-hpc bench record --rows '[runs/kernels.json,runs/data.json,runs/step.json,runs/demo_time.json,runs/test_time.json]'

# Names in benchmarks/gpu_day/wheels.txt, versions and hashes in constraints.txt.
gpu-wheels: $(READY) ## wheels of what training needs on a bare GPU machine (Python 3.12, x86-64) in .whl/
	@$(BIN)/python -m benchmarks.gpu_day.wheels .whl

# Fails where a stage does not end as it should, or a figure of the planted wrong result is shown.
gpu-day-rehearsal: $(READY) ## every stage of the GPU day at tiny sizes on the CPU, and three that go wrong (two minutes)
	@rm -rf build/rehearsal
	@PYTHON=$(BIN)/python benchmarks/gpu_day.sh build/rehearsal 1200 --rehearsal

# Steps that have finished are skipped: interrupt it as you like, and start it again.
study: $(READY)  ## does pretraining pay: simulate, pretrain, fine-tune, evaluate, write docs/results/study.md (an hour)
	@$(BIN)/python -m climax_hpc.experiments.study

# It shares the corpora of the study, and its steps resume as those of the study do.
pretrained: $(READY) ## the weights in the package: simulate, pretrain, score, write climax_hpc/pretrained/jcm-small (an hour)
	@$(BIN)/python -m climax_hpc.experiments.weights

clean:           ## remove everything that the other targets made
	rm -rf $(VENV) build runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
