# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv first.
PYTHON  ?= $(shell command -v python3.11 || command -v python3)
VENV    := .venv
BIN     := $(VENV)/bin
PY      := $(BIN)/python
DEMO    ?= work/demo
# WORLD: flags of the demo world, such as --tracks 100 --users 150 for a quick look
WORLD   ?=
STAMP   := $(VENV)/.installed
export PYTHONUNBUFFERED := 1

.PHONY: help docs demo demo-full test test-quick test-processors attack lint bench clean-demo
help:
	@echo "make demo        the built-in world from sound to tables and a page to listen to (about five minutes, into $(DEMO))"
	@echo "make demo-full   make demo, then four more networks and the cold-start methods"
	@echo "make test        lint and all tests (about half an hour on 2 cores); lists the twenty slowest"
	@echo "make test-quick  lint and the tests that train little; TESTS=tests/ranking for a part"
	@echo "make test-processors  the numerical tests under several instruction sets (3 minutes on 2 cores)"
	@echo "make attack      kills, damaged files, rivals and odd places, drawn from a seed (4 minutes)"
	@echo "make lint        ruff, and mypy on harness, ranking, dataset and metrics"
	@echo "make bench       side-by-side measurements, quick sizes"
	@echo "make docs        write the tables of README.md and docs/ from results/"
	@echo "make clean-demo  remove $(DEMO)"

$(STAMP): requirements.txt requirements/dev.txt requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with make PYTHON=..."; exit 2; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -r requirements.txt -r requirements/dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps musicnn==0.1.0 basic-pitch==0.4.0
	touch $@

demo: $(STAMP)
	$(PY) -m preprocess.demo --raw $(DEMO)/raw $(WORLD)
	$(PY) preprocess/0_get_plays_pqt.py demo --raw $(DEMO)/raw --workdir $(DEMO)
	$(PY) extract_item_embeddings/mfcc.py --audio $(DEMO)/raw/audio --workdir $(DEMO)
	$(PY) extract_item_embeddings/musicnn.py --audio $(DEMO)/raw/audio --workdir $(DEMO)
	$(PY) preprocess/1_train_test_split.py --protocol hotcold --test-date 2020-02-20 --tracks-with mfcc musicnn --workdir $(DEMO)
	$(PY) slurm/grid.py --file slurm/grids/demo.yaml --workdir $(DEMO) --local --jobs 2
	$(PY) table.py --workdir $(DEMO) --k 10 50
	$(PY) explore.py --workdir $(DEMO)
	$(PY) report.py --workdir $(DEMO) --audio $(DEMO)/raw/audio

demo-full: demo
	$(PY) extract_item_embeddings/musicnn.py --variant MTT_musicnn --audio $(DEMO)/raw/audio --workdir $(DEMO)
	$(PY) extract_item_embeddings/vgg.py --audio $(DEMO)/raw/audio --workdir $(DEMO)
	$(PY) extract_item_embeddings/vgg.py --variant MTT_vgg --audio $(DEMO)/raw/audio --workdir $(DEMO)
	$(PY) extract_item_embeddings/pitch.py --audio $(DEMO)/raw/audio --workdir $(DEMO)
	$(PY) slurm/grid.py --file slurm/grids/demo-full.yaml --workdir $(DEMO) --local --jobs 2
	$(PY) slurm/grid.py --file slurm/grids/demo-cold.yaml --workdir $(DEMO) --local --jobs 2
	$(PY) table.py --workdir $(DEMO) --metrics NDCG@10 Recall@50 Coverage@10
	$(PY) report.py --workdir $(DEMO) --audio $(DEMO)/raw/audio

test: $(STAMP) lint
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20 -m "not slurm" $(TESTS)
	$(PY) -m pytest -m slurm $(or $(TESTS),tests/experiments/test_slurm.py); status=$$?; test $$status -eq 5 || exit $$status

test-quick: $(STAMP) lint
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=5 -m "not slurm and not trains" $(TESTS)

test-processors: $(STAMP)
	$(PY) -m tests.processors

attack: $(STAMP)
	$(PY) -m tests.attack

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	$(PY) -m reporting.documents

bench: $(STAMP)
	$(PY) -m bench --quick

clean-demo:
	rm -rf $(DEMO)
