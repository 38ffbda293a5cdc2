#!/bin/sh
# Mounted into the database's container, which runs it when it makes the database.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c 'CREATE EXTENSION IF NOT EXISTS timescaledb' -f /roles.sql
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" \
  -v recorder="$RECORDER_PASSWORD" -v reader="$READER_PASSWORD" <<SQL
ALTER ROLE autopilot_recorder PASSWORD :'recorder';
ALTER ROLE autopilot_reader PASSWORD :'reader';
SQL
