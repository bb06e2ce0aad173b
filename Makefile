# `make demo` and `make test` need nothing but Python and the package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SINKBENCH := $(BIN)/sinkbench
export TOKENIZERS_PARALLELISM := false

# What the demo answers: enough to compare, little enough for a laptop.
DEMO_OUTPUT ?= runs/demo
DEMO_LIMIT ?= 360

.PHONY: install demo test check format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	HF_HUB_OFFLINE=1 $(SINKBENCH) eval --model tiny-llava --method greedy,pai,var \
	  --task scenes_pope,scenes_chair,scenes_mcq,scenes_text --limit $(DEMO_LIMIT) --output $(DEMO_OUTPUT)
	$(SINKBENCH) leaderboard $(DEMO_OUTPUT) --json $(DEMO_OUTPUT)/board.json --markdown $(DEMO_OUTPUT)/board.md

test: install
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make reproduce-NAME runs configs/papers/NAME.yaml.
reproduce-%: install
	$(SINKBENCH) eval --config configs/papers/$*.yaml --output runs/$*
	$(SINKBENCH) leaderboard runs/$*

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache
