# The project's commands. They need Python 3.10 or newer and make; everything else goes to .venv.
#
#   make demo PYTHON=python3.12
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#
# PyPI's torch for x86-64 Linux brings gigabytes of CUDA libraries along. The second form takes
# PyTorch's own CPU build instead: the same version, a tenth of the download.

PYTHON ?= python3
PIP_ARGS ?=
# Markers whose tests may not be skipped, on a machine that has what they need: gpu,tensorrt.
# nvcc and cross bring CUDA's compiler from PyPI along.
REQUIRE ?=
WORKERS ?= 2
PYTEST_ARGS ?=
# GPUs that `make plugin` compiles for, such as "87 110"; this machine's if empty.
ARCH ?=
PLUGIN_ARGS ?=
# What `make quantization-page` measures, of cost, accuracy and registry; the rest of its tables is
# written from earlier rows.
STEPS ?= cost accuracy

BIN := .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(if $(REQUIRE),--require $(REQUIRE)) $(PYTEST_ARGS)

comma := ,
CUDA_WHEELS = $(if $(filter nvcc cross,$(subst $(comma), ,$(REQUIRE))),.venv/.installed-cuda)

.PHONY: help setup demo plugin test test-slow bindings lint bench peers readme kernels-page quantization-page models-page clean

help:
	@echo "make demo       export, calibrate, quantize, build and profile the shipped model"
	@echo "make plugin     the CUDA kernels for this machine's GPU; ARCH=87 for Orin's, …"
	@echo "make setup      everything that development needs, in .venv"
	@echo "make test       the tests, minutes (test-slow: the long ones)"
	@echo "make bindings   fetch NVIDIA's Python bindings of TensorRT, which tests look names up in"
	@echo "make lint       formatting, lint, types, import layers, spelling"
	@echo "make bench      the benchmarks"
	@echo "make peers      nvidia-modelopt, which the INT8 benchmarks compare with, in .venv-peers"
	@echo "make readme     measure the demo's table in README.md anew"
	@echo "make kernels-page  compile every kernel for every GPU; write the tables of docs/kernels.md"
	@echo "make quantization-page  measure calibration and INT8 anew; write the tables of docs/quantization.md"
	@echo "make models-page  measure public models anew; write the tables of docs/models.md"
	@echo "make clean      remove caches and what the demo wrote; .venv stays"

setup: .venv/.installed-dev

# Stamps: a second run finds nothing to do and does not start pip.
.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "edgeattn needs Python 3.10 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "this Python cannot make environments: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed-export: .venv/.created pyproject.toml constraints.txt
	$(PIP_INSTALL) -e ".[export,report]"
	@touch $@

.venv/.installed-dev: .venv/.installed-export
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@

# Without torch: a board compiles its kernels with this. nvcc is the machine's own.
.venv/.installed-plugin: .venv/.created pyproject.toml constraints.txt
	$(PIP_INSTALL) -e ".[plugin]"
	@touch $@

.venv/.installed-cuda: .venv/.created pyproject.toml constraints.txt
	$(PIP_INSTALL) -e ".[cuda]"
	@touch $@

demo: .venv/.installed-export
	$(BIN)/edgeattn demo

plugin: .venv/.installed-plugin
	$(BIN)/edgeattn plugin build $(ARCH:%=--arch %) $(PLUGIN_ARGS)

# By file: what a file's tests share is made once. In the order of collection, which begins with what
# takes longest. Without a restart: after one, files are waited for that no worker has.
test: .venv/.installed-dev $(CUDA_WHEELS)
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not slow"

test-slow: .venv/.installed-dev $(CUDA_WHEELS)
	$(PYTEST) -m slow -o faulthandler_timeout=3590

# The tests fetch them too, when they first need them; this is for a machine that is offline later.
bindings: .venv/.installed-dev
	$(BIN)/python -m tests.tensorrt_bindings

lint: .venv/.installed-dev
	@git rev-parse --is-inside-work-tree >/dev/null || \
	  { echo "make lint checks the files that git tracks: run it in a git checkout" >&2; exit 1; }
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

# A benchmark whose hardware is not here exits with 77.
bench: .venv/.installed-dev
	@for script in $(basename $(notdir $(wildcard benchmarks/bench_*.py))); do \
	  echo "== $$script"; $(BIN)/python -m benchmarks.$$script || [ $$? -eq 77 ] || exit 1; done

# Older packages than edgeattn's: they do not go into .venv.
peers: .venv-peers/.installed

.venv-peers/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r $<
	@touch $@

readme: .venv/.installed-export
	$(BIN)/python docs/refresh_demo.py

kernels-page: .venv/.installed-dev .venv/.installed-cuda
	$(BIN)/python docs/refresh_kernels.py

# About 15 minutes on two quiet cores for the cost, 8 for the accuracy, 10 for the registry. What was
# measured at this commit today already is not measured again.
quantization-page: .venv/.installed-dev .venv-peers/.installed
	$(if $(filter cost,$(STEPS)),$(BIN)/python -m benchmarks.bench_calibration --resume)
	$(if $(filter accuracy,$(STEPS)),$(BIN)/python -m benchmarks.bench_accuracy --resume)
	$(if $(filter registry,$(STEPS)),$(BIN)/python -m benchmarks.bench_accuracy --resume --registry)
	$(BIN)/python docs/refresh_quantization.py

# About an hour on two quiet cores, half of it without latencies. What was measured at this commit
# today already is not measured again; exports stay in build/foreign_models, 7 GB.
models-page: .venv/.installed-dev
	$(BIN)/python -m benchmarks.bench_foreign_models --resume
	$(BIN)/python docs/refresh_models.py

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find edgeattn tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
