# make demo   install from the lock file, grow a teacher and a student, distil, probe, and write one page about it
# make test   every test that needs no GPU
# The other targets are parts of these two; `make help` lists them.

# The first Python of 3.11 to 3.13 that runs. Choose another with `make PYTHON=/path/to/python ...`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)

# Flags for pip. On Linux the index PyPI serves a CUDA build of torch (several GB). For the small CPU build:
#   make demo PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'
PIP_FLAGS ?=

# Test processes side by side. Every process keeps to one thread, see tests/conftest.py.
JOBS ?= 2

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-tests
# Without byte code of all that lies in the packages: what is imported is compiled then, where Python may keep it.
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)
ENTRY_PACKAGES := synth models train probes
RUN_TESTS := PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -q -n $(JOBS) --dist loadfile

# Small objects in huge pages: where the first touch of a page is dear (some virtual machines), Python starts and trains
# several times faster. Results do not depend on it.
export PYTHONMALLOC ?= malloc
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: help env tests demo test unit numeric golden cli torture peers lint style types bench lock clean

help:
	@echo "make demo   the whole lab on two CPU cores in under ten minutes; report in runs/quickstart/report.html"
	@echo "make test   all tests that need no GPU; make unit, numeric, golden or cli: one folder of them"
	@echo "make torture  in full what make test takes a sample of: runs killed at every moment, a million fuzzed solutions"
	@echo "make peers  the environment inside reasoning-gym, verifiers and lm-evaluation-harness, which it installs"
	@echo "make lint   make style (ruff; directions and cycles of imports) and make types (basedpyright)"
	@echo "make bench  speed beside the peers, into tests/bench/README.md"
	@echo "make env    .venv from requirements.lock; every target above makes it (tests, lint, bench: and requirements-test.lock)"
	@echo "make lock   remake the lock files           make clean  remove caches and .venv, keep runs/"

env: $(STAMP)

# Kernels are compiled once, here, so that the first problem a person asks for comes at once: the generator in one process,
# the oracle, the checker, the decoding step and the training step, which start from problems drawn without compilation, in another.
DECODE := import torch; from models import GPT, GPTConfig; from models.decode.sampling import sample; torch.set_num_threads(1); \
	model = GPT(GPTConfig(8, 1, 1, 4, 8, mlp="relu2")); sample(model, [[1]], 4, temperature=0, eos=0, pad=0); \
	model(torch.ones(1, 2, dtype=int)).sum().backward()

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found; give one: make PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) $(PIP_FLAGS) -r requirements.lock
	$(INSTALL) --no-build-isolation --no-deps -e .
	GLASSHOUSE_JIT=0 $(PY) -m synth.generate --ops 5 --count 2 --out - > $(VENV)/problems.jsonl
	@echo "compiling, in two processes: a minute or two"; export GLASSHOUSE_JIT=1; \
	$(PY) -m synth.generate --ops 5 --count 2 --out - > /dev/null & \
	for command in explain check; do $(PY) -m synth.$$command $(VENV)/problems.jsonl > /dev/null || exit; done; \
	$(PY) -c '$(DECODE)' && wait $$!
	touch $@

$(TEST_STAMP): $(STAMP) requirements-test.lock
	$(INSTALL) $(PIP_FLAGS) -r requirements.lock -r requirements-test.lock
	touch $@

tests: $(TEST_STAMP)

demo: env
	$(PY) -m train.recipe recipe=quickstart

test: tests
	$(RUN_TESTS) tests/unit tests/numeric tests/golden tests/cli

unit numeric golden cli: tests
	$(RUN_TESTS) tests/$@

# The proofs of which `make test` takes a sample: kills at every file operation and at random moments, a million fuzzed solutions.
torture: tests
	TORTURE=1 $(RUN_TESTS) -rP --timeout 0 tests/numeric/train/test_resume.py tests/numeric/train/test_killed_anywhere.py \
		tests/unit/train/runs/test_damage.py tests/unit/synth/store/test_writers.py tests/numeric/synth/test_resume_shards.py \
		tests/numeric/synth/test_checker_fuzz.py tests/unit/train/config/test_fuzz.py tests/cli/train/test_sweeps.py

# The environment inside reasoning-gym, verifiers and lm-evaluation-harness, really run: some eighty more packages.
peers: tests
	$(INSTALL) $(PIP_FLAGS) -r requirements-peers.lock -c requirements.lock -c requirements-test.lock
	$(RUN_TESTS) -rs tests/numeric/environment

lint: style types

style: tests
	$(PY) -m ruff check $(ENTRY_PACKAGES) tests
	$(PY) -m ruff format --check $(ENTRY_PACKAGES) tests
	$(VENV)/bin/lint-imports --no-cache

types: tests
	$(VENV)/bin/basedpyright

bench: tests
	$(PY) -m pytest -q -s --timeout 0 tests/bench --table tests/bench/README.md

FREEZE := .venv-lock/bin/python -m pip freeze --all --exclude pip --exclude wheel --exclude glasshouse \
	| grep -viE '^(nvidia|cuda|triton)' | sed 's/+cpu$$//' | tr 'A-Z_' 'a-z-' | sort

lock:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet $(PIP_FLAGS) . pyarrow
	@{ grep '^#' requirements.lock; $(FREEZE); } > .requirements.tmp
	.venv-lock/bin/python -m pip install --quiet $(PIP_FLAGS) '.[test]' -c .requirements.tmp
	@{ grep '^#' requirements-test.lock; $(FREEZE) | grep -vxFf .requirements.tmp; } > .requirements-test.tmp
	.venv-lock/bin/python -m pip install --quiet $(PIP_FLAGS) '.[test,environments]' -c .requirements.tmp -c .requirements-test.tmp
	@{ grep '^#' requirements-peers.lock; $(FREEZE) | grep -vxFf .requirements.tmp | grep -vxFf .requirements-test.tmp; } \
		> .requirements-peers.tmp
	mv .requirements.tmp requirements.lock
	mv .requirements-test.tmp requirements-test.lock
	mv .requirements-peers.tmp requirements-peers.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(ENTRY_PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
