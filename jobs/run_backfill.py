"""What spark-submit is given: `spark-submit jobs/run_backfill.py --scorers safety_check --start 2024-06-01`."""

import sys

from backfill_spark.cli import main

raise SystemExit(main(["run", *sys.argv[1:]]))
