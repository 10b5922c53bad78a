"""A night's traces, scored by every started scorer; any past night can be cleared and run again.

The window is the run's own data interval, so a night that is run again has the same window and costs nothing where it
was scored. A retry after exit code 3 (something is left) or a lost worker goes on with what was staged.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

SUBMIT = """
spark-submit --master yarn --deploy-mode client \
    --properties-file /opt/backfill/conf/spark-defaults.conf \
    --py-files /opt/backfill/backfill_spark-0.1.0-py3-none-any.whl \
    /opt/backfill/jobs/run_backfill.py --all-started \
    --start "{{ data_interval_start.isoformat() }}" --end "{{ data_interval_end.isoformat() }}"
"""

with DAG(
    "backfill_spark",
    description="Scores the traces of the day before",
    schedule="@daily",
    start_date=datetime(2024, 6, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
):
    BashOperator(
        task_id="score_the_day",
        bash_command=SUBMIT,
        env={"BACKFILL_SPARK_CONFIG": "/opt/backfill/conf/backfill.yaml"},
        append_env=True,
    )
