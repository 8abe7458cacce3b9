PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data

.DEFAULT_GOAL := help
.PHONY: help serve test lint train evaluate reference dashboards picture replay lock clean docs links sbom audit

help: ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed (set PYTHON=…)"; exit 1; }
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev,train]'
	@touch $@

serve: $(VENV)/.installed ## start the server on 127.0.0.1:8080 (LARIMAR_ settings are honoured)
	@exec $(BIN)/larimar serve

lint: $(VENV)/.installed ## ruff and mypy
	@$(BIN)/ruff check app memory models tests
	@$(BIN)/mypy

.frameworks/.installed: tests/frameworks/requirements.txt
	@test -d .frameworks || $(PYTHON) -m venv .frameworks
	@echo "installing LangChain and LlamaIndex into .frameworks, for their tests (once)"
	@.frameworks/bin/python -m pip install --quiet --disable-pip-version-check -r $< && touch $@ || rm -rf .frameworks

test: lint .frameworks/.installed ## everything: lint, unit, service and model tests
	@$(BIN)/larimar models fetch
	@$(BIN)/python -m pytest --durations 12 --durations-min 5

train: $(VENV)/.installed ## train an adapter: make train DATA=folder
	@$(BIN)/larimar train --data $(DATA)

evaluate: $(VENV)/.installed ## evaluate: make evaluate DATA=folder
	@$(BIN)/larimar evaluate counterfact --data $(DATA)/counterfact_dev.jsonl.gz --n 500

reference: $(VENV)/.installed ## write the documentation's tables of settings, metrics and commands from the code
	@$(BIN)/python docs/reference.py

dashboards: $(VENV)/.installed ## write the dashboards' JSON from docker/grafana/panels.py
	@$(BIN)/python docker/grafana/render.py

picture: $(VENV)/.installed ## ask a real Prometheus every panel under load, and draw the Updates dashboard
	@$(BIN)/python docker/observe.py --seconds 60 --models "$$($(BIN)/larimar models folder)" --picture docs/images/updates.png

docs: $(VENV)/.installed ## build the documentation into site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

links: $(VENV)/.installed ## check the documentation's links to other sites (needs the network)
	@CHECK_LINKS=true NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

sbom: $(VENV)/.installed ## write a CycloneDX list of what is installed to sbom.json
	@$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[audit]'
	@$(BIN)/cyclonedx-py environment $(BIN)/python --output-file sbom.json

audit: $(VENV)/.installed ## ask the registry for known weaknesses of what is locked
	@$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[audit]'
	@$(BIN)/pip-audit --strict --no-deps --disable-pip -r docker/requirements.txt

replay: $(VENV)/.installed ## replay the steps of the Dockerfile in an empty folder
	@$(BIN)/python docker/replay.py

lock: ## write requirements.lock from a fresh environment, and docker/requirements.txt with hashes
	@rm -rf .lock && $(PYTHON) -m venv .lock
	@.lock/bin/python -m pip install --quiet -e '.[dev,train,audit]'
	@.lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' > requirements.lock
	@.lock/bin/python -m pip install --quiet uv
	@PATH=$(CURDIR)/.lock/bin:$$PATH .lock/bin/python docker/lock.py
	@rm -rf .lock

clean: ## remove the environment and caches
	@rm -rf $(VENV) .lock .frameworks build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find app memory models tests docker -name __pycache__ -type d -prune -exec rm -rf {} +
