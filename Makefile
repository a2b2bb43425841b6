# Two commands do all the set-up: `make compile` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: compile test lint format bench clean

compile: $(VENV)/installed
	$(BIN)/mbv3c doctor --fetch
	mkdir -p bundles
	$(BIN)/mbv3c compile --target arm_cpu --variant large --force \
		-o bundles/mobilenet_v3_large-arm_cpu-cortex-a76-fp32

test: $(VENV)/installed-test
	$(BIN)/mbv3c doctor --fetch
	$(BIN)/python -m pytest

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Results go to benchmarks/RESULTS.md; QUICK=1 measures one network and writes nothing.
bench: $(VENV)/installed-bench
	$(BIN)/mbv3c doctor --fetch
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

clean:
	rm -rf $(VENV) bundles build *.egg-info

$(VENV)/made: scripts/make_venv.sh
	sh scripts/make_venv.sh $(PYTHON) $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-%: $(VENV)/made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@
