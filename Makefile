# The two that matter: `make demo` and `make test`. Each makes the environment it needs; PYTHON=python3.12 chooses another.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The first Python of 3.11 or later; a candidate has to run, a pyenv shim for a version that is not selected does not.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do $$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
VERSION := $(shell $(or $(PYTHON),false) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

# One environment for each version of Python; `.venv` is left to you.
VENV ?= .venv-$(VERSION)
IN_VENV := $(VENV)/bin/python
PIP := $(IN_VENV) -m pip --disable-pip-version-check --quiet
VERSIONS := 3.11 3.12 3.13 3.14

# The tests wait for processes more than they work: twice as many at a time as there are CPUs. JOBS=1: one after the other.
# Each of pytest's processes is started like the first, with every warning an error.
JOBS ?= $(shell echo $$(( 2 * $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) )))
PARALLEL = $(if $(filter-out 0 1,$(JOBS)),--dist worksteal --tx '$(JOBS)*popen//python=$(IN_VENV) -W error -X dev')

# The peers that the benchmarks measure stay out of the environment that the tests use.
BENCH := .venv-bench-$(VERSION)

PLUGINS := dask ray
PLUGINS_VENV ?= .venv-plugins-$(VERSION)
IN_PLUGINS_VENV := $(abspath $(PLUGINS_VENV))/bin/python

.PHONY: help demo demo-all choosing test strikes test-methods test-clients test-plugins test-plugins-brief test-executors test-all test-newest soak latency bench bench-quick docs lint typecheck format clean python

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## a real job on processes, then on threads, by changing one setting
	@$(IN_VENV) docs/examples/demo.py

demo-all: $(VENV)/installed ## the same job on every backend that is usable here, a line each
	@$(IN_VENV) docs/examples/demo.py --all

choosing: $(VENV)/installed ## work for the CPU and waiting, on every backend; ARGS='--workers 100'
	@$(IN_VENV) docs/examples/choosing.py $(ARGS)

test: export PYTHONMALLOC = default# of -X dev all but the checks of memory, a tenth of the time: there is no C here
test: $(VENV)/installed ## the tests; ARGS='-k retry' goes to pytest
	@$(IN_VENV) -m compileall -q taskrun  # they start some thousand interpreters, and not each environment keeps what it compiled
	$(IN_VENV) -W error -X dev -m pytest $(PARALLEL) $(ARGS)

strikes: $(VENV)/installed ## Ctrl-C at each single moment, where `make test` takes every twelfth
	STRIKE_STEP=1 $(IN_VENV) -W error -X dev -m pytest tests/unit/test_struck_anywhere.py tests/pool/test_struck_pool.py $(ARGS)

test-methods: export EVERY_METHOD = 1
test-methods: $(VENV)/installed ## the conformance suite, and CPython's tests of executors, by every start method
	$(IN_VENV) -W error -X dev -m pytest $(PARALLEL) tests/conformance/test_backends.py tests/unit/test_standard_contract.py \
	  tests/unit/test_standard_map.py tests/unit/test_standard_shutdown.py $(ARGS)

test-clients: $(VENV)/installed-clients ## tests/clients with the large libraries too (NumPy, pandas, SciPy, Dask, scikit-learn)
	$(IN_VENV) -W error -X dev -m pytest $(PARALLEL) tests/clients $(ARGS)

test-plugins: $(PLUGINS_VENV)/installed-mpi ## plugins/ against real Dask and Ray clusters on this machine, and MPI, loky; PLUGINS=dask
	@command -v mpiexec >/dev/null || echo "make: there is no MPI here, its test is skipped"
	@failed=(); for each in $(PLUGINS:%=test-plugin-%) test-executors; do \
	  $(MAKE) --no-print-directory $$each || failed+=($$each); \
	done; \
	echo "== failed: $${failed[*]:-none}"; [ $${#failed[@]} -eq 0 ]

test-plugins-brief: export CONFORMANCE_STEP = 10
test-plugins-brief: $(PLUGINS_VENV)/installed ## as test-plugins, side by side, without MPI: of the conformance suite each third behaviour, on clusters of their own each tenth
	@$(MAKE) --no-print-directory -j3 --output-sync=target --keep-going $(PLUGINS:%=test-plugin-%) test-executors

# What has failed is known by this file, also to who interrupts the tests: then pytest ends with 2.
PLUGINS_FAILED := $(abspath $(PLUGINS_VENV))/failed

test-plugin-%: $(PLUGINS_VENV)/installed
	@command -v openssl >/dev/null || { echo "make: openssl is needed for the tests of TLS: apt-get install openssl"; exit 1; }
	@echo "== taskrun-$*"; rm -f $(PLUGINS_FAILED)-$*
	@cd plugins/taskrun-$* && $(IN_PLUGINS_VENV) -W error -m pytest $(ARGS) || { [ $$? -eq 2 ] || touch $(PLUGINS_FAILED)-$*; exit 1; }

test-executors: $(PLUGINS_VENV)/installed
	@echo "== other executors"; rm -f $(PLUGINS_FAILED)-executors
	@$(IN_PLUGINS_VENV) -W error -m pytest tests/clients/test_other_executors.py $(ARGS) \
	  || { [ $$? -eq 2 ] || touch $(PLUGINS_FAILED)-executors; exit 1; }

test-all: ## the tests on each of Python 3.11 to 3.14 found here
	@found=(); failed=(); \
	for version in $(VERSIONS); do \
	  python=; \
	  for candidate in python$$version $$(ls -d $$HOME/.pyenv/versions/$$version.*/bin/python 2>/dev/null | sort -rV); do \
	    if $$candidate -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then echo "== Python $$version: not found, not tested"; continue; fi; \
	  echo "== Python $$version: $$python"; found+=($$version); \
	  $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$version || failed+=($$version); \
	done; \
	echo "== tested on: $${found[*]:-nothing}; failed on: $${failed[*]:-none}"; \
	[ $${#found[@]} -gt 0 ] && [ $${#failed[@]} -eq 0 ]

soak: $(VENV)/installed ## ten minutes of random faults on all backends, with a report; ARGS='--minutes 0' for the whole table
	@$(IN_VENV) tests/faults/soak.py $(ARGS)

latency: $(VENV)/installed ## the times promised after faults, measured
	@$(IN_VENV) benchmarks/latency_faults.py $(ARGS)

test-newest: ## the tests on Python 3.14, for the backend interpreter; fetches it from Debian (root, debootstrap, network)
	@tests/newest.sh $(ARGS)

bench: $(BENCH)/installed ## every system on every workload, an hour; writes docs/performance.md; ARGS='--workload round-trip'
	@$(BENCH)/bin/python -m compileall -q taskrun  # as whatever pip installs is
	@$(BENCH)/bin/python -m benchmarks run $(if $(ARGS),$(ARGS),--into docs/performance.md --plots docs/performance)

bench-quick: $(BENCH)/installed ## what is promised about speed, beside the standard library: two minutes
	@$(BENCH)/bin/python -m compileall -q taskrun
	@$(BENCH)/bin/python -m benchmarks run --scale quick --minutes 1.8 $(ARGS)

docs: $(VENV)/installed ## write anew what the documentation takes from the code
	@$(IN_VENV) docs/generate.py

lint: $(VENV)/installed-dev typecheck ## ruff, the format, and the types
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .

typecheck: $(VENV)/installed-dev ## mypy --strict
	$(IN_VENV) -m mypy

format: $(VENV)/installed-dev ## format the code
	$(IN_VENV) -m ruff check --fix --select I .
	$(IN_VENV) -m ruff format .

clean: ## remove the environments made here and what tools leave behind
	rm -rf $(foreach v,$(VERSIONS),.venv-$(v) .venv-bench-$(v) .venv-plugins-$(v)) .newest .newest.log build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find taskrun tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps are in the environment: removed with it, and older than pyproject.toml once that changes.
# An environment without a working pip was left half made, or its Python is gone: it is made anew.
$(VENV)/installed: pyproject.toml | python
	@echo "installing taskrun and what its tests need into $(VENV)"
	@$(PIP) --version >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(PIP) install -e '.[dev]'
	@touch $@

$(VENV)/installed-clients: $(VENV)/installed
	@echo "installing the large client libraries into $(VENV)"
	@$(PIP) install -e '.[clients]'
	@touch $@

$(BENCH)/installed: pyproject.toml benchmarks/requirements.txt | python
	@echo "installing taskrun and its peers into $(BENCH)"
	@test -x $(BENCH)/bin/pip || $(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip --disable-pip-version-check --quiet install -e . -r benchmarks/requirements.txt
	@touch $@

# Dask and Ray are too heavy for `make test` (some 500 MB): an environment of their own. mpi4py builds only where there is an MPI.
$(PLUGINS_VENV)/installed: pyproject.toml $(wildcard plugins/*/pyproject.toml) | python
	@echo "installing taskrun, the plugins, Dask and Ray into $(PLUGINS_VENV)"
	@$(IN_PLUGINS_VENV) -m pip --version >/dev/null 2>&1 || { rm -rf $(PLUGINS_VENV) && $(PYTHON) -m venv $(PLUGINS_VENV); }
	@$(IN_PLUGINS_VENV) -m pip -q --disable-pip-version-check install -e '.[test]' loky \
	  $(foreach plugin,dask ray,-e 'plugins/taskrun-$(plugin)[test]') \
	  || { echo "make: what the plugins need could not be installed for Python $(VERSION); Ray has wheels for few versions:"; \
	       echo "make: choose another by PYTHON=python3.11 (see https://pypi.org/project/ray/#files)"; exit 1; }
	@command -v openssl >/dev/null || { echo "installing openssl by apt"; \
	  apt-get -qq install -y openssl >/dev/null || { apt-get -qq update && apt-get -qq install -y openssl >/dev/null; } \
	  || echo "make: that was refused; as root: apt-get install openssl"; }
	@touch $@

$(PLUGINS_VENV)/installed-mpi: $(PLUGINS_VENV)/installed
	@command -v mpicc >/dev/null || { echo "installing MPI by apt"; apt-get -qq install -y openmpi-bin libopenmpi-dev >/dev/null \
	  || { apt-get -qq update && apt-get -qq install -y openmpi-bin libopenmpi-dev >/dev/null; } \
	  || echo "make: that was refused; as root: apt-get install openmpi-bin libopenmpi-dev"; }
	@command -v mpicc >/dev/null && $(IN_PLUGINS_VENV) -m pip -q --disable-pip-version-check install mpi4py \
	  || echo "make: mpi4py is not installed"
	@touch $@

# Debian and Ubuntu keep ensurepip in a package of its own.
python:
	@if [ -z "$(VERSION)" ]; then \
	  echo "make: Python 3.11 or later is needed and was not found; install it, or say where: make PYTHON=/path/to/python3"; exit 1; fi
	@if ! $(PYTHON) -c '$(NEW_ENOUGH)'; then echo "make: $(PYTHON) is Python $(VERSION); 3.11 or later is needed"; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  echo "$(PYTHON) cannot make environments; installing python$(VERSION)-venv"; \
	  command -v apt-get >/dev/null && $$sudo apt-get -qq update && $$sudo apt-get -qq install -y python$(VERSION)-venv \
	  && $(PYTHON) -c 'import ensurepip, venv' \
	  || { echo "make: that did not work; as root run: apt-get install python$(VERSION)-venv"; exit 1; }; fi
