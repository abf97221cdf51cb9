# Each target makes and uses .venv by itself; nothing but Python 3.11+, pip and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := embedded,openvino,onnx,cache,serve,train,plots,dev

# One thread pool per process: two pools on few cores fight. No model hub is needed.
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint bench models clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $(STAMP)

demo: $(STAMP)  ## index the shipped corpus, answer queries through funnel and cache, print the trace
	$(BIN)/funnel demo

test: $(STAMP)  ## the whole suite: on two cores, then alone what measures time
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not alone'
	$(BIN)/python -m pytest -m alone $$(grep -rl --include="*.py" mark.alone tests)  # others need not be imported

lint: $(STAMP)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## reproduce the tables of benchmarks/README.md (minutes to an hour)
	$(BIN)/python benchmarks/run.py

models: $(STAMP)  ## make the shipped models again (needs CUDA); DATA=folder of data sets TEACHER=folder of all-mpnet-base-v2
	$(BIN)/python -m recipes $(if $(DATA),--data $(DATA)) $(if $(TEACHER),--teacher $(TEACHER))

clean:
	rm -rf $(VENV) .funnel build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
