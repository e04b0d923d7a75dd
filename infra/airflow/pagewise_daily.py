"""The daily jobs as a DAG of Apache Airflow 3: this file goes into its folder of DAGs, after the paths are yours.

The daily job is one task and not one per stage: it knows itself what is up to date and goes on where it was
interrupted, so a retry costs what is left. Its release becomes the champion only if the replay of logged pages says so.
"""

from __future__ import annotations

import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    dag_id="pagewise_daily",
    description="Pagewise: from yesterday's logs to a released and replayed model; then the check of features",
    schedule="30 2 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,  # a run takes up all that has come since the last one
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(minutes=10)},
    tags=["pagewise"],
) as dag:
    daily = BashOperator(
        task_id="daily",
        bash_command="/opt/pagewise/.venv/bin/pagewise run --workspace /var/lib/pagewise --preset small",
        cwd="/opt/pagewise",
        execution_timeout=datetime.timedelta(hours=12),
    )
    check_features = BashOperator(
        task_id="check_features",
        bash_command="/opt/pagewise/.venv/bin/pagewise check-features --workspace /var/lib/pagewise --fail-on-alert",
        cwd="/opt/pagewise",
        retries=0,
        execution_timeout=datetime.timedelta(hours=2),
    )
    daily >> check_features
