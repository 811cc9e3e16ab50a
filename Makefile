# Each target makes .venv by itself: a fresh machine needs Python 3.10 or later and make.
PYTHON ?= python3
BIN := .venv/bin
PINS := pyproject.toml requirements.txt constraints.txt
# Processes that share the default tests out: one more than two cores, since tests often wait.
WORKERS ?= 3
# The folder that `make space` writes.
SPACE ?= build/space
PATHS := avchat train eval tests app.py

.PHONY: demo test test-slow tiny space screenshots fmt lint clean

demo: .venv/.installed             ## the app, on http://127.0.0.1:7860
	$(BIN)/python app.py

test: .venv/.installed-dev         ## the default tests, in WORKERS processes
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-slow: .venv/.installed-dev    ## the tests that take minutes, and more of the app in a browser
	$(BIN)/python -m pytest -q -m "(slow or page) and not alone" -n 2 --dist loadfile --durations 25
	$(BIN)/python -m pytest -q -m alone --durations 10

tiny: .venv/.installed-dev         ## train the bundled model from nothing
	PATH="$(CURDIR)/$(BIN):$$PATH" bash train/tiny.sh

space: .venv/.installed            ## a folder for a Hugging Face Space: make space MODEL=me/my-model ZERO=1
	$(BIN)/python -m avchat.space $(SPACE) $(if $(MODEL),--model $(MODEL)) $(if $(ZERO),--zero)

screenshots: .venv/.installed-dev  ## the pictures in docs/, from the running app in Chromium
	$(BIN)/python tests/screenshots.py

fmt: .venv/.installed-dev          ## format, and fix what ruff can fix
	$(BIN)/ruff format $(wildcard $(PATHS))
	$(BIN)/ruff check --fix $(wildcard $(PATHS))

lint: .venv/.installed-dev         ## check format and rules
	$(BIN)/ruff format --check $(wildcard $(PATHS))
	$(BIN)/ruff check $(wildcard $(PATHS))

clean:                             ## forget .venv and caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("avchat needs Python 3.10 or later; say which: make PYTHON=python3.11" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv

# The stamps are older than the pins when a pin changed, so a pull that moves a version reinstalls.
.venv/.installed: $(PINS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing avchat and what it needs into .venv: some minutes, once"
	$(BIN)/python -m pip install -qq -e . -c constraints.txt
	@touch $@

.venv/.installed-dev: $(PINS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing avchat, its tests and training into .venv: some minutes, once"
	$(BIN)/python -m pip install -qq -e '.[dev,train,lmms,mteb]' -c constraints.txt
	$(BIN)/python -m pip install -qq --no-deps lmms-eval==0.7.3 # alone: it wants an older PyAV
	@touch .venv/.installed $@
