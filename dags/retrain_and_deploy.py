"""Retrain when the week turns or the dataset changes, then compile, measure, choose, register."""

from bmflow_components.airflow_dags.factory import build

dag = build("retrain_and_deploy")
