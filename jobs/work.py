"""What spark-submit is given for a worker: `spark-submit jobs/work.py --once`."""

import sys

from backfill_spark.cli import main

raise SystemExit(main(["work", *sys.argv[1:]]))
