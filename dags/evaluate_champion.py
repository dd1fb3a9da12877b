"""Measure the registered champion every night."""

from bmflow_components.airflow_dags.factory import build

dag = build("evaluate_champion")
