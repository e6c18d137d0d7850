# Everything a newcomer needs: make demo, make test. PYTHON is any Python ≥ 3.11.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo

.PHONY: demo test test-jobs test-avx2 test-x86-64 test-slow test-interop fuzz lint docs format benchmark benchmark-engine benchmark-search benchmark-train clean

# All that the native libraries are built from; the folders themselves, because a file may be gone.
CSRC := src/litesnn/deploy/csrc src/litesnn/snn/csrc
NATIVE := CMakeLists.txt $(wildcard build_backend/*.py) $(CSRC) $(wildcard $(CSRC:=/*))

# The pins hold for the build tools too: PIP_CONSTRAINT says so to an older pip, PIP_BUILD_CONSTRAINT to a newer one.
.venv/installed: pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "litesnn needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/litesnn design --data digits --budget '8 kB, 1 M Bit-SynOps, T <= 4' --run $(RUN)
	$(BIN)/litesnn evaluate $(RUN) --engine native

# A worker for each core, up to four: some tests start programs that take more than one.
test: .venv/installed
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

# Whole jobs, which take seconds each.
test-jobs: .venv/installed
	$(BIN)/pytest -m job -n auto --maxprocesses 4 --dist worksteal

# Both as on CPUs that have less than this one, torch included.
test-avx2 test-x86-64: test-%: .venv/installed
	LITESNN_CPU=$* $(BIN)/pytest -m 'not slow and not interop' -n auto --maxprocesses 4 --dist worksteal

test-slow: .venv/installed
	$(BIN)/pytest -m slow

# The exported files in the packages of others. They say that they need torchvision and more, and run without it.
test-interop: .venv/installed
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt \
		spikingjelly snntorch neurobench nirtorch loguru
	$(BIN)/pytest -m interop -rP

# The readers of untrusted files under sanitizers, so many seconds each; needs clang with libFuzzer.
FUZZ_SECONDS ?= 1800
fuzz: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt atheris
	$(BIN)/python fuzz/fuzzers.py --seconds $(FUZZ_SECONDS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict

# The pages of docs/ with the API reference, into build/site.
docs: .venv/installed
	$(BIN)/mkdocs build --strict

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The digits table of docs/results.md; an hour on two cores.
benchmark: .venv/installed
	$(BIN)/python benchmarks/compare.py --recipe digits --runs runs/compare_digits --workers 2 \
		--json benchmarks/results/compare_digits.json --plots docs/images --diagnose

# The engine against torch and ONNX Runtime, with the demo's network if there is one; a quarter of an hour on one core.
benchmark-engine: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt onnx onnxruntime
	$(BIN)/python benchmarks/engine.py --json benchmarks/results/engine.json \
		$(if $(wildcard $(RUN)/model.safetensors),--model digits=$(RUN)/model.safetensors)

# Steps of search and training against plain ones and against their convolutions, with growth, and the figures of
# docs/performance.md; an hour each on two cores, which should have nothing else to do.
benchmark-search benchmark-train: benchmark-%: .venv/installed
	$(BIN)/python benchmarks/$*_step.py --grow --json benchmarks/results/$*_step.json
	$(BIN)/python benchmarks/plot_performance.py benchmarks/results/$*_step.json

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/litesnn/*/liblitesnn*.*
