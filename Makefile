# Each target sets itself up: a fresh machine needs Python >= 3.10 and make, nothing else.
# Written for GNU make 3.81 and later (the one that macOS ships).

VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
NAMES  := python3 python3.13 python3.12 python3.11 python3.10

# 04, 06 and 12 train a model: tests/test_notebooks.py runs them with small parameters instead.
NBVAL  := $(filter-out notebooks/04_% notebooks/06_% notebooks/12_%,$(wildcard notebooks/[0-9]*.ipynb))

.PHONY: help reproduce test lab site bench experiments experiments-real tables badges clean $(READY)

help:
	@echo "make reproduce    run the notebooks in order, write build/reproduce/index.html"
	@echo "make test         lint, unit tests, notebooks"
	@echo "make lab          open the course in JupyterLab"
	@echo "make site         write the course as web pages, build/site/index.html"
	@echo "make bench        time the merged model against the plain tower and open_clip's, InTI against naive"
	@echo "make experiments  run the longer experiments whose cached results the notebooks show"
	@echo "make experiments-real    the same on the real tower: some 8 hours on 2 cores, and goes on where it was"
	@echo "make tables       every row of the papers' tables, hours on 2 cores, and goes on where it was; FAST=1: that it runs, minutes"
	@echo "make badges REPO=you/fork   point the Colab badges and setup cells at a GitHub repository"
	@echo "make clean        remove build/ (the environment in $(VENV) and the data stay)"
	@echo
	@echo "The first call makes $(VENV) (2-4 minutes, about 6 GB). Choose an interpreter with PYTHON=/path/to/python3."

# A machine without network must work once the environment is there: HF_HUB_OFFLINE makes a slip show at once.
reproduce: $(READY)
	HF_HUB_OFFLINE=1 $(PY) -m i2vlib.course.reproduce

test: $(READY)
	$(PY) -m ruff check --output-format concise .
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --nbval-lax tests $(NBVAL) \
	  --ignore=tests/show/test_browser.py
	HF_HUB_OFFLINE=1 $(PY) -m pytest tests/show/test_browser.py  # alone: the response times that it tells are clean so

# The upload box of notebook 11 sends a file as one message: 512 MiB instead of the 10 MiB that Jupyter takes.
lab: $(READY)
	$(PY) -m jupyterlab --ServerApp.tornado_settings="{'websocket_max_message_size': 536870912}" $(LAB_FLAGS) $(firstword $(wildcard notebooks/00_*.ipynb))

site: $(READY)
	$(PY) -m i2vlib.course.site

bench: $(READY)
	$(PY) -m i2vlib.measure

experiments: $(READY)
	$(PY) -m i2vlib.course.experiments

# It trains for hours, features of the frozen blocks are kept, and results go into notebooks/results/real.json as they come.
experiments-real: $(READY)
	$(PY) -m i2vlib.fetch saliency-vit-s14
	HF_HUB_OFFLINE=1 $(PY) -m i2vlib.course.real
	$(PY) -m i2vlib.course.real_tables

# TABLES_FLAGS go to Snakemake, such as: --executor slurm --jobs 200. FAST=1: two steps of each method, numbers that mean nothing.
tables: $(READY)
	HF_HUB_OFFLINE=1 $(PY) -m i2vlib.course.workflow $(if $(FAST),--fast) -- $(TABLES_FLAGS)

badges: $(READY)
	@test -n "$(REPO)" || { echo "say which repository: make badges REPO=you/fork"; exit 2; }
	$(PY) -m i2vlib.course.environment badges $(REPO)

clean:
	rm -rf build .pytest_cache .ruff_cache

# Asked at every call, and silent where the environment was made from these very files: times say little, a checkout or a copy
# changes them. The environment's own interpreter serves where no other is found.
$(READY):
	@for p in $(PYTHON) $(if $(PYTHON),,$(NAMES)) $(PY); do \
	  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; \
	  then exec $$p i2vlib/course/environment.py make $(VENV); fi; \
	done; \
	echo "No Python >= 3.10 found (looked for: $(or $(PYTHON),$(NAMES))). Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; \
	exit 1
