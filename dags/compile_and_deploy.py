"""A network for every processor and number type, by hand."""

from bmflow_components.airflow_dags.factory import build

dag = build("compile_and_deploy")
