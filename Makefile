# Two commands: `make book` builds _build/html/index.html, `make test` runs the checks.
# `make test TESTS=all` adds the slow ones, as CI does.
# Both first install what they need, pinned, into .venv. `make PYTHON=python3.12 book` names another interpreter.
PYTHON ?= python3
CORES ?= 2
TESTS ?= fast
BIN := .venv/bin

COLAB_PYTHON ?= python3.13

.PHONY: archive book test colab lock

book: .venv/.installed
	$(BIN)/python -m tools.graph --cores $(CORES) --rerun-incomplete --quiet rules --printshellcmds book
	@echo "the book: _build/html/index.html"

test: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n $(CORES) --dist loadgroup $(if $(filter all,$(TESTS)),,-m "not slow")

# The stamp is touched last, so that an installation that broke off is done again.
.venv/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: Python 3.11, 3.12 or 3.13 is needed" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo \
	    "$$($(PYTHON) --version) will not do: Python 3.11, 3.12 or 3.13 is needed; name one with make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo \
	    "this Python cannot make environments: install python3-venv (apt-get install python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# All of it in one file, as Zenodo takes it.
archive: book
	$(BIN)/python -m tools.archive

# One notebook copy of the built site, run on Colab's stack (August 2026) from a server on loopback.
colab: .venv-colab/.installed
	ABPN_COLAB_PYTHON=$(CURDIR)/.venv-colab/bin/python $(BIN)/pytest tests/test_colab.py

.venv-colab/.installed: requirements-colab.lock
	$(COLAB_PYTHON) -m venv --clear .venv-colab
	.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

LOCK := uv pip compile --generate-hashes --no-emit-index-url --no-header --no-annotate

# The second lock is the stack that Colab has before the wheel is installed there, at the versions of pyproject.toml.
COLAB := tensorflow tf_keras numpy scikit-image matplotlib==3.10.0 pillow==11.3.0 ipykernel

lock:
	$(LOCK) pyproject.toml --all-extras --universal --python-version 3.11 -o requirements.lock
	printf '%s\n' $(COLAB) | $(LOCK) - --python-version 3.13 -o requirements-colab.lock
