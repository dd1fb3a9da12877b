"""The chart renders, is valid for Kubernetes, asks for as little as it may, and refuses values that cannot work."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rendered import (
    CHART,
    INSTALLATIONS,
    KUBERNETES,
    ROOT,
    helm,
    installed,
    objects,
    pods,
    policies_of,
    render,
    rules_of,
    stage_pod,
    values_of,
)

sys.path.insert(0, str(ROOT / "components"))
from bmflow_components.contracts import STAGES

SECRETS = {name for stage in STAGES for name in stage.secrets}
each_installation = pytest.mark.parametrize("installation", INSTALLATIONS)


@each_installation
def test_helm_finds_nothing_to_complain_about(installation: str, tmp_path: Path) -> None:
    """Linted without the dependency, whose absence is the only thing that Helm may say of the chart in the repository."""
    subprocess.run([sys.executable, ROOT / "scripts" / "chart", "--without-airflow", tmp_path], check=True, capture_output=True)
    found = helm.lint(tmp_path / "bmflow", values_of(installation), strict=True, kube_version=f"v{KUBERNETES}.0", namespace="team")
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"] if "icon" not in message["error"]] == []
    whole = helm.lint(CHART, values_of(installation), kube_version=f"v{KUBERNETES}.0", namespace="team")
    assert {message["error"] for message in whole["messages"]} == {
        "icon is recommended",
        "chart directory is missing these dependencies: airflow",
    }


@each_installation
def test_every_object_is_what_kubernetes_expects(installation: str) -> None:
    """Checked strictly against the published schemas: an unknown key is a fault."""
    kubernetes = pytest.importorskip("kubernetes_validate", reason="the schemas of Kubernetes are not installed (extra chart)")
    for item in installed(installation):
        kubernetes.validate(item, KUBERNETES, strict=True)


@each_installation
def test_objects_have_names_of_their_own(installation: str) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in installed(installation)]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name in names)


@each_installation
def test_no_right_reaches_beyond_the_namespace_or_is_a_wildcard(installation: str) -> None:
    found = installed(installation)
    assert not {item["kind"] for item in found} & {"ClusterRole", "ClusterRoleBinding", "Secret"}
    rules = [rule for item in found if item["kind"] == "Role" for rule in item["rules"]]
    assert not any("*" in rule["verbs"] + rule["resources"] + rule["apiGroups"] for rule in rules)
    assert {resource for rule in rules for resource in rule["resources"]} == {"pods", "pods/log", "events"}


@each_installation
def test_the_accounts_of_stages_have_neither_rights_nor_tokens(installation: str) -> None:
    found = installed(installation)
    bound = {subject["name"] for item in found if item["kind"] == "RoleBinding" for subject in item["subjects"]}
    for name, _, spec in pods(found):
        assert spec["serviceAccountName"] not in bound, name
        assert spec["automountServiceAccountToken"] is False, name


@each_installation
def test_every_pod_meets_the_restricted_security_level(installation: str) -> None:
    """The rules of the Pod Security Standards, level restricted, and two more: a read-only image, and limits on what is used."""
    found = list(pods(installed(installation)))
    assert len(found) >= len(STAGES)
    for name, _, spec in found:
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert {key for volume in spec["volumes"] for key in volume} <= {"name", "emptyDir", "persistentVolumeClaim"}, name
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert set(container["resources"]["requests"]) == set(container["resources"]["limits"]) == {"cpu", "memory"}, name


@each_installation
def test_no_manifest_holds_a_secret(installation: str) -> None:
    for name, _, spec in pods(installed(installation)):
        for variable in spec["containers"][0]["env"]:
            assert variable["name"] not in SECRETS or "valueFrom" in variable, f"{name}: {variable['name']}"


@each_installation
def test_every_pod_is_denied_all_traffic_but_what_policies_name(installation: str) -> None:
    found = installed(installation)
    for name, labels, _ in pods(found):
        assert policies_of(found, labels, "Ingress"), name
        assert policies_of(found, labels, "Egress"), name


@each_installation
def test_stages_without_network_reach_nothing_unless_runs_lie_in_an_object_store(installation: str) -> None:
    found, remote = installed(installation), values_of(installation).get("runRoot", {}).get("type") == "s3"
    for stage in STAGES:
        labels = stage_pod(found, stage.name)["metadata"]["labels"]
        assert bool(rules_of(found, labels, "Egress")) == (stage.network or remote), stage.name
        assert rules_of(found, labels, "Ingress") == [], stage.name


def test_mlflow_is_reached_by_the_stages_that_use_it_and_no_other() -> None:
    found = installed("minimal")
    server = next(labels for name, labels, _ in pods(found) if name == "Deployment/demo-bmflow-mlflow")
    (rule,) = rules_of(found, server, "Ingress")
    (peer,) = rule["from"]
    for stage in STAGES:
        labels = stage_pod(found, stage.name)["metadata"]["labels"]
        assert (peer["podSelector"]["matchLabels"].items() <= labels.items()) == ("MLFLOW_TRACKING_URI" in stage.env), stage.name
    assert rule["ports"] == [{"port": 5000, "protocol": "TCP"}]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_pods_have_what_the_list_of_stages_says(stage: Any) -> None:
    found = objects({"secrets": {"existingSecret": "bmflow"}})
    spec = stage_pod(found, stage.name)["spec"]
    (container,) = spec["containers"]
    assert container["name"] == "base"  # KubernetesPodOperator looks for this name
    assert container["image"] == f"bmflow/{stage.image.value}:0.1.0"
    assert container["command"] == ["python", "-m", "bmflow_components", stage.name]
    assert container["resources"]["limits"] == {"cpu": stage.resources.cpu, "memory": stage.resources.memory}
    assert spec["activeDeadlineSeconds"] == stage.resources.timeout_s
    assert {v["name"] for v in container["env"] if "valueFrom" in v} == set(stage.secrets)
    assert ("MLFLOW_TRACKING_URI" in {v["name"] for v in container["env"]}) == ("MLFLOW_TRACKING_URI" in stage.env)


def test_values_of_one_stage_win_for_that_stage_alone() -> None:
    found = installed("own-mlflow-pvc")
    train, deploy = (stage_pod(found, name)["spec"] for name in ("train", "deploy"))
    assert train["containers"][0]["resources"]["requests"] == {"cpu": "8", "memory": "16Gi"}
    assert train["activeDeadlineSeconds"] == 172800
    assert train["nodeSelector"] == {"pool": "training"}
    assert {"name": "OMP_NUM_THREADS", "value": "8"} in train["containers"][0]["env"]
    assert "nodeSelector" not in deploy
    assert "OMP_NUM_THREADS" not in {variable["name"] for variable in deploy["containers"][0]["env"]}


def test_an_object_store_replaces_the_volume() -> None:
    found = installed("external-mlflow-s3")
    assert "PersistentVolumeClaim" not in {item["kind"] for item in found}
    (container,) = stage_pod(found, "gate")["spec"]["containers"]
    env = {variable["name"]: variable for variable in container["env"]}
    assert env["BMFLOW_RUN_ROOT"]["value"] == "s3://bmflow/runs"
    assert env["AWS_ENDPOINT_URL"]["value"] == "https://objects.example.com"
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "bmflow"
    assert [mount["name"] for mount in container["volumeMounts"]] == ["tmp"]
    assert container["image"].startswith("images.example.com/team/bmflow/compiler@sha256:")


def test_one_variable_may_come_from_a_secret_of_its_own() -> None:
    (container,) = stage_pod(installed("external-mlflow-s3"), "register")["spec"]["containers"]
    sources = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in container["env"] if "valueFrom" in v}
    assert sources["MLFLOW_TRACKING_TOKEN"] == {"name": "mlflow-token", "key": "token", "optional": True}
    assert sources["AWS_ACCESS_KEY_ID"] == {"name": "bmflow", "key": "AWS_ACCESS_KEY_ID", "optional": True}


def test_airflow_is_told_where_everything_is() -> None:
    found = {item["metadata"]["name"]: item for item in installed("external-mlflow-s3") if item["kind"] == "ConfigMap"}
    told = found["demo-bmflow-airflow"]["data"]
    assert told["MLFLOW_TRACKING_URI"] == "https://mlflow.example.com"
    assert told["BMFLOW_NAMESPACE"] == "team"
    (bundle,) = json.loads(told["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert bundle["kwargs"] == {
        "repo_url": "https://git.example.com/team/bmflow.git", "tracking_ref": "v0.1.0", "subdir": "dags", "refresh_interval": 60,
    }  # fmt: skip


def test_dag_files_arrive_unchanged() -> None:
    text = '"""Wiring."""\n\nfor name in ("a", "b"):\n    print(f"{name}: {{ name }}")\n'
    found = objects({"dags": {"delivery": "configMap", "files": {"wiring.py": text}}})
    delivered = next(item for item in found if item["kind"] == "ConfigMap" and item["metadata"]["name"].endswith("-dags"))
    assert delivered["data"]["wiring.py"].strip() == text.strip()


def test_mlflow_knows_the_names_it_is_called_by() -> None:
    """MLflow answers 403 to host names that are not in its list."""
    found = installed("minimal")
    (told,) = [item["data"]["MLFLOW_TRACKING_URI"] for item in found if item["metadata"]["name"] == "demo-bmflow-airflow"]
    (server,) = [spec["containers"][0] for name, _, spec in pods(found) if name.startswith("Deployment/")]
    env = {variable["name"]: variable.get("value", "") for variable in server["env"]}
    assert told.removeprefix("http://") in env["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_notes_say_how_to_check_and_what_airflow_needs() -> None:
    notes = render({"runRoot": {"pvc": {"accessModes": ["ReadWriteOnce"]}}, "networkPolicy": {"enabled": False}})["NOTES.txt"]
    for words in ("helm test demo", "demo-bmflow-stages", "demo-bmflow-airflow", "not ReadWriteMany", "no NetworkPolicy was written"):
        assert words in notes


@dataclass(frozen=True)
class Refusal:
    """Values that cannot work, and what is said about them."""

    name: str
    values: dict[str, Any]
    says: str


REFUSALS = (
    Refusal("unknown section", {"mflow": {}}, r"additional properties 'mflow' not allowed"),
    Refusal("unknown key", {"mlflow": {"url": "http://x"}}, r"'/mlflow'.*additional properties 'url' not allowed"),
    Refusal("unknown key of a stage", {"stages": {"train": {"gpu": 1}}}, r"'/stages/train'.*'gpu' not allowed"),
    Refusal("wrong type", {"networkPolicy": {"enabled": "yes"}}, r"'/networkPolicy/enabled'.*got string, want boolean"),
    Refusal("wrong choice", {"runRoot": {"type": "nfs"}}, r"'/runRoot/type'.*'pvc', 's3'"),
    Refusal("no quantity", {"stages": {"train": {"memory": "lots"}}}, r"'/stages/train/memory'.*does not match"),
    Refusal("no digest", {"image": {"compiler": {"digest": "latest"}}}, r"'/image/compiler/digest'.*does not match"),
    Refusal("password in an address", {"mlflow": {"mode": "external", "uri": "https://me:secret@host"}}, r"'/mlflow/uri'.*does not match"),
    Refusal("egress that names nobody", {"networkPolicy": {"egress": {"mlflow": [{"ports": []}]}}}, r"missing property 'to'"),
    Refusal("unknown stage", {"stages": {"trian": {"cpu": "1"}}}, r"stages\.trian: there is no such stage; expected one of calibrate, "),
    Refusal("external MLflow without address", {"mlflow": {"mode": "external"}}, r"mlflow\.uri: expected the address"),
    Refusal("address that would be ignored", {"mlflow": {"uri": "http://host"}}, r"mlflow\.uri: given although mlflow\.mode is deploy"),
    Refusal("object store without address", {"runRoot": {"type": "s3"}}, r"runRoot\.s3\.uri: expected s3://bucket/prefix"),
    Refusal(
        "store that policies keep out of reach", {"runRoot": {"type": "s3", "s3": {"uri": "s3://b/p"}}},
        r"networkPolicy\.egress\.objectStore: expected at least one egress rule because runRoot\.type is s3",
    ),
    Refusal(
        "MLflow that policies keep out of reach", {"mlflow": {"mode": "external", "uri": "http://host"}},
        r"networkPolicy\.egress\.mlflow: expected at least one",
    ),
    Refusal("secret among values", {"stagePods": {"env": {"MLFLOW_TRACKING_TOKEN": "x"}}}, r"stagePods\.env\.MLFLOW_TRACKING_TOKEN: a secret "),
    Refusal("secret nobody takes", {"secrets": {"from": {"TOKEN": {"secret": "s", "key": "k"}}}}, r"secrets\.from\.TOKEN: no stage takes"),
    Refusal("no repository", {"dags": {"delivery": "gitSync"}}, r"dags\.git\.repository: expected the address"),
    Refusal("no DAG files", {"dags": {"delivery": "configMap"}}, r"dags\.files: expected DAG files"),
    Refusal("no command", {"cronJob": {"enabled": True, "command": []}}, r"cronJob\.command: expected a command"),
)  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_values_that_cannot_work_are_refused_with_the_place_and_what_to_do(case: Refusal) -> None:
    with pytest.raises(helm.HelmError, match=f"(?s){case.says}"):
        render(case.values)
