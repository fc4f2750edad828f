# amalia-edge: `make` lists what there is. Works with GNU make 3.81, which macOS ships.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3.14 python3; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: FORCE help setup demo test fuzz prove bench check lint type format wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /	/' | while IFS='	' read -r name what; do printf '  make %-8s %s\n' "$$name" "$$what"; done

setup: $(READY)  ## make .venv and build llama-cpp-python for this machine (SETUP="--help" lists the choices)

$(READY): pyproject.toml constraints.txt edge/amalia_edge/build.py $(if $(SETUP),FORCE)
	@if [ -z "$(PYTHON)" ]; then echo "amalia: no Python 3.10 to 3.14 found; install one (Debian, Ubuntu: apt install python3)"; exit 2; fi
	$(PYTHON) edge/amalia_edge/build.py --venv $(VENV) --project '.[dev]' --constraints constraints.txt $(SETUP)
	@: > $(READY)

demo: $(READY)  ## the whole line on the embedded model: convert, answer, measure
	$(BIN)/python -m amalia_bench.demo

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

fuzz: $(READY)  ## mutate GGUF headers, load and decode what passes (COUNT=100000 SEED=1)
	cd tests && ../$(BIN)/python -m edge.header_fuzz $(or $(COUNT),100000) $(or $(SEED),1)

prove: $(READY)  ## check the promises that take minutes: equal ids, no forged turn, valid JSON, sizes, no leak
	for proof in greedy_equality random_cancels "forged_turns 100000" constrained_answers plan_against_libllama; do \
		echo "== $$proof"; (cd tests && ../$(BIN)/python -m edge.$$proof) || exit 1; done

RESULTS := kernels_bench/results
LEVELS_PLAIN := F32,F16,Q8_0,Q6_K,Q5_1,Q5_K_M,Q5_K_S,Q5_0,Q4_1,Q4_K_M,IQ4_NL,Q4_K_S,Q4_0,IQ4_XS,Q3_K_L,Q3_K_M,IQ3_M,IQ3_S,Q3_K_S,Q2_K,Q2_0,TQ2_0,TQ1_0,Q1_0
LEVELS_IMATRIX := IQ3_XS,IQ3_XXS,Q2_K_S,IQ2_M,IQ2_S,IQ2_XS,IQ2_XXS,IQ1_M,IQ1_S
IMATRIX := build/fadinho.imatrix.gguf
BENCH_ALL := $(BIN)/amalia bench all fadinho -r 20 --answers 50 -o $(RESULTS)

bench: $(READY)  ## measure fadinho and two shapes here (over an hour); render kernels_bench/results and the README's table
	$(BIN)/amalia bench kernels --shape amalia-9b --records $(RESULTS)/kernels.jsonl --resume
	for level in Q8_0 Q6_K Q4_K_M Q4_0; do $(BIN)/amalia bench shape eurollm-1.7b --level $$level -r 3 --records $(RESULTS)/shapes.jsonl --resume || exit 1; done
	for level in Q4_K_M Q8_0; do $(BIN)/amalia bench shape amalia-9b --level $$level -n 64 -r 3 --records $(RESULTS)/shapes.jsonl --resume || exit 1; done
	for device in jetson-orin-nano jetson-orin-nx jetson-agx-orin; do $(BIN)/amalia bench shape amalia-9b --device $$device -n 64 --records $(RESULTS)/shapes.jsonl --resume || exit 1; done
	[ -f $(IMATRIX) ] || { mkdir -p build && $(BIN)/amalia imatrix fadinho:BF16 -o $(IMATRIX); }
	$(BENCH_ALL) --levels $(LEVELS_PLAIN)
	$(BENCH_ALL) --levels $(LEVELS_IMATRIX) --imatrix $(IMATRIX)
	$(BIN)/amalia bench report $(RESULTS)/*.jsonl -o $(RESULTS)/report.html --plots $(RESULTS)/plots
	$(BIN)/amalia bench report $(RESULTS)/*.jsonl -o $(RESULTS)/report.md
	$(BIN)/python $(RESULTS)/readme_table.py

check: lint type test  ## what CI runs

lint: $(READY)  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY)  ## mypy --strict
	$(BIN)/mypy

format: $(READY)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY)  ## build the wheel into dist/
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:  ## remove .venv and what was built here; caches outside stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
