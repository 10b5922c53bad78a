"""`python -m backfill_spark` is the command line."""

from __future__ import annotations

from backfill_spark.cli import main

if __name__ == "__main__":
    main(prog_name="backfill-spark")
