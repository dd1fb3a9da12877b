"""What a compiled pipeline has to know of the cluster it runs on: images, the claim that its tasks share, secrets, nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bmflow.errors import InputError

from bmflow_components import contracts
from bmflow_components.component_yaml import image_of
from bmflow_components.ports import Stage

USER = 65532
"""Who owns the files of images and runs."""
_TOLERATION = re.compile(r"^(?P<key>[^=:]+)(=(?P<value>[^:]*))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?$")
_CREDENTIALS = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_CONSTANT = {"HOME": "/tmp", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


@dataclass(frozen=True)
class Cluster:
    """The cluster's side of a compiled pipeline.

    Attributes:
        registry: of images, such as `registry.example.com/team`.
        claim: volume claim that every task mounts: the folders of runs, and finished work by content. That of the chart, so that runs of
            Airflow find the work of runs of Kubeflow done, and the other way round.
        mount: where it is mounted.
        secret: its keys are the names of the variables that stages take from secrets; a missing key, or secret, is no error.
        env: variables that are no secrets; a stage gets those that it names.
        node_selector: labels that nodes must have.
        tolerations: `key`, `key:effect` or `key=value:effect`.
        parallel: most rounds of a loop at once, 0 for no limit.
    """

    registry: str = ""
    claim: str = "bmflow-runs"
    mount: str = "/runs"
    secret: str = "bmflow"
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerations: Sequence[str] = ()
    parallel: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not work, and secrets that would stand in the file.

        Raises:
            InputError: with what was expected.
        """
        if not self.claim:
            raise InputError("--claim: expected the name of a volume claim; the report gathers what tasks leave there, whatever failed")
        if not self.mount.startswith("/") or self.mount.endswith("/"):
            raise InputError(f"--mount {self.mount}: expected an absolute path without a slash at its end")
        known = {name for stage in contracts.STAGES for name in stage.env}
        for name, value in self.env.items():
            if any(name in stage.secrets for stage in contracts.STAGES):
                raise InputError(
                    f"--env {name}: this is a secret, which must not stand in a pipeline; put it into the secret {self.secret}"
                )
            if name not in known:
                raise InputError(f"--env {name}: no stage takes it; expected one of {', '.join(sorted(known))}")
            if _CREDENTIALS.search(value):
                raise InputError(
                    f"--env {name}: an address with a password in it would stand in the pipeline; use the secret {self.secret}"
                )
        for text in self.tolerations:
            _toleration(text)

    def image(self, stage: Stage) -> str:
        """The image that a stage runs in."""
        return image_of(stage, self.registry)

    def variables(self, stage: Stage) -> dict[str, str]:
        """Environment variables of a stage that are no secrets."""
        return _CONSTANT | {name: self.env[name] for name in stage.env if name in self.env}

    def executor(self, stage: Stage) -> dict[str, object]:
        """What kfp-kubernetes calls KubernetesExecutorConfig: volume, secrets, nodes, time limit."""
        found: dict[str, object] = {
            "activeDeadlineSeconds": str(stage.resources.timeout_s),
            "podMetadata": {"labels": {"bmflow/stage": stage.name}},
            "securityContext": {"runAsGroup": str(USER), "runAsNonRoot": True, "runAsUser": str(USER)},
            "pvcMount": [{"constant": self.claim, "mountPath": self.mount, "pvcNameParameter": _constant(self.claim)}],
        }
        if self.secret and stage.secrets:
            keys = [{"envVar": name, "secretKey": name} for name in stage.secrets]
            found["secretAsEnv"] = [
                {"keyToEnv": keys, "optional": True, "secretName": self.secret, "secretNameParameter": _constant(self.secret)}
            ]
        if self.node_selector:
            found["nodeSelector"] = {"labels": dict(self.node_selector)}
        if self.tolerations:
            found["tolerations"] = [_toleration(text) for text in self.tolerations]
        return found


def _constant(text: str) -> dict[str, object]:
    return {"runtimeValue": {"constant": text}}


def _toleration(text: str) -> dict[str, str]:
    found = _TOLERATION.match(text)
    if not found:
        raise InputError(f"--toleration {text}: expected key, key:effect or key=value:effect, such as npu=true:NoSchedule")
    parts = {"key": found["key"], "operator": "Exists" if found["value"] is None else "Equal"}
    parts |= {"value": found["value"]} if found["value"] is not None else {}
    return parts | ({"effect": found["effect"]} if found["effect"] else {})
