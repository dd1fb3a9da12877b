"""Make a registered version the champion, by hand."""

from bmflow_components.airflow_dags.factory import build

dag = build("promote")
