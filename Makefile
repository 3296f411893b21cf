# make demo: a scaling study on this machine. make test: all tests. Both install what is missing, once.
SHELL := /bin/bash
PYTHON := .venv/bin/python
override OUT := sweeps/demo

# Open MPI starts as root only if both variables are set. They are set for tests and demo; hpcjobs never sets them.
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

.PHONY: help setup setup-test setup-torch demo test test-slurm test-torch soak lint format docs bench cluster-up cluster-down clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install uv, Open MPI and the Python packages if they are missing
	@scripts/setup.sh

setup-test: ## also install what the tests need (Slurm, chromium, shellcheck)
	@scripts/setup.sh --test

setup-torch: setup-test ## also install PyTorch in .venv-torch (1.2 GB as a CPU build)
	@scripts/setup-torch.sh

demo: setup ## scaling study of a tiny network on 1, 2 and 4 ranks of this machine
	@if [ -e "$(OUT)/sweep.yaml" ]; then $(PYTHON) -m hpcjobs cancel "$(OUT)"; fi
	rm -rf "$(OUT)"
	$(PYTHON) -m hpcjobs sweep --gpus 1,2,4 --experiment demo --cluster local --out "$(OUT)" --wait

test: ## all tests; as root also those on a virtual Slurm cluster
	@scripts/test.sh

SLURM ?= all
test-slurm: setup-test ## tests/slurm with another Slurm: SLURM=20.11, 22.05, 24.11, 26.05, newest or all; MARK=versions for the short set (root)
	$(PYTHON) tests/slurm/versions.py $(SLURM) $(PYTHON) -m pytest -o cache_dir=.pytest_cache/slurm-$(SLURM) -m "$(or $(MARK),slurm)" tests/slurm

test-torch: setup-torch ## PyTorch's part of examples/ on a virtual Slurm cluster (root)
	$(PYTHON) -m pytest -s tests/torch

soak: setup-test ## the full counts: 200 kills, 1,000 runs, 40 with a neighbour, on the virtual cluster (root, about an hour)
	$(PYTHON) -m pytest --soak -s tests/slurm/test_submission.py -k "killed_anywhere or many_quick"
	$(PYTHON) -m pytest --soak tests/control/test_lying_fs.py tests/control/test_local_killed.py
	$(PYTHON) -m pytest --soak tests/slurm/test_meter.py tests/control/test_meter_planted.py -k neighbour

lint: setup ## ruff, mypy, import-linter
	@scripts/lint.sh

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: setup ## docs/reference/ from the code, and all of docs/ as pages in build/docs
	$(PYTHON) docs/generate.py
	$(PYTHON) -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --conf-dir docs . build/docs
	@echo "wrote build/docs/docs/index.html"

bench: setup-test ## run the benchmarks and print their ratios (the one of Slurm needs root)
	@failed=0; for file in benchmarks/*.py; do echo "== $$file"; $(PYTHON) "$$file" || failed=1; done; exit $$failed

cluster-up: setup-test ## start the virtual four-node Slurm cluster of tests/slurm (root); installs TensorFlow first
	@$(PYTHON) tests/slurm/cluster.py up

cluster-down: ## stop that cluster and delete its files
	@python3 tests/slurm/cluster.py down

clean:
	rm -rf .venv .venv-torch .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache sweeps build dist *.egg-info uv.lock
