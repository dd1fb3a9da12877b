"""A stage as a pod, through KubernetesPodOperator. Imported by tasks that run on a cluster alone; needs the provider cncf.kubernetes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from bmflow_components.airflow_dags import backends
from bmflow_components.airflow_dags.backends import Order


class StagePod(KubernetesPodOperator):
    """The operator, which also keeps the exit code of the container."""

    exit_code: int | None = None

    def cleanup(self, pod: Any, remote_pod: Any) -> None:
        """Look at the container's end before the pod is deleted and its failure raised."""
        statuses = (remote_pod.status.container_statuses or ()) if remote_pod and remote_pod.status else ()
        ended = [status.state.terminated for status in statuses if status.name == self.base_container_name and status.state]
        if ended and ended[0]:
            self.exit_code = ended[0].exit_code
        super().cleanup(pod, remote_pod)


def operator(order: Order, task_id: str, **settings: Any) -> StagePod:
    """The operator that runs a task; the chart's pod template is used where there is one, else a pod of our own.

    Args:
        task_id: of the Airflow task that this operator works for.
    """
    folder = os.environ.get("BMFLOW_POD_TEMPLATES", "")
    template = Path(folder, f"{order.stage.name}.yaml")
    if folder and template.is_file():
        spec: dict[str, Any] = {"pod_template_file": str(template), "cmds": order.command("python")}
    else:
        spec = {"pod_template_dict": backends.pod(order, os.environ)}
    return StagePod(
        task_id=task_id, name=f"bmflow-{order.stage.name}", namespace=os.environ.get("BMFLOW_NAMESPACE"), **spec, get_logs=True,
        log_events_on_failure=True, log_pod_spec_on_failure=False, on_finish_action="delete_pod", do_xcom_push=False,
        startup_timeout_seconds=int(os.environ.get("BMFLOW_POD_START_S", "600")), **settings,
    )  # fmt: skip
