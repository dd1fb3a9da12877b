"""What the chart takes from elsewhere is what it is there, and everything it can be told is explained. Needs no Helm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "bmflow"


def test_stages_and_readme_of_the_chart_are_current() -> None:
    result = subprocess.run([sys.executable, ROOT / "scripts" / "chart", "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_check_names_what_is_stale(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("charts", "components", "compiler"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "charts").unlink()
    chart = tmp_path / "charts" / "bmflow"
    (chart / "files").mkdir(parents=True)
    (chart / "values.yaml").write_text("## Names: how.\n# -- a name\nname: x\n")
    script = tmp_path / "scripts" / "chart"
    script.write_text((ROOT / "scripts" / "chart").read_text())
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "charts/bmflow/files/stages.yaml is not what scripts/chart writes" in result.stderr


def test_every_value_is_explained() -> None:
    """Each key of values.yaml with a value of its own has a line `# --`, which the README shows."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (extra chart)")
    shown = set(re.findall(r"^\| `([\w.]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE))

    def leaves(value: object, path: tuple[str, ...]) -> list[str]:
        name = ".".join(path)
        if name in shown or not isinstance(value, dict) or not value:
            return [name]
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]

    told = {leaf for key, value in yaml.safe_load((CHART / "values.yaml").read_text()).items() for leaf in leaves(value, (key,))}
    assert told - {"stages"} == shown


def test_the_schema_closes_every_section_but_those_of_others() -> None:
    """`global` and `airflow` belong to Helm and to the other chart; an affinity is Kubernetes' own."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    open_ones: list[str] = []

    def walk(node: object, path: str) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and "additionalProperties" not in node:
                open_ones.append(path)
            for key, inner in node.items():
                walk(inner, key if key not in ("properties", "items", "definitions") else path)
        elif isinstance(node, list):
            for inner in node:
                walk(inner, path)

    walk(schema, "")
    assert sorted(set(open_ones)) == ["affinity", "airflow", "global", "objects"]


def test_chart_and_distribution_have_one_version() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project
    definition = (CHART / "Chart.yaml").read_text()
    assert f"\nversion: {project[1]}\n" in definition
    assert f"\nappVersion: {project[1]}\n" in definition


def test_a_chart_without_the_dependency_can_be_made(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "chart"), "--without-airflow", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert "dependencies" not in (tmp_path / "bmflow" / "Chart.yaml").read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "is there already" in again.stderr
