# make lab     the notebooks in JupyterLab (environment in .venv; no network needed after the first time)
# make test    everything that is tested, with one summary
# make check   lint, types and unit tests only
# make docs    the API reference, from the docstrings, in build/docs
# make clean   remove what tests and tools leave behind (the environment stays: rm -r .venv)

PYTHON ?= python3
NOTEBOOK ?= notebooks/00_quickstart.ipynb

.PHONY: lab test check docs clean

lab:
	@"$(PYTHON)" tools/environment.py lab
	@MALLOC_ARENA_MAX=$${MALLOC_ARENA_MAX:-1} .venv/bin/python -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.allow_root=True --LabApp.default_url="/lab/tree/$(NOTEBOOK)"

test:
	@"$(PYTHON)" tools/environment.py test
	@.venv/bin/python tests/run.py

check:
	@"$(PYTHON)" tools/environment.py test --python-only
	@.venv/bin/python tests/run.py lint format types unit

docs:
	@"$(PYTHON)" tools/environment.py test --python-only
	@.venv/bin/python tools/build_docs.py

clean:
	rm -rf build dist test-results .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
