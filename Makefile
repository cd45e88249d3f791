# Two targets do everything on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo
# What the whole suite runs with; .ci/torch_ends runs a few tests with the oldest and newest that planc takes.
TORCH ?= torch==2.13.*
CODE := planc solvers models tests benchmarks examples

.PHONY: demo test lint plans clean figures docs

$(BIN)/planc: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.test: $(BIN)/planc
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,torch,docs]" "$(TORCH)"
	touch $@

# ResNet-18 at half its memory: build, profile, compile, verify, run against the unplanned graph, draw.
demo: $(BIN)/planc
	@mkdir -p $(DEMO)
	$(BIN)/planc zoo build resnet18 --batch 32 --image 112 --optimizer momentum -o $(DEMO)/resnet18.onnx
	$(BIN)/planc profile $(DEMO)/resnet18.onnx -o $(DEMO)/costs.json
	$(BIN)/planc compile $(DEMO)/resnet18.onnx --costs $(DEMO)/costs.json --budget 50% --time-limit 8 -o $(DEMO)/resnet18.plan.json
	$(BIN)/planc verify $(DEMO)/resnet18.plan.json
	$(BIN)/planc run $(DEMO)/resnet18.plan.json --steps 6 --compare --html $(DEMO)/resnet18.html
	$(BIN)/python examples/memory_picture.py $(DEMO)/resnet18.onnx $(DEMO)/resnet18.plan.json $(DEMO)/memory.svg

# The example plans, from costs measured on this machine.
plans: $(BIN)/planc
	@mkdir -p $(DEMO)
	$(BIN)/planc zoo build resnet18 --batch 32 --image 112 --device cpu -o $(DEMO)/resnet18.onnx
	$(BIN)/planc compile $(DEMO)/resnet18.onnx --budget 50% --time-limit 30 -o plans/resnet18.plan.json
	$(BIN)/planc zoo build gpt2 --depth 4 --width 256 --seq 128 --batch 16 --classes 1000 --device cpu -o $(DEMO)/gpt2.onnx
	$(BIN)/planc compile $(DEMO)/gpt2.onnx --budget 50% --time-limit 30 -o plans/gpt2.plan.json

# Campaigns that try to break planc; the figures go to docs/results/reliability.md. SCALE=100 is the long form, of hours.
SCALE ?= 1
figures: $(VENV)/.test
	PYTHONPATH=.:tests $(BIN)/python -m benchmarks.reliability --scale $(SCALE)

# The documentation as a site, in docs/_build. A warning is an error.
docs: $(VENV)/.test
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

# A file's tests stay together and in order: those on the emulated card have to come first in their process.
test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 1

lint: $(VENV)/.test
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(DEMO) docs/_build
