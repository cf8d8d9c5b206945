# The one place that sets things up. A bare Debian needs first: apt-get install -y git make python3 python3-venv
# Every target makes what it needs and is instant when that is there already.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COMPILED := .venv-compiled/.installed
FUZZING := $(VENV)/.fuzzing
PRODUCT := $(shell find wakegate gateway activator certs control state -name '*.py' 2>/dev/null)
# Most tests wait for something most of the time: two of them per core keep it busy.
PYTEST_ARGS ?= -n $(shell expr 2 \* $$(nproc)) --dist loadgroup
BENCH_ARGS ?=
SIMULATE_ARGS ?=
SOAK_ARGS ?=
SECONDS ?= 300
TARGET ?= all
CORPUS ?= .fuzz/corpus

# Each test run starts hundreds of processes of ours: what they import is compiled once.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint serve bench fuzz fuzz-mutants soak simulate wheel image lock setup clean debian-test debian-bench debian-compiler

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## watch a sleeping service wake under a request
	$(BIN)/wakegate demo

serve: $(INSTALLED) ## run Wakegate here; its files go to ./.wakegate
	$(BIN)/wakegate serve

test: $(INSTALLED) debian-test lint ## lint, types, import contracts, tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(INSTALLED) ## only what needs no running
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) debian-bench ## Wakegate beside nginx, HAProxy, Caddy, Envoy, aiohttp
	@$(MAKE) --no-print-directory $(COMPILED) || { echo "no compiled wheel: plain Python only" >&2; rm -rf .venv-compiled; }
	$(BIN)/python -m bench $(BENCH_ARGS)

simulate: $(INSTALLED) ## the autoscaler on traces, beside Knative's; figures and pictures go to docs/
	$(BIN)/python -m simulate $(SIMULATE_ARGS)

fuzz: $(FUZZING) ## fuzz the data plane; SECONDS=300 TARGET=all CORPUS=.fuzz/corpus
	$(BIN)/python tests/fuzz/fuzz.py $(TARGET) --seconds $(SECONDS) --corpus $(CORPUS)

fuzz-mutants: $(FUZZING) ## does fuzzing find each planted bug within SECONDS?
	$(BIN)/python tests/fuzz/mutants.py --seconds $(SECONDS)

# An hour, unless SECONDS comes from the command line or the environment.
soak: $(INSTALLED) ## mixed load on a real node, then: is anything left? SECONDS=3600 SOAK_ARGS=--kills
	$(BIN)/python -m tests.soak --seconds $(if $(filter file,$(origin SECONDS)),3600,$(SECONDS)) $(SOAK_ARGS)

wheel: $(COMPILED) ## a wheel with compiled hot modules in dist/, installed in .venv-compiled

image: ## the container image, with Podman or Docker
	packaging/build-image.sh

lock: $(INSTALLED) ## resolve the lock files anew
	packaging/lock.sh $(BIN)/pip-compile

setup: $(INSTALLED) ## the virtual environment only

clean: ## everything that make made
	rm -rf .venv .venv-compiled build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

debian-test: debian-compiler
	@packaging/debian-packages.sh git=git podman=podman runc=runc netavark=netavark aardvark-dns=aardvark-dns \
		catatonit=catatonit busybox=busybox-static iptables=iptables \
		mmdebstrap=mmdebstrap pebble=pebble wrk=wrk nginx=nginx-light ip=iproute2 curl=curl

debian-bench:
	@packaging/debian-packages.sh git=git wrk=wrk nginx=nginx-light haproxy=haproxy caddy=caddy

debian-compiler:
	@packaging/debian-packages.sh 'gcc=gcc libc6-dev'
	@$(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || \
		packaging/debian-packages.sh Python.h=python3-dev

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install -y python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: apt-get install -y python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.locked: requirements.lock | $(VENV)/.created
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(INSTALLED): pyproject.toml $(wildcard setup.py) $(VENV)/.locked
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(FUZZING): requirements-fuzz.lock | $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-fuzz.lock
	@touch $@

# Compiling needs a C compiler and Python's headers.
dist/.built: $(PRODUCT) pyproject.toml $(wildcard setup.py) | $(INSTALLED) debian-compiler
	rm -rf build dist
	WAKEGATE_COMPILE=1 $(BIN)/python -m build --no-isolation --wheel >dist.log 2>&1 || { cat dist.log >&2; exit 1; }
	@rm -f dist.log
	@ls dist/*.whl
	@touch $@

$(COMPILED): dist/.built requirements-runtime.lock
	$(BIN)/python -m venv --clear .venv-compiled
	.venv-compiled/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-runtime.lock
	.venv-compiled/bin/pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	@touch $@
