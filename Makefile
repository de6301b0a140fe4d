# `make` lists the targets. Everything is relative, so a checkout path may have spaces.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The oldest supported Python that runs here; `make setup PYTHON=python3.12` takes another.
ifndef PYTHON
PYTHON := $(shell .ci/environment python)
endif
VENV ?= .venv
PREFIX ?= $(HOME)/.local
RUN := $(VENV)/bin/python -m
# Tests of a file share daemons, so files are what processes share out.
PYTEST := $(RUN) pytest --numprocesses 2 --dist loadfile
# One stamp per Python: another one builds the environment anew.
STAMP := $(VENV)/.setup-$(notdir $(PYTHON))
INTEROP_LOCK := $(wildcard tests/interop/package-lock.json)
INTEROP_STAMP := tests/interop/node_modules/.setup-done
LOCK := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header $(if $(UPGRADE),--upgrade)

.PHONY: help setup install system check format test test-interop test-netns soak swarm mutants digests bench-sim bench-membership bench-agents bench-hostile bench-herd bench-churn bench-liars demo lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## Build the development environment in .venv from the hashed lock

$(STAMP): requirements-dev.lock pyproject.toml .ci/environment
	.ci/environment setup "$(VENV)" "$(PYTHON)"
	touch "$@"

install:  ## Install meshd and meshctl for this user, from the hashed lock (PREFIX=~/.local)
	.ci/environment install "$(PREFIX)" "$(PYTHON)"

system:  ## Install the Debian packages that the tests use (packages.apt), where missing
	.ci/system-packages packages.apt

check: $(STAMP)  ## Check format, lint and types
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

format: $(STAMP)  ## Format the code and mend what ruff can mend
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

test: $(STAMP) $(if $(INTEROP_LOCK),$(if $(shell command -v npm),$(INTEROP_STAMP)))  ## Run all tests
	$(PYTEST)

test-interop: $(STAMP) $(INTEROP_STAMP)  ## Run the tests against js-libp2p only (needs node and npm)
	$(RUN) pytest tests/interop

test-netns: $(STAMP)  ## Split, move and slow real daemons in network namespaces (root; ten minutes)
	$(RUN) pytest tests/netns -m netns

soak: $(STAMP)  ## Kill, freeze and split five working daemons for ten minutes; nothing may be lost or done twice (SECONDS=, SEED=)
	PYTHONPATH=tests $(RUN) soak $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

$(INTEROP_STAMP): $(INTEROP_LOCK)
	npm ci --prefix tests/interop --no-audit --no-fund
	touch "$@"

swarm: $(STAMP)  ## Run 10,000 simulated meshes, each with a configuration and faults of its own
	$(RUN) simulations swarm random --seeds 0..9999

mutants: $(STAMP)  ## Plant defects in the node; fail if the simulator does not find each
	PYTHONPATH=tests $(RUN) mutants

digests: $(STAMP)  ## Run one seed with every supported Python and hash seed found; compare the traces
	.ci/digests

bench-sim: $(STAMP)  ## Measure how fast the simulator is, and how its cost grows
	"$(VENV)/bin/python" benchmarks/simulator.py

bench-membership: $(STAMP)  ## Compare membership with SWIM + Lifeguard, simulated (hours; QUICK=1: few seeds)
	$(RUN) benchmarks.membership $(if $(QUICK),--quick)

bench-agents: $(STAMP) build/serf/usr/bin/serf  ## Compare real daemons with Serf's agents and bare py-libp2p (half an hour; QUICK=1: less)
	$(RUN) benchmarks.membership.idle $(if $(QUICK),--windows 1)
	$(RUN) benchmarks.membership.serf --serf build/serf/usr/bin/serf --idle-seconds $(if $(QUICK),60,600)

bench-hostile: $(STAMP)  ## Attack a real daemon in each way for a minute; print what an honest member noticed
	PYTHONPATH=tests $(RUN) benchmarks.hostile

bench-liars: $(STAMP)  ## Let a fifth of a hundred devices conspire for a million tasks, and draw the curve of the floor (QUICK=1: less)
	$(RUN) benchmarks.liars $(if $(QUICK),--tasks 100000,--picture docs/pictures/spot-checks.svg)

bench-herd: $(STAMP)  ## Place tasks among a thousand devices on fresh and on stale state (half an hour; QUICK=1: 200)
	$(RUN) benchmarks.herd $(if $(QUICK),--nodes 200 --seconds 20)

bench-churn: $(STAMP)  ## Kill 30 % of ten simulated devices every minute; see what it costs (five minutes)
	$(RUN) benchmarks.churn

# Unpacked, not installed: Debian's package starts an agent that listens everywhere.
build/serf/usr/bin/serf:
	mkdir -p build/serf
	cd build/serf && apt-get download serf
	dpkg -x build/serf/serf_*.deb build/serf

demo: $(STAMP)  ## Start three daemons, run real work on them, verify every receipt, stop them
	"$(VENV)/bin/python" examples/demo.py

lock: $(STAMP)  ## Renew the hashed locks after a change of pyproject.toml (UPGRADE=1: newest versions)
	$(VENV)/bin/$(LOCK) --output-file requirements.lock
	$(VENV)/bin/$(LOCK) --group dev --extra nvidia --output-file requirements-dev.lock
	@! grep -n '://' requirements.lock requirements-dev.lock || { echo "a lock names an address" >&2; exit 1; }

clean:  ## Remove the environment, caches and build output
	rm -rf "$(VENV)" build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/interop/node_modules
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
