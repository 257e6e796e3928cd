# make quickstart   the whole job on data that comes with the install
# make test         every check that CI runs
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RIGHT_PYTHON := import sys; sys.exit(sys.version_info < (3, 11) and "hf_soups needs Python 3.11 or newer; set PYTHON=")

.PHONY: quickstart test lock audit format lint types docs unit cpus browser slow ray real examples bench clean

quickstart: .venv/core
	$(BIN)/hf-soups quickstart --out quickstart --overwrite

test: .venv/test
	$(MAKE) --no-print-directory lint types docs unit slow ray real examples bench

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -c '$(RIGHT_PYTHON)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

# The same tomorrow: every version with its hash. Only torch's build depends on the place, so it has none.
.venv/test: pyproject.toml constraints.txt requirements/test.lock
	$(PYTHON) -c '$(RIGHT_PYTHON)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: -r requirements/test.lock
	$(PIP) torch
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	touch .venv/core $@

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/test
	$(BIN)/mypy

# The site of docs/, in site/: no broken link, every public name with its docstring.
docs: .venv/test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# What fails is run once more, and both runs are printed: tests that kill, wait and serve share the machine with others.
# A test that passes only then is a bug to be mended, but no reason to stop a release. Collecting nothing is a failure.
ONCE_MORE := --last-failed --last-failed-no-failures none -n 0
tested = $(1) || { echo "Once more what failed:"; $(1) $(ONCE_MORE); }

# One torch thread a worker: two workers with two threads each slow each other down several times over.
unit: .venv/test
	$(call tested,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2)

# The unit tests on the kernels that older CPUs run: sums in other orders and widths. It takes as long as two `make unit`
# and is no part of `make test`; run it after a change to tests that compare numbers. numba compiles for a minute more.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell \
	NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR"
SSE := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR" NUMBA_CPU_NAME=nehalem

cpus: .venv/test
	$(AVX2) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
	$(SSE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Report and demo are tested in a real browser: the system's own, installed here where this may be done.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	|| { echo "The tests of report and demo need Chromium or Chrome: install one, e.g. apt-get install chromium" >&2; exit 1; }

# Screenshots of the report and the demo, and the report as PDF, are kept in build/pages, to be looked at.
slow: export HF_SOUPS_ARTIFACTS ?= $(CURDIR)/build/pages
slow: .venv/test browser
	$(call tested,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow and not real and not ray' --ignore=tests/finetune/test_distributed.py)
	$(call tested,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not real' tests/finetune/test_distributed.py)  # two processes each

# On a cluster of two nodes on this machine, which takes both cores: no two workers.
ray: .venv/test
	$(call tested,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray -rs tests/remote)

real: .venv/test
	$(call tested,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m real -rs)

# examples/small_*.py train for minutes on data that they are told; tests/real runs the one of CLIP.
examples: .venv/test
	for script in $(filter-out examples/small_%.py,$(wildcard examples/*.py)); do echo "$$script"; $(BIN)/python $$script || exit 1; done

bench: .venv/test
	$(BIN)/python benchmarks/imports.py
	$(BIN)/python benchmarks/merge.py --small
	$(BIN)/python benchmarks/learned.py --small --repeats 1
	$(BIN)/python benchmarks/greedy.py --small
	$(BIN)/python benchmarks/cascade_search.py
	$(BIN)/python benchmarks/cascade_streeter.py
	$(BIN)/python benchmarks/cascade_runtime.py
	$(BIN)/python benchmarks/sweep.py --small
	$(BIN)/python benchmarks/finetune.py --small
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/scale.py --small
	$(BIN)/python benchmarks/members.py --small
	$(BIN)/python benchmarks/serve.py --small

# What is pinned, written again with what is locked where it fits (UPGRADE=--upgrade: all the newest); then known weaknesses of it, for which a list of advisories must be reached.
lock: .venv/test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python requirements/lock.py $(UPGRADE)

audit: .venv/test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r requirements/test.lock

clean:
	rm -rf .venv quickstart dist build site .pytest_cache .mypy_cache .ruff_cache
