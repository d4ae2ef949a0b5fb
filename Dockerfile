# One image, every role of services/serve.py; what a container is follows from its command.
# Releases name the base by its digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:…
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
COPY requirements/base.txt requirements/sdist.txt requirements/
# The environment gets no pip: what installs stays in this stage. dkimpy has no wheel; setuptools, from the first list,
# builds it.
RUN python3 -m venv --without-pip /venv \
 && python3 -m venv /tools \
 && /tools/bin/pip --python /venv/bin/python3 install --no-cache-dir --disable-pip-version-check \
      --require-hashes --no-deps --only-binary :all: -r requirements/base.txt \
 && /tools/bin/pip --python /venv/bin/python3 install --no-cache-dir --disable-pip-version-check \
      --require-hashes --no-deps --no-build-isolation -r requirements/sdist.txt
COPY services /app/services
COPY shared /app/shared
COPY infra/__init__.py /app/infra/
COPY infra/compose/__init__.py infra/compose/healthy.py /app/infra/compose/
# Compiled here, because nobody can write there later.
RUN printf '#!/venv/bin/python3\nfrom services.cli import main\nraise SystemExit(main())\n' > /venv/bin/consent-ledger \
 && chmod 755 /venv/bin/consent-ledger \
 && python3 -m compileall -q /app

FROM ${BASE} AS runtime
COPY --from=build /venv /venv
COPY --from=build /app /app
# Where secrets are is none.
# hadolint ignore=DL3064
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    CONSENT_LEDGER_HOST=0.0.0.0 \
    CONSENT_LEDGER_PORT=8080 \
    CONSENT_LEDGER_WORKER_PORT=8080 \
    CONSENT_LEDGER_SECRETS_DIR=/run/secrets \
    CONSENT_LEDGER_SIGNER_DIR=/signer
WORKDIR /app
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=10s --start-period=120s --retries=6 \
  CMD ["python3", "-IS", "/app/infra/compose/healthy.py"]
CMD ["consent-ledger", "--help"]

# The demo's mail server, which takes every mail and shows it. No part of an installation.
FROM build AS inbox-build
WORKDIR /build
COPY requirements/inbox.txt requirements/
RUN /tools/bin/pip --python /venv/bin/python3 install --no-cache-dir --disable-pip-version-check \
      --require-hashes --no-deps --only-binary :all: -r requirements/inbox.txt
COPY infra/local/__init__.py infra/local/inbox.py infra/local/texts.de.toml infra/local/texts.en.toml /app/infra/local/
COPY infra/local/pages /app/infra/local/pages
COPY infra/compose/mail.py /app/infra/compose/
RUN python3 -m compileall -q /app

FROM runtime AS inbox
COPY --from=inbox-build /venv /venv
COPY --from=inbox-build /app /app
EXPOSE 1025 8080
CMD ["python3", "-m", "infra.compose.mail", "/tmp/mails"]

FROM runtime
