# Two commands do everything on a fresh machine with Python >= 3.11: `make demo` and `make test`.
# PYTHON chooses the interpreter that makes the virtual environment, VENV where it lies.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
FAULTS ?= 100
SPOT = results/demo-spot
SPOT_RUN = $(RUN) -m studies.batch_ablation --results $(SPOT) --checkpoint-every-minutes 0.05

.PHONY: demo demo-spot test faults gpu-bench lint clean

demo: $(VENV)/installed
	$(RUN) -m studies.batch_ablation

# The demo, killed while it trains and run again: the lines that begin with `resumed` say where each trial went on.
demo-spot: $(VENV)/installed
	rm -rf $(SPOT)
	$(SPOT_RUN) & pid=$$!; \
	  until ls $(SPOT)/stages/*/checkpoints/*.json >/dev/null 2>&1; do kill -0 $$pid || exit 1; sleep 0.2; done; \
	  sleep 5; echo "--- SIGKILL"; kill -KILL $$pid
	$(SPOT_RUN)

test: $(VENV)/installed
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25

faults: $(VENV)/installed
	$(RUN) -m tests.faults.campaign --faults $(FAULTS)

# How fast one trial is on this machine's GPU, and what each part of that is worth: results/gpu_bench.json.
gpu-bench: $(VENV)/installed
	$(RUN) -m tests.benchmarks.gpu

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(RUN)
	$(VENV)/bin/codespell

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python >= 3.11 is needed, but $(PYTHON) is older: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,baselines,opencv]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
