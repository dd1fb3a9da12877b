"""The pipelines as Airflow DAGs. Nothing is imported here; DAG files import `factory`, which needs Airflow and the standard library."""
