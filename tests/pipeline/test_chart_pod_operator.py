"""The chart's pod templates as Airflow's KubernetesPodOperator takes them: what the chart secured stays so, the command is the task's."""

from __future__ import annotations

from pathlib import Path

import pytest
from rendered import KUBERNETES, installed, stage_pod, yaml

operators = pytest.importorskip("airflow.providers.cncf.kubernetes.operators.pod", reason="Airflow is not installed (extra airflow)")

KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: 'http://127.0.0.1:9'}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
"""


@pytest.mark.parametrize("stage", ["train", "register"])
def test_the_operator_keeps_what_the_template_says(stage: str, tmp_path: Path) -> None:
    """The operator wants a kubeconfig even to build a pod; nothing is contacted."""
    template = stage_pod(installed("own-mlflow-pvc"), stage)
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(template))
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    command = ["python", "-m", "bmflow_components", stage, "--result", "/runs/result.json"]
    operator = operators.KubernetesPodOperator(
        task_id=stage, name=f"bmflow-{stage}", namespace="team", pod_template_file=str(tmp_path / "pod.yaml"), cmds=command,
        config_file=str(tmp_path / "kubeconfig"), do_xcom_push=False,
    )  # fmt: skip
    client = pytest.importorskip("kubernetes.client", reason="the client of Kubernetes is not installed (extra airflow)")
    built = client.ApiClient().sanitize_for_serialization(operator.build_pod_request_obj())
    spec, wanted = built["spec"], template["spec"]
    (container,) = spec["containers"]
    assert container["command"] == command
    for key in ("image", "resources", "securityContext", "volumeMounts", "env"):
        assert container[key] == wanted["containers"][0][key], key
    kept = ("securityContext", "serviceAccountName", "automountServiceAccountToken", "activeDeadlineSeconds", "volumes", "restartPolicy")
    assert {key: spec[key] for key in kept} == {key: wanted[key] for key in kept}
    assert (spec.get("nodeSelector") or {}) == wanted.get("nodeSelector", {})
    assert template["metadata"]["labels"].items() <= built["metadata"]["labels"].items()
    kubernetes = pytest.importorskip("kubernetes_validate", reason="the schemas of Kubernetes are not installed (extra chart)")
    kubernetes.validate(built, KUBERNETES, strict=True)
