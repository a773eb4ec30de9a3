# make quickstart: install, then a real small study. make test: install, then every check. Both need Python 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install quickstart test long mutants browser tex quick lint clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "Equipoise needs Python 3.11 or newer; this is %d.%d: make PYTHON=python3.11" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	@echo "Installing Equipoise into .venv (about 6 GB with PyTorch; one to five minutes)"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[botorch]' --group dev
	@touch $(STAMP)

quickstart: install
	@$(BIN)/equipoise quickstart

# The tests of pages need a real browser, which no package index carries: Debian's, where we may install it.
browser:
	@command -v chromedriver >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver >/dev/null; } \
	  || echo "No browser here: the tests of pages will say so (Debian: apt install chromium chromium-driver)"

# And the test of LaTeX tables a LaTeX.
tex:
	@command -v pdflatex >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -qq -y --no-install-recommends texlive-latex-recommended >/dev/null; } \
	  || echo "No LaTeX here: its test will say so (Debian: apt install texlive-latex-recommended)"

test: install lint browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not long" --durations 25

# Faults and growth of clusters that take minutes each.
long: install tex
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

# Whether the tests notice single changes of the code: an hour (bench/mutants.md).
mutants: install
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group mutants
	$(BIN)/python bench/mutants.py run

quick: install
	$(BIN)/python -m pytest -m "not slow and not cluster"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
