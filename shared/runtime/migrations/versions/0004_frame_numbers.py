"""Which frame numbers were seen, not only how many: a frame that comes twice must not hide one that never came."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

# Runs of before are taken as if all that they miss were their last numbers: their counts stay.
# A run with hundreds of gaps keeps the newest ones in their places, and of the older ones how many numbers were there.
STATEMENTS = """
CREATE FUNCTION numbers_in(seen int8multirange) RETURNS bigint LANGUAGE sql IMMUTABLE AS
  'SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM unnest(seen) r';
CREATE FUNCTION fold_numbers(seen int8multirange) RETURNS int8multirange LANGUAGE sql IMMUTABLE AS
  'WITH ranges AS (SELECT r, row_number() OVER (ORDER BY r DESC) AS place FROM unnest(seen) r),
   older AS (SELECT sum(upper(r) - lower(r))::bigint AS numbers FROM ranges WHERE place > 100)
   SELECT CASE WHEN (SELECT count(*) FROM ranges) <= 200 THEN seen
     ELSE (SELECT range_agg(r) FROM ranges WHERE place <= 100)
       + int8multirange(int8range(lower(seen), lower(seen) + (SELECT numbers FROM older))) END';
ALTER TABLE frame_runs ADD COLUMN seen int8multirange NOT NULL DEFAULT '{}';
UPDATE frame_runs SET seen = int8multirange(int8range(lowest, lowest + frames))
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        if statement.strip():
            op.execute(statement)
