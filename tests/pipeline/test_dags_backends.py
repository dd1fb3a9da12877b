"""The same task as a process, a container and a pod: one command line, and no more of the machine than the stage asks for."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow_process import drive, environment, needs_airflow
from bmflow_components import contracts
from bmflow_components.airflow_dags import backends
from bmflow_components.airflow_dags.backends import Order
from bmflow_components.airflow_dags.run import RefusedError, settle

STAGES = [
    ("dataset", "dataset"), ("train", "train"), ("transform", "transform"), ("deploy[bm1684x/INT8]", "deploy"), ("evaluate_float", "evaluate"),
    ("gate[bm1684x]", "gate"), ("report", "report"), ("fetch[bm1684x]", "fetch"), ("register[bm1684x]", "register"),
]  # fmt: skip
SECRET = "hunter2-never-show"
KNOWN = {
    "PATH": "/usr/bin", "HOME": "/root", "AIRFLOW__CORE__FERNET_KEY": SECRET, "AIRFLOW_HOME": "/a", "AWS_SECRET_ACCESS_KEY": SECRET,
    "MLFLOW_TRACKING_PASSWORD": SECRET, "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "BMFLOW_USER": "ann",
    "BMFLOW_IMAGE_COMPILER": "localhost/compiler@sha256:1", "BMFLOW_IMAGE_TRAIN": "localhost/train@sha256:2",
}  # fmt: skip

BARE = {name: value for name, value in KNOWN.items() if name != "MLFLOW_TRACKING_URI"}


def order(name: str, root: Path, backend: str = "podman", **form: Any) -> Order:
    run = settle(
        contracts.pipeline("retrain_and_deploy"),
        {"backend": backend, "processors": ["bm1684x"], "precisions": ["F16", "INT8"], **form}, "one", str(root), {},
    )  # fmt: skip
    return Order(run, run.tasks[name], lambda task, port: True)


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_all_backends_run_the_same_words(name: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMFLOW_PYTHON", "/opt/python")
    local = backends.local_command(order(name, tmp_path))
    podman = backends.podman_command(order(name, tmp_path), KNOWN)
    pod = backends.pod(order(name, tmp_path), KNOWN)["spec"]["containers"][0]["command"]
    assert local[:4] == ["/opt/python", "-m", "bmflow_components", stage]
    assert podman[-len(local) :] == ["python", *local[1:]]
    assert pod == ["python", *local[1:]]


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_a_container_gets_what_the_list_of_stages_says(name: str, stage: str, tmp_path: Path) -> None:
    spec = contracts.stage(stage)
    words = backends.podman_command(order(name, tmp_path), KNOWN)
    assert {"--rm", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", f"--cpus={spec.resources.cpu}"} <= set(words)
    assert f"--network={'host' if spec.network else 'none'}" in words
    assert ("localhost/train@sha256:2" if stage == "train" else "localhost/compiler@sha256:1") in words
    base = f"{tmp_path}/retrain_and_deploy/one"
    own = f"{base}/{order(name, tmp_path).task.folder}"
    assert {f"--volume={base}:{base}:ro", f"--volume={own}:{own}:rw", f"--volume={tmp_path}/cache:{tmp_path}/cache:rw"} <= set(words)
    assert Path(own).is_dir()


def test_files_that_the_user_named_are_mounted_to_be_read(tmp_path: Path) -> None:
    model, repo = tmp_path / "model.onnx", tmp_path / "repo"
    model.write_bytes(b"x")
    repo.mkdir()
    words = backends.podman_command(order("train", tmp_path / "runs", model=str(model)), KNOWN)
    assert f"--volume={model}:{model}:ro" in words
    words = backends.podman_command(order("dataset", tmp_path / "runs", dataset_repo=str(repo)), KNOWN)
    assert f"--volume={repo}:{repo}:ro" in words


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_a_secret_reaches_only_the_stages_that_declare_it_and_never_a_command_line(name: str, stage: str, tmp_path: Path) -> None:
    spec = contracts.stage(stage)
    here = order(name, tmp_path)
    env = backends.environment(spec, here.run, KNOWN)
    assert {name for name, value in env.items() if value == SECRET} == {name for name in spec.secrets if name in KNOWN}
    assert not any(name.startswith("AIRFLOW") for name in env)
    assert SECRET not in " ".join([*backends.local_command(here), *backends.podman_command(here, KNOWN)])
    assert SECRET not in json.dumps(backends.pod(here, {**KNOWN, "BMFLOW_SECRET": "mlflow"}))


def test_the_store_of_processes_is_a_database_below_the_run_root_unless_the_environment_names_one(tmp_path: Path) -> None:
    here = order("register[bm1684x]", tmp_path, "local")
    assert backends.environment(here.stage, here.run, BARE)["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert backends.environment(here.stage, here.run, KNOWN)["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


def test_containers_without_a_server_of_mlflow_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"fetch\[bm1684x\] needs a server; set MLFLOW_TRACKING_URI to .* found nothing"):
        backends.check(order("fetch[bm1684x]", tmp_path).run, BARE)
    backends.check(order("fetch[bm1684x]", tmp_path).run, KNOWN)
    backends.check(order("fetch[bm1684x]", tmp_path, tracking_uri="http://127.0.0.1:5000").run, BARE)
    backends.check(order("fetch[bm1684x]", tmp_path, "local").run, BARE)


def test_a_node_selector_that_is_no_json_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="BMFLOW_NODE_SELECTOR: expected a JSON object"):
        backends.pod(order("gate[bm1684x]", tmp_path), {**KNOWN, "BMFLOW_NODE_SELECTOR": "disk=fast"})


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pod of every task of every pipeline, as KubernetesPodOperator builds it; it asks for a kubeconfig, which names no server."""
    folder = tmp_path_factory.mktemp("pods")
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "none", "users": [{"name": "none", "user": {}}],
        "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(json.dumps(config))
    settings = {
        "KUBECONFIG": str(folder / "kubeconfig"), "BMFLOW_NAMESPACE": "ml", "BMFLOW_CLAIM": "runs", "BMFLOW_SECRET": "mlflow",
        "BMFLOW_SERVICE_ACCOUNT": "stages", "BMFLOW_NODE_SELECTOR": '{"disk": "fast"}', "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "BMFLOW_IMAGE_COMPILER": "registry/compiler@sha256:1", "BMFLOW_IMAGE_TRAIN": "registry/train@sha256:2",
    }  # fmt: skip
    return drive(folder, "pods", env=environment(folder, **settings))


@needs_airflow
def test_every_pod_is_what_the_list_of_stages_says(pods: dict[str, Any]) -> None:
    for name, pod in pods.items():
        stage, spec = contracts.stage(pod["metadata"]["labels"]["bmflow/stage"]), pod["spec"]
        container = spec["containers"][0]
        assert container["command"][:4] == ["python", "-m", "bmflow_components", stage.name], name
        assert container["resources"]["limits"] == {"cpu": stage.resources.cpu, "memory": stage.resources.memory}
        assert container["image"] == f"registry/{stage.image.value}@sha256:{2 if stage.name == 'train' else 1}"
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert (spec["automountServiceAccountToken"], spec["serviceAccountName"], spec["nodeSelector"]) == (
            False,
            "stages",
            {"disk": "fast"},
        )
        assert spec["activeDeadlineSeconds"] == stage.resources.timeout_s
        assert pod["metadata"]["namespace"] == "ml"
        refs = {entry["name"] for entry in container["env"] if "valueFrom" in entry}
        assert refs == set(stage.secrets)


@needs_airflow
@pytest.mark.skipif(importlib.util.find_spec("kubernetes_validate") is None, reason="kubernetes-validate is not installed")
def test_every_pod_meets_the_schema_of_kubernetes(pods: dict[str, Any]) -> None:
    import kubernetes_validate

    for pod in pods.values():
        kubernetes_validate.validate(pod, "1.32", strict=True)


@needs_airflow
def test_the_charts_pod_template_is_used_where_there_is_one(tmp_path: Path) -> None:
    templates = tmp_path / "stages"
    templates.mkdir()
    for stage in contracts.STAGES:
        spec = {"containers": [{"name": "base", "image": f"chart/{stage.name}:1", "command": ["python"]}], "priorityClassName": "low"}
        (templates / f"{stage.name}.yaml").write_text(
            json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})
        )
    (tmp_path / "kubeconfig").write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "none", "users": [], "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "none", "context": {"cluster": "c", "user": ""}}],
    }))  # fmt: skip
    settings = {"KUBECONFIG": str(tmp_path / "kubeconfig"), "BMFLOW_POD_TEMPLATES": str(templates), "BMFLOW_NAMESPACE": "ml"}
    pods = drive(tmp_path, "pods", env=environment(tmp_path, **settings))
    pod = pods["promote.promote"]
    assert pod["spec"]["containers"][0]["image"] == "chart/promote:1"
    assert pod["spec"]["containers"][0]["command"][:4] == ["python", "-m", "bmflow_components", "promote"]
    assert pod["spec"]["priorityClassName"] == "low"


def test_the_python_that_runs_stages_is_this_one_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BMFLOW_PYTHON", raising=False)
    assert backends.local_command(order("gate[bm1684x]", tmp_path))[0] == sys.executable
