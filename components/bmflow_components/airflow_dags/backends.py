"""The same command line as a process, as a container of podman, and as a pod. The standard library alone."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from bmflow_components import contracts
from bmflow_components.airflow_dags.run import Ready, RefusedError, Run, is_remote
from bmflow_components.pipelines import Task
from bmflow_components.ports import Image, Stage

USER = 65532
_UNITS = {"Ki": "k", "Mi": "m", "Gi": "g"}
_SECRETS = frozenset(name for stage in contracts.STAGES for name in stage.secrets)
_OURS = ("AIRFLOW", "_AIRFLOW")


@dataclass(frozen=True)
class Order:
    """A task that may start."""

    run: Run
    task: Task
    ready: Ready

    @property
    def stage(self) -> Stage:
        """The stage it runs."""
        return self.task.stage

    def command(self, python: str) -> list[str]:
        """Its command line.

        Raises:
            RefusedError: what it needs is not there.
        """
        return self.run.command(self.task, self.ready, python)


def environment(stage: Stage, run: Run, known: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process: no secret but the stage's own, nothing of Airflow's."""
    kept = {name: value for name, value in known.items() if not name.startswith(_OURS) and (name not in _SECRETS or name in stage.secrets)}
    return {**kept, **tracking(stage, run, known), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def tracking(stage: Stage, run: Run, known: Mapping[str, str]) -> dict[str, str]:
    """The store of runs and models: what the environment names; for processes by default a database below the run root."""
    if "MLFLOW_TRACKING_URI" not in stage.env:
        return {}
    default = f"sqlite:///{run.root}/mlflow/mlflow.db" if run.backend == "local" and not is_remote(run.root) else ""
    uri = known.get("MLFLOW_TRACKING_URI") or default
    return {"MLFLOW_TRACKING_URI": uri} if uri else {}


def check(run: Run, known: Mapping[str, str]) -> None:
    """Say before anything has run what its end would fail by.

    Raises:
        RefusedError: containers would need a database of MLflow, but images hold MLflow's client alone.
    """
    users = [task for task in run.tasks.values() if "MLFLOW_TRACKING_URI" in task.stage.env]
    uri = str(run.settings.get("tracking_uri") or known.get("MLFLOW_TRACKING_URI", ""))
    if users and run.backend == "podman" and not uri.startswith(("http://", "https://")):
        raise RefusedError(
            f"backend {run.backend}: the images hold MLflow's client alone, so {users[0].name} needs a server; set MLFLOW_TRACKING_URI to "
            f"http(s)://... (scripts/up starts one on this machine), found {uri or 'nothing'}"
        )


def secret_values(stage: Stage, known: Mapping[str, str]) -> tuple[str, ...]:
    """What must not be shown."""
    return tuple(known[name] for name in stage.secrets if known.get(name))


def local_command(order: Order) -> list[str]:
    """The command line for a process: BMFLOW_PYTHON, by default the Python that runs this."""
    return order.command(os.environ.get("BMFLOW_PYTHON") or sys.executable)


def image(target: Image, known: Mapping[str, str]) -> str:
    """The image of a target: BMFLOW_IMAGE_COMPILER and BMFLOW_IMAGE_TRAIN, by default what `scripts/image build` makes.

    Raises:
        RefusedError: neither is known.
    """
    name = f"BMFLOW_IMAGE_{target.value.upper()}"
    if known.get(name):
        return known[name]
    try:
        return f"localhost/bmflow/{target.value}:{metadata.version('bmflow')}"
    except metadata.PackageNotFoundError:
        raise RefusedError(f"{name} is not set, and bmflow is not installed here, so its version is not known; set {name}") from None


def container_name(order: Order) -> str:
    """Name of the container of a task; at most one of that name runs."""
    text = f"bmflow-{order.run.pipeline}-{order.run.name}-{order.task.folder}"
    return re.sub(r"[^a-zA-Z0-9.-]+", "-", text)


def podman_command(order: Order, known: Mapping[str, str]) -> list[str]:
    """`podman run` of a task: nothing of the machine but the files it needs, no network unless the stage has it.

    Secrets are named only; podman takes their values from its own environment.
    """
    stage = order.stage
    network = known.get("BMFLOW_PODMAN_NETWORK") or "host" if stage.network else "none"
    plain = {name: known[name] for name in stage.env if known.get(name)} | tracking(stage, order.run, known)
    user = [f"--user={os.getuid()}:{os.getgid()}", *(["--userns=keep-id"] if os.getuid() else [])]
    return [
        "podman", "run", "--rm", f"--name={container_name(order)}", "--pull=missing", "--read-only", "--cap-drop=all",
        "--security-opt=no-new-privileges", "--tmpfs=/tmp:rw,mode=1777", f"--network={network}", *user,
        f"--cpus={stage.resources.cpu}", f"--memory={_podman_memory(stage.resources.memory)}", "--stop-timeout=3",
        *(f"--env={name}={value}" for name, value in plain.items()), *(f"--env={name}" for name in stage.secrets if known.get(name)),
        *(f"--volume={path}:{path}:{mode}" for path, mode in _volumes(order).items()),
        image(stage.image, known), *order.command("python"),
    ]  # fmt: skip


def _podman_memory(text: str) -> str:
    unit = _UNITS.get(text[-2:])
    return text[:-2] + unit if unit else text


def _volumes(order: Order) -> dict[str, str]:
    """Folders and files to mount at their own place: the run to read, the task's own folder and the cache to write."""
    if is_remote(order.run.root):
        return {}
    own = f"{order.run.folder}/{order.task.folder}"
    found = dict.fromkeys(_readable(order), "ro") | {order.run.folder: "ro", own: "rw"}
    if order.run.cache:
        found[order.run.cache] = "rw"
    for path, mode in found.items():
        if mode == "rw":
            Path(path).mkdir(parents=True, exist_ok=True)
    return found


def _readable(order: Order) -> Iterable[str]:
    """Files that the user named, in inputs and in settings."""
    named = [order.run.given[name] for sources in order.task.inputs.values() for task, name in sources if task == ""]
    named += [value for value in order.run.params(order.task).values() if isinstance(value, str) and value.startswith("/")]
    paths = (path.removeprefix("file://") for path in named)
    return [path for path in paths if not is_remote(path) and Path(path).exists()]


def pod(order: Order, known: Mapping[str, str]) -> dict[str, Any]:
    """The pod of a task as plain values.

    The environment describes the cluster where the chart's own templates (BMFLOW_POD_TEMPLATES) do not: BMFLOW_NAMESPACE,
    BMFLOW_SERVICE_ACCOUNT, BMFLOW_CLAIM (volume claim of the run root), BMFLOW_SECRET (its keys are variable names),
    BMFLOW_NODE_SELECTOR (JSON).
    """
    stage, memory = order.stage, order.stage.resources.memory
    limits = {"cpu": stage.resources.cpu, "memory": memory}
    claim = known.get("BMFLOW_CLAIM", "")
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, *([{"name": "runs", "mountPath": order.run.root}] if claim else [])]
    volumes = [{"name": "tmp", "emptyDir": {}}, *([{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}] if claim else [])]
    container = {
        "name": "base", "image": image(stage.image, known), "command": order.command("python"), "env": _pod_env(order, known),
        "resources": {"requests": limits, "limits": limits}, "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
        },
    }  # fmt: skip
    spec = {
        "automountServiceAccountToken": False, "enableServiceLinks": False, "restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
        "activeDeadlineSeconds": stage.resources.timeout_s, "containers": [container], "volumes": volumes,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"},
        },
    }  # fmt: skip
    if known.get("BMFLOW_SERVICE_ACCOUNT"):
        spec["serviceAccountName"] = known["BMFLOW_SERVICE_ACCOUNT"]
    if known.get("BMFLOW_NODE_SELECTOR"):
        spec["nodeSelector"] = _selector(known["BMFLOW_NODE_SELECTOR"])
    labels = {"app.kubernetes.io/name": "bmflow", "app.kubernetes.io/component": "stage", "bmflow/stage": stage.name,
              "bmflow/network": str(stage.network).lower()}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"bmflow-{stage.name}", "labels": labels}, "spec": spec}


def _pod_env(order: Order, known: Mapping[str, str]) -> list[dict[str, Any]]:
    stage, secret = order.stage, known.get("BMFLOW_SECRET", "")
    plain = {"HOME": "/tmp"} | {name: known[name] for name in stage.env if known.get(name)}
    secrets = [{"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name, "optional": True}}} for name in stage.secrets]
    return [*({"name": name, "value": value} for name, value in plain.items()), *(secrets if secret else [])]


def _selector(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise RefusedError(f'BMFLOW_NODE_SELECTOR: expected a JSON object of texts such as {{"disk": "fast"}}, found {text}')
    return found
