# Two targets do everything on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo
CODE := planc solvers models tests benchmarks examples

.PHONY: demo test lint plans clean figures

$(BIN)/planc: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.test: $(BIN)/planc
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,torch]"
	touch $@

# ResNet-18 at half its memory: build, profile, compile, verify, run against the unplanned graph, draw.
demo: $(BIN)/planc
	@mkdir -p $(DEMO)
	$(BIN)/planc zoo build resnet18 --batch 32 --image 112 --optimizer momentum -o $(DEMO)/resnet18.onnx
	$(BIN)/planc profile $(DEMO)/resnet18.onnx -o $(DEMO)/costs.json
	$(BIN)/planc compile $(DEMO)/resnet18.onnx --costs $(DEMO)/costs.json --budget 50% --time-limit 30 -o $(DEMO)/resnet18.plan.json
	$(BIN)/planc verify $(DEMO)/resnet18.plan.json
	$(BIN)/planc run $(DEMO)/resnet18.plan.json --steps 10 --compare --html $(DEMO)/resnet18.html

# The example plans, from costs measured on this machine.
plans: $(BIN)/planc
	@mkdir -p $(DEMO)
	$(BIN)/planc zoo build resnet18 --batch 32 --image 112 -o $(DEMO)/resnet18.onnx
	$(BIN)/planc compile $(DEMO)/resnet18.onnx --budget 50% --time-limit 30 -o plans/resnet18.plan.json
	$(BIN)/planc zoo build gpt2 --depth 4 --width 256 --seq 128 --batch 16 --classes 1000 -o $(DEMO)/gpt2.onnx
	$(BIN)/planc compile $(DEMO)/gpt2.onnx --budget 50% --time-limit 30 -o plans/gpt2.plan.json

# Campaigns that try to break planc; the figures go to docs/results/reliability.md. SCALE=100 is the long form, of hours.
SCALE ?= 1
figures: $(VENV)/.test
	PYTHONPATH=.:tests $(BIN)/python -m benchmarks.reliability --scale $(SCALE)

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(DEMO)
