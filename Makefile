# `make demo` and `make test` do all the set-up themselves; once it is done, it takes no time.

PYTHON ?= python3
PROVIDER ?= faster-whisper

BIN := .venv/bin
UV := $(if $(shell command -v uv),uv,$(BIN)/uv)
INSTALL := $(UV) pip install --python $(BIN)/python

# Settings of the caller's that would install, or import from, somewhere other than .venv.
unexport PIP_PREFIX PIP_TARGET PIP_USER PYTHONHOME PYTHONPATH UV_SYSTEM_PYTHON VIRTUAL_ENV

.PHONY: help demo test check format bench setup server lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile

# Only openai-whisper needs PyTorch, whose wheels for Linux are over 2 GB.
demo: ## Watch an agent transcribe speech in a real room (PROVIDER=whisper: with the other engine)
	@$(MAKE) --no-print-directory -j2 server $(if $(filter whisper,$(PROVIDER)),.venv/.dev,.venv/.demo)
	$(BIN)/python scripts/demo.py --provider $(PROVIDER)

test: setup ## Check the code and run every test
	@$(MAKE) --no-print-directory check
	$(BIN)/pytest --numprocesses 2 --dist loadfile

check: .venv/.dev ## Lint and check the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.dev ## Format, and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## Measure loading, caching and decoding
	$(BIN)/python benchmarks/bench.py

setup: ## Make .venv and get livekit-server: all that the tests and the demo need
	@$(MAKE) --no-print-directory -j2 server .venv/.dev

server:
	@scripts/livekit_server.sh >/dev/null || echo "Going on without livekit-server." >&2

# The files .venv/.* say that a step is done; each is written last, so that a step cut short is done again.
.venv/.dev: requirements/dev.txt pyproject.toml .venv/.created | $(filter $(BIN)/uv,$(UV))
	$(INSTALL) --require-hashes -r $<
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch .venv/.demo $@

.venv/.demo: requirements/demo.txt pyproject.toml .venv/.created | $(filter $(BIN)/uv,$(UV))
	$(INSTALL) --require-hashes -r $<
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/uv: requirements/uv.txt .venv/.created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' || { echo >&2 \
		"Python 3.10 to 3.14 is needed; '$(PYTHON)' is not. Name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@touch $@

COMPILE := $(UV) pip compile --quiet --no-config --python $(BIN)/python --python-version 3.10 --universal \
	--generate-hashes --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: .venv/.created | $(filter $(BIN)/uv,$(UV)) ## Write requirements/*.txt from pyproject.toml (UPGRADE=1: newer versions)
	$(COMPILE) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra faster-whisper --group demo -c requirements/dev.txt -o requirements/demo.txt
	$(COMPILE) pyproject.toml --extra faster-whisper --group build -c requirements/dev.txt -o requirements/host.txt
	$(COMPILE) --group uv -o requirements/uv.txt

clean: ## Remove .venv, .bin and every cache
	rm -rf .venv .bin .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist KMS
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
