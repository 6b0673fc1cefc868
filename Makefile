# run, test, lint, bench; each sets up .venv first. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Bytecode is kept whatever the environment says: without, each process of a service, and each of the tests', compiles
# all modules again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run demo test long chaos soak screenshots lint format docs bench bench-learning setup lock clean

run: $(READY)
	@exec $(BIN)/tidegate serve

demo: $(READY)
	@exec $(BIN)/tidegate demo

# Tests that start no Ray run on all cores, in the order of their files: xdist's own leaves the longest test to the end.
# The others, each of which wants all cores for itself, run one after the other.
INTEGRATION := tests/chaos tests/console tests/integration
test: $(READY)
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not integration and not long' --numprocesses auto --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m 'integration and not long' --durations 10 $(INTEGRATION)
endif

# The long tests, some ten minutes: clusters of several nodes, upgrades, autoscaling, the head's failure, every alert,
# services that share a log or prune it.
long: $(READY)
	$(BIN)/python -m pytest -m long --ignore tests/soak --ignore tests/chaos $(ARGS)

# Chaos with every fault ten times (or ROUNDS=...). What was held and what was lost is printed.
chaos: $(READY)
	TIDEGATE_CHAOS_ROUNDS=$(or $(ROUNDS),10) $(BIN)/python -m pytest tests/chaos -m integration -s $(ARGS)

# The console's pictures in docs/images, of a real service; chromium has to be installed.
screenshots: $(READY)
	$(BIN)/python -m tests.console.screenshots

# Steady load on a cluster of three local nodes, with processes killed and experts that change hands: does anything grow?
soak: $(READY)
	TIDEGATE_SOAK_MINUTES=$(or $(MINUTES),10) $(BIN)/python -m pytest tests/soak -m long -s $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages of docs/ and what is made from code, as a site in build/site. A broken link is an error.
docs: $(READY)
	$(BIN)/python -m mkdocs build --quiet --strict

# INFINITY is the interpreter of an environment with infinity-emb, see docs/performance.md; without it that peer is left
# out. wrk has to be installed.
bench: $(READY)
	$(PIP) install --quiet --constraint requirements.lock '.[bench]'
	$(PIP) install --quiet --no-deps --editable .
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.chain
	$(BIN)/python -m benchmarks.durable
	$(BIN)/python -m benchmarks.restart
	$(BIN)/python -m benchmarks.freshness
	$(BIN)/python -m benchmarks.serving $(if $(INFINITY),--infinity-python $(INFINITY))
	$(BIN)/python -m benchmarks.breakdown
	$(BIN)/python -m benchmarks.footprint
	$(BIN)/python -m benchmarks.broadcast
	$(BIN)/python -m benchmarks.head
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.serving_report

# Hours: LLMROUTER is the path of llmrouter_train.json (without it, what can be had anywhere), JOBS the processes, ARGS
# what else to give to benchmarks.learning. It goes on where it was.
bench-learning: $(READY)
	$(PIP) install --quiet --constraint requirements.lock '.[peers]'
	$(PIP) install --quiet --no-deps --editable .
	$(BIN)/python -m benchmarks.learning --jobs $(or $(JOBS),1) $(if $(LLMROUTER),--llmrouter $(LLMROUTER)) $(ARGS)
	$(BIN)/python -m benchmarks.learning_report

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tidegate needs Python 3.11 or newer; name one with make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV): Ray, torch and what tests need, once; this takes some minutes and over 2 GB."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --requirement requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

# Resolve pyproject.toml anew. torch is pinned first: a plain `torch` may be another build than the one tested.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-lock/bin/python -m pip install --quiet '.[dev,demo,chain,docs]'
	{ head -n 2 requirements.lock; $(VENV)-lock/bin/python -m pip freeze --exclude tidegate | sed 's/+cpu//'; } > requirements.new
	mv requirements.new requirements.lock
	rm -rf $(VENV)-lock build *.egg-info

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
