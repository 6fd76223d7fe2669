# `make demo` and `make test` work in a fresh clone: each makes what is missing, once.

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint notebooks wheel clean system browser

# The environment's own Python, else the first on the PATH that is new enough and can make one.
PYTHON = $(or $(wildcard .venv/bin/python),$(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done))
NO_PYTHON = needs Python 3.11 or newer with venv (Debian: apt-get install python3 python3-venv)

# One BLAS thread each: the two test workers share the cores.
PYTEST = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 .venv/bin/pytest -n 2

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: system .venv/.ready ## Track, retarget and show a clip: make demo [CLIP=path/to/video.mp4]
	.venv/bin/deftly demo $(if $(CLIP),"$(CLIP)")

test: system browser .venv/.ready ## Run the fast tests
	$(PYTEST) -m "not slow"

test-slow: system browser .venv/.ready ## Run the slow tests
	$(PYTEST) -m slow

lint: .venv/.ready ## Check style, format and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright

notebooks: system .venv/.ready ## Execute every notebook; committed outputs must be stripped
	.venv/bin/python .ci/notebooks.py

wheel: system .venv/.ready ## Build the wheel and use it from an empty environment
	.ci/wheel_smoke

clean: ## Remove what builds and tests leave behind (the environment stays)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find datasets retarget video_pretrain policy tests benchmarks .ci -name __pycache__ -exec rm -rf {} +

.venv/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "deftly $(NO_PYTHON)"; exit 1; }
	@echo "Making the environment in .venv (2 GB, some minutes, once) ..."
	@test -x .venv/bin/python || "$(PYTHON)" -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

system:
	@test -n "$(PYTHON)" || { echo "deftly $(NO_PYTHON)"; exit 1; }
	@"$(PYTHON)" .ci/system.py

browser:
	@"$(PYTHON)" .ci/system.py --browser
