# What each target needs it installs first, and says so. PYTHON=/path/to/python3 chooses the
# interpreter; ARGS="..." is handed on (make run ARGS="--config x.yaml", make system ARGS="-k curl").
SHELL := /bin/bash
bin := $(CURDIR)/.venv/bin
prefix := /opt/webguard
# Runs from a folder of ours must never import from it: see README, "plain names".
export PYTHONSAFEPATH := 1
# Without compiled files every start of Python compiles again: that is most of a quick test run.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: setup run install demo test check thorough fix system bench package

setup: ; deploy/setup/packages test && deploy/setup/dev
run:
	deploy/setup/packages run && deploy/setup/users && deploy/setup/config && deploy/setup/place $(prefix)
	exec $(prefix)/venv/bin/webguard run $(ARGS)
install: ; deploy/setup/install
demo: setup ; deploy/demo/run $(ARGS)
test: setup check thorough system

# Neither root nor network once .venv is there; quick, so that it is run often.
check:
	deploy/setup/dev
	$(bin)/ruff format --check . && $(bin)/ruff check .
	$(bin)/mypy && $(bin)/mypy tests
	$(bin)/lint-imports
	$(bin)/pytest -q -n 2 --dist loadfile $(ARGS)
# What check leaves out: whatever starts something, and property tests with all their examples.
thorough:
	deploy/setup/dev
	$(bin)/pytest -q -n 2 -m "not system and (slow or hypothesis)" --hypothesis-profile=thorough $(ARGS)
fix:
	deploy/setup/dev
	$(bin)/ruff check --fix . && $(bin)/ruff format .
# Two at once: most of the time is waiting, and each has a test host of its own.
system: setup ; $(bin)/pytest -m system -n 2 --dist loadfile --durations=20 $(ARGS)
bench: setup
	deploy/setup/packages bench
	deploy/bench/run $(ARGS)
package: ; deploy/setup/package
