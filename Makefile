# Installs what is missing, builds, runs the demo, the tests and the benchmarks.
SHELL := /bin/bash
PYTHON ?= python3
# TORCH=system takes the torch that PYTHON already has; otherwise the version to install.
TORCH ?= 2.13.0
PIP_ARGS ?=
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq $(PIP_ARGS)
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n auto --maxprocesses 8 $(PYTEST_ARGS)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1

.PHONY: help build demo test test-models test-device test-gpu bench bench-training lint check-code format docs clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make demo         build and train a scikit-learn network as a torch layer (table, picture, trained.onnx in out/)"
	@echo "make test         build, check the code, run the tests"
	@echo "make test-models  whole networks exported by torch, against torch"
	@echo "make test-device  the device path on a device without hardware (part of make test)"
	@echo "make test-gpu     the device path on CUDA (TORCH=system takes the torch of PYTHON)"
	@echo "make bench        benchmarks, results appended to benchmarks/results/        make docs    write docs/operators.md"
	@echo "make bench-training  training against scikit-learn, torch and onnxruntime-training alone; its table and charts"
	@echo "make lint         ruff, mypy, layers, formatting      make format  apply the formatting"
	@echo "make clean        remove what was built               make distclean  the environment, too"

# What the machine needs: a compiler, cmake, ninja, protobuf, Python's venv and headers.
.make/system: tools/install_system.sh
	@mkdir -p .make
	@PYTHON=$(PYTHON) tools/install_system.sh
	@touch $@

.make/venv-$(TORCH): .make/system
	@rm -rf $(VENV) .make/venv-* .make/requirements .make/requirements-dev .make/editable
	@echo "environment: $(VENV) (torch $(TORCH))"
ifeq ($(TORCH),system)
	@$(PYTHON) -m venv --system-site-packages $(VENV)
	@$(BIN)/python -c "import torch"
else
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch==$(TORCH)
endif
	@touch $@

.make/requirements: requirements.txt .make/venv-$(TORCH)
	@echo "installing requirements.txt"
	@$(PIP) -r requirements.txt
	@touch $@

.make/requirements-dev: requirements-dev.txt .make/requirements
	@echo "installing requirements-dev.txt"
	@$(PIP) -r requirements-dev.txt
	@touch $@

build: .make/requirements
	@$(BIN)/python setup.py -q build_ext --inplace
	@$(MAKE) --no-print-directory .make/editable

# Makes ortmod importable from anywhere in the environment.
.make/editable: setup.py pyproject.toml
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

demo: build
	@$(BIN)/python examples/quickstart.py

test: check-code
	@cmake --build build --target kernels_test
	@build/kernels_test
	@$(PYTEST) -m "not models" tests
	@$(MAKE) --no-print-directory test-device

test-device: build .make/requirements-dev
	@cmake --build build --target simulated_device
	@ORTMOD_TEST_DEVICE=simulated $(BIN)/python -m pytest -q $(PYTEST_ARGS) tests/device

test-models: build .make/requirements-dev
	@$(PYTEST) tests/models

test-gpu: build .make/requirements-dev
	@$(BIN)/python -c "import torch; assert torch.cuda.is_available(), 'no CUDA device: nothing to test'"
	@ORTMOD_TEST_DEVICE=cuda $(BIN)/python -m pytest -q $(PYTEST_ARGS) tests/device

bench: build
	@$(BIN)/python benchmarks/spine.py
	@$(BIN)/python benchmarks/artifacts.py
	@$(MAKE) --no-print-directory bench-training

bench-training: build
	@$(BIN)/python benchmarks/training.py
	@$(BIN)/python benchmarks/draw.py

check-code: build .make/requirements-dev
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python tools/check_layers.py

lint: check-code
	@$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run -Werror $$(find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu')

docs: build
	@$(BIN)/python tools/write_operators.py

format: .make/requirements-dev
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $$(find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu')

clean:
	rm -rf build build-* dist out ortmod.egg-info ortmod/lib ortmod/_C*.so ortmod/_build_info.py .make/editable

distclean: clean
	rm -rf .venv .venv-peers .make
