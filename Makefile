# make kitchen | make test are each enough on a fresh clone: both install first.
PYTHON ?= python3
VENV ?= .venv
# Where PyTorch comes from if not from pip's defaults, e.g. the CPU-only wheel index on a machine without a GPU.
TORCH_INDEX ?=
BIN := $(VENV)/bin

comma := ,
# $(call telling,WHAT,ARGUMENTS): pip installs, and a line says every 15 seconds that it still does.
telling = (while sleep 15; do echo "installing $(1)"; done) & beat=$$!; trap "kill $$beat" EXIT; trap "exit 130" INT TERM; \
	$(BIN)/python -m pip install -q $(2)

.PHONY: help install extras kitchen smoke test slow long metaworld lint types check docs clean

help:
	@echo "make kitchen   install, then demonstrations -> skills -> a trained kitchen agent"
	@echo "make smoke     the same pipeline in miniature (under 3 minutes)"
	@echo "make test      install, then the tests;   make slow, make long: the longer ones"
	@echo "make extras    what the tests of optional parts need;   make metaworld: those of Meta-World"
	@echo "make check     lint and type check;   make docs: the documentation site, in build/site"

install: $(BIN)/.installed

# torch first: a build already there, or the one TORCH_INDEX names, is then not replaced by a larger one.
$(BIN)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rllib_spirl needs Python 3.11 or newer; '$(PYTHON)' is older. Use: make PYTHON=python3.11"; exit 1; }
	@echo "installing into $(VENV): PyTorch, Ray and what else is needed"
	$(PYTHON) -m venv $(VENV)
	@$(call telling,PyTorch,$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) 'torch>=2.6$(comma)<2.14')
	@$(call telling,the rest,-e '.[dev$(comma)video]')
	@touch $@

# What the tests of optional parts need as well; without it they are skipped.
extras: install
	@$(call telling,the extras,-e '.[docs$(comma)mlflow$(comma)ogbench$(comma)wandb]')

kitchen: install
	$(BIN)/rllib train file tuned_examples/kitchen.yaml

smoke: install
	$(BIN)/rllib train file tuned_examples/kitchen_smoke.yaml

# Three processes: a test often waits for Ray's processes.
test: install
	$(BIN)/python -m pytest -n 3 --dist loadfile

# Two: most of these tests start several processes themselves.
slow: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=15 -m 'slow and not long'

long: install
	$(BIN)/python -m pytest -m long

# Meta-World needs an older MuJoCo, so its tests have an environment of their own, with all else from the first one.
metaworld: install
	$(PYTHON) -m venv build/metaworld
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		$$(build/metaworld/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/all_else.pth
	build/metaworld/bin/python -m pip install -q --no-warn-conflicts -e '.[metaworld]'
	build/metaworld/bin/python -m pytest tests/test_metaworld.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

check: lint types

docs: install
	@$(call telling,what the documentation needs,-e '.[docs]')
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
