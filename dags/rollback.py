"""Make an earlier champion the champion again, by hand."""

from bmflow_components.airflow_dags.factory import build

dag = build("rollback")
