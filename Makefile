# make env     the environment of the verified versions: .venv
# make demo    fine-tunes a detector on a small data set as users do on theirs: mnv2 finetune
# make demo-segment  the same with a segmenter
# make test    lint and all tests;  make lint  ruff, the order of imports, mypy
# make matrix  installs the wheel beside older and newer versions of its libraries and tries it: an hour
# make clean   removes what was built and trained;  make distclean  the environments too
#
# LINE=onedl works with the maintained forks instead, in .venv-onedl.
# PYTHON=... is the interpreter the environment is made with; VENV=... its folder.

PYTHON ?= python3
LINE ?= upstream

ifeq ($(LINE),upstream)
VENV ?= .venv
else ifeq ($(LINE),onedl)
VENV ?= .venv-onedl
else
$(error LINE=$(LINE): must be upstream or onedl)
endif

# Python keeps what it compiles of the libraries, which pip leaves out below: else each process compiles them again.
export PYTHONDONTWRITEBYTECODE :=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := $(addprefix tools/requirements/,torch.txt $(LINE).txt)

.PHONY: env demo demo-segment test lint matrix clean distclean

env: $(VENV)/.ready

demo: env
	$(BIN)/python tools/demo.py

demo-segment: env
	$(BIN)/python tools/demo.py segment

lint: $(VENV)/.testable
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m mypy

# A test that crashes its process ends the run: after a restart pytest-xdist would wait forever for the rest of its file.
test: lint
	PYTHONPATH=$(abspath $(VENV))/tflite $(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 0

matrix:
	$(PYTHON) tools/matrix.py

clean:
	rm -rf build dist *.egg-info work_dirs .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	for venv in .venv .venv-onedl; do if test -e $$venv/.made-by-make; then rm -rf $$venv; fi; done

# Three stamps, each written when its step is complete. Whatever interrupted the first step, it starts
# again from an empty folder; a folder that was not made here is left alone.
$(VENV)/.pinned: $(PINS)
	@command -v $(PYTHON) >/dev/null || { echo 'PYTHON=$(PYTHON) not found: Python 3.10 or newer is needed' >&2; exit 1; }
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' || \
	    { echo 'PYTHON=$(PYTHON): must be 3.10 or newer, with venv (Debian: apt-get install python3-venv)' >&2; exit 1; }
	@test ! -e $(VENV) || test -e $(VENV)/.made-by-make || \
	    { echo '$(VENV) exists and was not made by make: remove it, or name another folder: make VENV=...' >&2; exit 1; }
	@rm -rf $(VENV)
	@mkdir -p $(VENV) && touch $(VENV)/.made-by-make
	$(PYTHON) -m venv $(VENV)
	@echo 'installing torch and OpenMMLab: over 1 GB to fetch, one minute or several'
	@$(PIP) install -q --no-compile $(addprefix -r ,$(PINS))
	@touch $@

INSTALL = $(PIP) install -q --no-compile --no-build-isolation $(addprefix -c ,$(PINS))

$(VENV)/.ready: $(VENV)/.pinned setup.cfg setup.py pyproject.toml
	@echo 'installing the package itself'
	@$(INSTALL) -e '.[weights,logs]'
	@$(PIP) check
	@touch $@

$(VENV)/.testable: $(VENV)/.ready tools/requirements/tflite.txt
	@echo 'installing what its tests need'
	@$(INSTALL) -e '.[dev]'
	@$(PIP) check
	@rm -rf $(VENV)/tflite
	@$(PIP) install -q --no-compile --no-deps --target $(VENV)/tflite -r tools/requirements/tflite.txt
	@touch $@
