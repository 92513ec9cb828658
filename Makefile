# `make demo`, `make test` and `make site` need nothing but Python 3.11 or newer: they make .venv themselves.
# Where python3 is older: make test PYTHON=python3.12. Where .venv is another's: make test VENV=.venv-tinyseq
PYTHON ?= python3
VENV := .venv
BEGUN := $(VENV)/begun
MADE := $(VENV)/made
OURS = $(wildcard $(BEGUN) $(MADE))
READY := $(VENV)/ready
TYPES := .venv-types

.PHONY: help demo test site site-test wasm cupy lint types lines bench clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

$(MADE): pyproject.toml
	$(if $(OURS),,$(if $(wildcard $(VENV)),$(error $(VENV) is here and was not made by make, which leaves it as it is: \
	    make $(MAKECMDGOALS) VENV=.venv-tinyseq)))
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "tinyseq needs Python 3.11 or \
	newer, and %s is %d.%d: make $(MAKECMDGOALS) PYTHON=python3.12" % (sys.executable, v[0], v[1]))'
	@echo "making $(VENV) (a minute or two, once)"
	rm -rf $(VENV) && mkdir $(VENV) && touch $(BEGUN)
	$(PYTHON) -m venv $(VENV)
	touch $@

$(READY): $(MADE)
	$(VENV)/bin/pip install --quiet --editable '.[examples,test,dev]'
	touch $@

$(VENV)/demo: $(MADE)
	$(VENV)/bin/pip install --quiet --editable '.[demo]'
	touch $@

demo: $(VENV)/demo  ## train a small model on a real dictionary; ARGS="--seconds 5" passes flags on
	$(VENV)/bin/python examples/pronounce.py $(ARGS)

test: $(READY)  ## run all tests on all cores; ARGS="-k gru -n 0" passes flags on
	$(VENV)/bin/python -m pytest -n auto $(ARGS)

$(VENV)/site: $(MADE)
	$(VENV)/bin/pip install --quiet --editable '.[site]'
	touch $@

site: $(VENV)/site  ## build the pages of docs/ and the API's into build/site, which any server serves
	$(VENV)/bin/python -m sphinx -q -W --keep-going -j auto -d build/site.cache $(if $(PYODIDE),-D runnable_pyodide=$(PYODIDE)) \
	    docs build/site

# What runs in a reader's browser. tests/wasm/pyodide.txt names the Pyodide that is fetched for this, and its hash.
FETCHED := build/pyodide/pyodide.js
$(FETCHED): tests/wasm/pyodide.txt tests/wasm/parts.py
	$(VENV)/bin/python tests/wasm/parts.py build/pyodide build/wasm
	touch $@

$(VENV)/browser: $(VENV)/site $(READY)
	$(VENV)/bin/pip install --quiet 'selenium>=4.20'
	touch $@

site-test: site $(VENV)/browser $(FETCHED)  ## open the site in Chromium, run cells and playgrounds; needs apt's chromium-driver
	$(VENV)/bin/python -m pytest -n 0 -m site tests/site $(ARGS)

WASM_TESTS := tests/engine tests/functional tests/nn
wasm: $(READY) $(FETCHED)  ## run tests of engine, functional and nn on CPython under WebAssembly, in three minutes; needs node
	rm -rf build/lib build/wheel            # of an earlier wheel, which would come into this one
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	node tests/wasm/run.mjs build/pyodide build/wasm build/wheel/tinyseq-*.whl -q -m "not reference" $(or $(ARGS),$(WASM_TESTS))

# The tests that a backend can change, on the real CuPy with a CPU in the GPU's place: tests/cupy_on_cpu/README.md.
# CUPY_ON_CPU_CACHE names the folder of compiled kernels.
CUPY_TESTS := tests/cupy_on_cpu tests/distributed tests/engine tests/functional tests/glance tests/metrics tests/nn \
    tests/optim tests/data/test_padding.py tests/data/test_prefetch.py \
    $(patsubst %,tests/backends/test_%.py,attention backends captured cupy graphs linear nccl optim paths rows steps sums) \
    $(patsubst %,tests/testing/test_%.py,compare laws testing) \
    $(patsubst %,tests/test_%.py,archives arrays captured checkpoint decode interrupts lengths lens models road runs scope)
CUPY := PYTHONPATH=tests TINYSEQ_TEST_PROFILE=emulated $(VENV)/bin/python -m pytest -p cupy_on_cpu.plugin -n auto
cupy: $(READY)  ## run tests on CPU-emulated CuPy, those of its kernels under AddressSanitizer too; needs g++
	$(VENV)/bin/pip install --quiet cupy-cuda13x==14.2.0 cuda-pathfinder ml_dtypes 'nvidia-cuda-runtime==13.*' \
	    'nvidia-cuda-crt==13.*' 'nvidia-cuda-nvrtc==13.*'
	$(CUPY) $(CUPY_TESTS) $(ARGS)
	CUPY_ON_CPU_ADDRESS=1 $(CUPY) tests/backends/test_cupy.py

lint: $(READY)  ## ruff
	$(VENV)/bin/ruff check .

# mypy does not follow the mapped backends/ in an editable install: it looks at a normal one, from outside.
USERS_PROGRAM := import tinyseq as ts; y: ts.Tensor = ts.tanh(ts.tensor([1.0]))
types: $(READY)  ## mypy --strict on the installed package, and on a line that uses it; what mypy and pyright tell users
	rm -rf build/lib build/bdist.* $(TYPES)   # of an earlier wheel, which would come into this one
	$(PYTHON) -m venv $(TYPES)
	$(TYPES)/bin/pip install --quiet . hypothesis   # whose decorators laws.py wears
	cd $(TYPES) && ../$(VENV)/bin/mypy --config-file ../pyproject.toml --python-executable bin/python -p tinyseq
	cd $(TYPES) && ../$(VENV)/bin/mypy --strict --python-executable bin/python -c '$(USERS_PROGRAM)'
	$(VENV)/bin/python -m pytest -q -n 0 tests/test_types.py

lines:  ## lines of code by room against their limits, which stand in CONTRIBUTING.md
	$(PYTHON) tests/helpers/lines.py

bench: $(READY)  ## print the table of times and memory beside PyTorch and others, and write it to build/
	$(VENV)/bin/python tests/benchmarks/table.py --markdown build/table.md --picture build/table.png $(ARGS)
	$(VENV)/bin/python tests/benchmarks/table.py --memory --threads 1 --markdown build/memory.md

clean:  ## remove the environments that make made, and everything built
	rm -rf $(if $(OURS),$(VENV)) $(TYPES) build dist docs/api *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
