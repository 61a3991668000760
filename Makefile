# `make demo` and `make test` do all the set-up themselves; once it is done, it takes no time.

PYTHON ?= python3
VENV ?= .venv
PROVIDER ?= faster-whisper

BIN := $(VENV)/bin
UV := $(or $(if $(shell command -v uv),uv),$(wildcard .venv/bin/uv),$(BIN)/uv)
INSTALL := $(UV) pip install --python $(BIN)/python

# Settings of the caller's that would install, or import from, somewhere other than $(VENV).
unexport PIP_PREFIX PIP_TARGET PIP_USER PYTHONHOME PYTHONPATH UV_SYSTEM_PYTHON VIRTUAL_ENV

define CHECK
$(BIN)/ruff check
$(BIN)/ruff format --check
$(BIN)/mypy
endef

.PHONY: help demo test check quick lowest format bench setup server lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile

# Only openai-whisper needs PyTorch, whose wheels for Linux are over 2 GB.
demo: ## Watch an agent transcribe speech in a real room (PROVIDER=whisper: with the other engine)
	@$(MAKE) --no-print-directory -j2 server $(VENV)/$(if $(filter whisper,$(PROVIDER)),.dev,.demo)
	$(BIN)/python scripts/demo.py --provider $(PROVIDER)

test: setup ## Check the code and run every test
	@$(MAKE) --no-print-directory check
	$(BIN)/pytest --numprocesses 2 --dist loadfile

check: $(VENV)/.dev ## Lint and check the types
	$(CHECK)

# What a Python of its own could break, without PyTorch; in CI, once for each that is promised.
quick: $(VENV)/.quick ## Check the code and run the quick tests (PYTHON=python3.12 VENV=.venvs/3.12)
	$(CHECK)
	$(BIN)/pytest --numprocesses 2 @tests/quick.txt

lowest: $(VENV)/.lowest ## Run the quick tests with the oldest libraries that are allowed
	$(BIN)/pytest --numprocesses 2 @tests/quick.txt

format: $(VENV)/.dev ## Format, and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## Measure loading, caching and decoding
	$(BIN)/python benchmarks/bench.py

setup: ## Make .venv and get livekit-server: all that the tests and the demo need
	@$(MAKE) --no-print-directory -j2 server $(VENV)/.dev

server:
	@scripts/livekit_server.sh >/dev/null || echo "Going on without livekit-server." >&2

# The files $(VENV)/.* say that a step is done; each is written last, so that a step cut short is done again.
# Who develops has all that the demo needs.
$(VENV)/.dev $(VENV)/.demo $(VENV)/.quick $(VENV)/.lowest: $(VENV)/.%: requirements/%.txt pyproject.toml $(VENV)/.created \
		| $(filter $(BIN)/uv,$(UV))
	$(INSTALL) --require-hashes -r $<
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $(if $(filter %/.dev,$@),$(VENV)/.demo) $@

$(BIN)/uv: requirements/uv.txt $(VENV)/.created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' || { echo >&2 \
		"Python 3.10 to 3.14 is needed; '$(PYTHON)' is not. Name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

COMPILE := $(UV) pip compile --quiet --no-config --python $(BIN)/python --python-version 3.10 --universal \
	--generate-hashes --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: $(VENV)/.created | $(filter $(BIN)/uv,$(UV)) ## Write requirements/*.txt from pyproject.toml (UPGRADE=1: newer versions)
	$(COMPILE) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra faster-whisper --group demo -c requirements/dev.txt -o requirements/demo.txt
	$(COMPILE) pyproject.toml --extra faster-whisper --group build -c requirements/dev.txt -o requirements/host.txt
	$(COMPILE) pyproject.toml --extra faster-whisper --group quick -c requirements/dev.txt -o requirements/quick.txt
	rm -f requirements/lowest.txt # else its versions would be kept where a bound has been lowered
	$(COMPILE) pyproject.toml --extra faster-whisper --group quick --resolution lowest-direct -o requirements/lowest.txt
	$(COMPILE) --group uv -o requirements/uv.txt

clean: ## Remove .venv, .bin and every cache
	rm -rf .venv .venvs .bin .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist KMS
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
