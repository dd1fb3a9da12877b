"""Run a DAG once in this process, without scheduler or servers: `python -m bmflow_components.airflow_dags.once DAG --conf JSON`.

AIRFLOW_HOME and AIRFLOW__CORE__DAGS_FOLDER say where; the database is made on first use. Exit code 0 when the run succeeded, else 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any


def prepare() -> None:
    """Make Airflow's database where there is none, or bring an older one up to date."""
    from airflow.utils import db

    if Path(os.environ["AIRFLOW_HOME"], "airflow.db").is_file():
        db.upgradedb()
    else:
        db.initdb()


def load(dag_id: str) -> Any:
    """The DAG of a file in the DAG folder."""
    folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(dag_id).dag


def run(dag_id: str, conf: dict[str, Any], date: datetime | None = None) -> Any:
    """Run it to its end; gives the ended run. The same date again is the same run again."""
    return load(dag_id).test(run_conf=conf, **({"logical_date": date, "run_after": date} if date else {}))


def main() -> int:
    """Entry."""
    parse = argparse.ArgumentParser(prog="python -m bmflow_components.airflow_dags.once", description=__doc__)
    parse.add_argument("dag", help="id of the DAG")
    parse.add_argument("--conf", type=json.loads, default={}, help="values of the form, as JSON")
    parse.add_argument("--date", type=datetime.fromisoformat, help="logical date, with time zone (default: now)")
    options = parse.parse_args()
    prepare()
    ended = run(options.dag, options.conf, options.date)
    print(f"{options.dag}: {ended.state}, run {ended.run_id}", flush=True)
    return 0 if str(ended.state) == "success" else 1


if __name__ == "__main__":
    raise SystemExit(main())
