"""The chart rendered by Helm's own SDK, and what Kubernetes would make of it: objects, pods, the traffic that policies let through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "bmflow"
KUBERNETES = "1.32"
INSTALLATIONS = tuple(sorted(path.stem for path in (CHART / "ci").glob("*.yaml")))
Object = dict[str, Any]

helm = pytest.importorskip("helm_python", reason="Helm's SDK is not installed (extra chart)")
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (extra chart)")


def values_of(installation: str) -> Object:
    """Values of one of charts/bmflow/ci."""
    return yaml.safe_load((CHART / "ci" / f"{installation}.yaml").read_text())


def render(values: Mapping[str, Any]) -> dict[str, str]:
    """Text by file name of templates/; HelmError when Helm refuses."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(dict(values))
        texts = chart.render(dict(values), name="demo", namespace="team")
    return {name.removeprefix("bmflow/templates/"): text for name, text in texts.items()}


def objects(values: Mapping[str, Any]) -> list[Object]:
    """Every object of a rendered chart; the pods of stages, which a ConfigMap holds as texts, come as objects too."""
    found = [item for name, text in render(values).items() if name != "NOTES.txt" for item in yaml.safe_load_all(text) if item]
    return [*found, *(yaml.safe_load(text) for text in _find(found, "ConfigMap", "-stages")["data"].values())]


@cache
def installed(installation: str) -> tuple[Object, ...]:
    """Objects of one of charts/bmflow/ci."""
    return tuple(objects(values_of(installation)))


def _find(found: list[Object], kind: str, ending: str) -> Object:
    return next(item for item in found if item["kind"] == kind and item["metadata"]["name"].endswith(ending))


def stage_pod(found: tuple[Object, ...] | list[Object], stage: str) -> Object:
    """The pod of a stage."""
    return next(item for item in found if item["kind"] == "Pod" and item["metadata"]["labels"].get("bmflow/stage") == stage)


def pods(found: tuple[Object, ...] | list[Object]) -> Iterator[tuple[str, Mapping[str, str], Object]]:
    """(name, labels, spec) of every pod that the objects are or would start."""
    for item in found:
        template: Object | None = None
        if item["kind"] == "Pod":
            template = item
        elif item["kind"] == "Deployment":
            template = item["spec"]["template"]
        elif item["kind"] == "CronJob":
            template = item["spec"]["jobTemplate"]["spec"]["template"]
        if template:
            yield f"{item['kind']}/{item['metadata']['name']}", template["metadata"]["labels"], template["spec"]


def policies_of(found: tuple[Object, ...], labels: Mapping[str, str], direction: str) -> list[Object]:
    """NetworkPolicies that choose a pod in a direction, `Ingress` or `Egress`."""
    chosen = [
        item for item in found if item["kind"] == "NetworkPolicy" and item["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    ]
    return [item for item in chosen if direction in item["spec"]["policyTypes"]]


def rules_of(found: tuple[Object, ...], labels: Mapping[str, str], direction: str) -> list[Object]:
    """What they let through together."""
    return [rule for policy in policies_of(found, labels, direction) for rule in policy["spec"].get(direction.lower(), [])]
