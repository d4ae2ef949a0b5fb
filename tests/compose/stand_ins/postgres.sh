#!/bin/bash
# What docker-compose.yml and infra/kubernetes rely on of the official image's entry point, and no more of it.
set -euo pipefail
if [[ ! -s "$PGDATA/PG_VERSION" ]]; then
  password=$(cat "$POSTGRES_PASSWORD_FILE")
  mkdir -p "$PGDATA"
  chmod 700 "$PGDATA"
  # initdb asks for the name of its user.
  passwd=$(mktemp) group=$(mktemp)
  echo "postgres:x:$(id -u):$(id -g)::/:/bin/false" > "$passwd"
  echo "postgres:x:$(id -g):" > "$group"
  # shellcheck disable=SC2086
  LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD=$passwd NSS_WRAPPER_GROUP=$group \
    initdb --username=postgres --pwfile=<(echo "$password") ${POSTGRES_INITDB_ARGS:-}
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  export PGPASSWORD=$password
  pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
  psql -h /tmp -U postgres -qc "create database \"$POSTGRES_DB\""
  pg_ctl -D "$PGDATA" -m fast -w stop
  unset PGPASSWORD
fi
exec "$@"
