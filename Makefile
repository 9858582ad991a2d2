# Everything a developer does, and the whole of what CI does. Each target sets up what it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
LOCK   ?= cpu
BIN    := .venv/bin
JOBS   ?= 0
# Where uv looks for torch's CPU build: where pip has been told to find wheels, else PyTorch's index.
TORCH_CPU ?= $(or $(PIP_FIND_LINKS),https://download.pytorch.org/whl/cpu/torch/)
COMPILE := $(BIN)/uv pip compile --upgrade --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit check format bench goodput autoscale peers planning roofline published validate simulate-speed adapters chaos dashboards screenshots lock clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv from the lock (LOCK=gpu for NVIDIA GPUs); does nothing when it is up to date
	@test -n "$(PYTHON)" || { echo "No Python found. Install Python 3.11, or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) deploy/setup_venv.py requirements/$(LOCK).lock

demo: setup ## Serve the demo model on one prefill and one decode worker, here (ONCE=1 stops after one answer; MODEL=directory or hub name)
	@$(BIN)/baton demo $(if $(ONCE),--once) $(if $(MODEL),--model "$(MODEL)")

test: setup ## Run every test, one after the other (JOBS=2: two files at a time)
	@sh deploy/test_tools.sh
	@$(BIN)/python -m pytest --numprocesses $(JOBS)

test-unit: setup ## Run the tests that need neither Ray nor vLLM engines: seconds
	@$(BIN)/python -m pytest tests/unit

check: setup ## Lint, formatting, types and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## Mend what ruff can mend
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

bench: setup ## Measure against a plain vLLM server, side by side; writes docs/benchmarks.md
	@$(BIN)/python -m benchmarks

goodput: setup ## Compare policies and set-ups on recorded traffic, simulated; writes docs/goodput.md (ARGS=--quick for minutes instead of an hour)
	@$(BIN)/python -m benchmarks.goodput $(ARGS)

autoscale: setup ## Compare scalers on a day, a burst and a shift of lengths, simulated; writes docs/autoscaling.md (ARGS="--only burst" for one)
	@$(BIN)/python -m benchmarks.autoscale $(ARGS)

peers: setup ## Baton beside NVIDIA Dynamo, the same simulated workers and trace over HTTP; gets Dynamo with pip (ARGS="--rate 22")
	@$(BIN)/python -m benchmarks.peers $(ARGS)

planning: setup ## Run every `baton plan` of docs/planning.md anew, with its pictures: some minutes
	@$(BIN)/python -m benchmarks.plan_page

roofline: setup ## The performance model beside measured step times, and planned set-ups beside measured ones (docs/performance-model.md)
	@$(BIN)/python -m benchmarks.roofline $(ARGS)
	@$(BIN)/python -m benchmarks.roofline_plan

published: setup ## The simulator beside deployments that others measured (docs/simulator.md; ARGS="--most-tokens 5e6" leaves out the longest)
	@$(BIN)/python -m benchmarks.published $(ARGS)

validate: setup ## The simulator beside a real deployment on this machine, 1P1D and 2P2D; wants it quiet (docs/simulator.md)
	@$(BIN)/python -m benchmarks.validate_engine --real
	@$(BIN)/python -m benchmarks.validate_cluster --prefill 1 --decode 1 $(ARGS)
	@$(BIN)/python -m benchmarks.validate_cluster --prefill 2 --decode 2 $(ARGS)

simulate-speed: setup ## How fast `baton simulate` is with a thousand workers (docs/simulator.md)
	@$(BIN)/python -m benchmarks.simulate_speed $(ARGS)

adapters: setup ## What it saves to send requests where their LoRA adapter is, simulated (docs/lora.md)
	@$(BIN)/python -m benchmarks.adapters

chaos: setup ## Break everything at every step, soak and overload; writes docs/reliability.md (ONLY=--simulated is a part)
	@$(BIN)/python -m tests.chaos $(ONLY)

dashboards: setup ## Make deploy/grafana/dashboards anew from deploy/dashboards
	@$(BIN)/python -m deploy.dashboards

screenshots: setup ## Make the pictures of the console in docs/images anew
	@sh deploy/test_tools.sh chromium
	@$(BIN)/python -m tests.support.screenshots

lock: setup ## Resolve both locks anew, each for Linux on x86_64 and Python 3.11
	$(COMPILE) requirements/cpu.in --override requirements/overrides.txt --find-links "$(TORCH_CPU)" -o requirements/cpu.lock
	$(COMPILE) requirements/gpu.in -o requirements/gpu.lock

clean: ## Remove .venv and everything tools have left here
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
