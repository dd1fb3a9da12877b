"""Airflow's settings for one machine: a database file, two tasks at once, loopback. The standard library alone."""

from __future__ import annotations

from pathlib import Path

LOOPBACK = "127.0.0.1"


def environment(folder: Path, dags: Path, port: int = 8080, refresh_s: int = 30) -> dict[str, str]:
    """Environment variables for an Airflow that lives in a folder and is reached by this machine alone."""
    address = f"http://{LOOPBACK}:{port}"
    return {
        "AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__DAGS_FOLDER": str(dags), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor", "AIRFLOW__CORE__PARALLELISM": "2", "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": str(refresh_s), "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__API__HOST": LOOPBACK, "AIRFLOW__API__PORT": str(port), "AIRFLOW__API__BASE_URL": address, "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/", "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False", "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "SCARF_ANALYTICS": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true",
    }  # fmt: skip
