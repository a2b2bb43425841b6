# Two commands do all the set-up: `make compile` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NPU := .venv-npu
NPU_TESTS := tests/targets/ethos_u tests/targets/one_chip
# Processes that run tests; each takes up to 3 GiB. Tests of a file stay together.
JOBS ?= 2
PYTEST := -m pytest -n $(JOBS) --dist loadfile
# Hundreds of processes are started, and each would compile TVM's and onnx's modules anew, for eight
# seconds, where the environment says that Python shall not keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=
# Most modules of what is installed are never imported; Python compiles those that are.
INSTALL := -m pip install --quiet --no-compile

# numpy's threads wait for each other at full speed, which other processes that test would need.
test test-most test-npu test-long: export OPENBLAS_NUM_THREADS := 1

.PHONY: compile test test-most test-npu test-long fuzz tools lint format docs dist bench clean

compile: $(VENV)/installed
	$(BIN)/mbv3c doctor --fetch=emulator
	mkdir -p bundles
	$(BIN)/mbv3c compile --target arm_cpu --variant large --force \
		-o bundles/mobilenet_v3_large-arm_cpu-cortex-a76-fp32

test: $(VENV)/installed-test $(NPU)/installed tools
	@sh scripts/test_both.sh "$(MAKE)"

# The two parts of `make test`, which installs their tools.
test-most: $(VENV)/installed-test
	$(BIN)/python $(PYTEST) $(NPU_TESTS:%=--ignore=%)

# The NPU's tools hold back numpy and onnx, so their tests have an environment of their own.
test-npu: $(NPU)/installed
	$(NPU)/bin/python $(PYTEST) $(NPU_TESTS)

# What takes too long for every commit: docs/testing.md lists it.
test-long: $(NPU)/installed tools tools-browser
	$(BIN)/python $(PYTEST) -m long $(NPU_TESTS:%=--ignore=%)
	$(NPU)/bin/python $(PYTEST) -m long $(NPU_TESTS)

# Files changed at random, so long for each kind of them; a find names its seed.
SECONDS ?= 60
SEED ?= 0
fuzz: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/fuzz --seconds $(SECONDS) --fuzz-seed $(SEED)

# Emulators, llvm-mca and an OpenCL driver, into the user's cache; with -j side by side.
TOOLS := emulator cycles opencl mcu
tools: $(TOOLS:%=tools-%)

tools-%: $(VENV)/installed-test
	$(BIN)/mbv3c doctor --fetch=$*

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site. What Sphinx warns of is an error, and so is what a browser would fetch from elsewhere.
docs: $(VENV)/installed-docs
	rm -rf build/site build/docs
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/docs . build/site
	$(BIN)/python scripts/check_site.py build/site

# What is installed elsewhere: an sdist, and the wheel that is built from it.
dist: $(VENV)/installed-test
	$(BIN)/python scripts/build_dist.py dist

# Results go to benchmarks/RESULTS.md; QUICK=1 measures one network and writes nothing.
bench: $(VENV)/installed-bench
	$(BIN)/mbv3c doctor --fetch
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.picture

clean:
	rm -rf $(VENV) $(NPU) bundles build dist *.egg-info

$(VENV)/made $(NPU)/made: scripts/make_venv.sh
	sh scripts/make_venv.sh $(PYTHON) $(@D)
	touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml
	$(BIN)/python $(INSTALL) --editable .
	touch $@

$(VENV)/installed-%: $(VENV)/made pyproject.toml
	$(BIN)/python $(INSTALL) --editable '.[$*]'
	touch $@

# The site is built of text: it needs no mbv3c.
$(VENV)/installed-docs: $(VENV)/made pyproject.toml scripts/requirements.py
	$(BIN)/python scripts/requirements.py --only docs > $(VENV)/docs.txt
	$(BIN)/python $(INSTALL) --requirement $(VENV)/docs.txt
	touch $@

# All but mbv3c, which two pips must not build at once.
$(NPU)/needs: $(NPU)/made pyproject.toml scripts/requirements.py
	$(NPU)/bin/python scripts/requirements.py npu test > $(NPU)/requirements.txt
	$(NPU)/bin/python $(INSTALL) --requirement $(NPU)/requirements.txt
	touch $@

$(NPU)/installed: $(NPU)/needs
	$(NPU)/bin/python $(INSTALL) --editable '.[npu,test]'
	touch $@
