"""What docs/cluster.md tells people to type works on the chart: its values render, and fit together with Airflow's chart."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rendered import CHART, INSTALLATIONS, ROOT, helm, installed, objects, yaml

PAGE = (ROOT / "docs" / "cluster.md").read_text()
OLDEST, NEWEST = "1.28", "1.37"


def example(first_line: str) -> dict[str, Any]:
    """Values of the indented block of the page that begins with a line."""
    blocks = (textwrap.dedent(block).strip("\n") for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE, re.MULTILINE))
    return yaml.safe_load(next(block for block in blocks if block.startswith(first_line)))


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_objects_are_valid_for_the_oldest_and_the_newest_cluster(installation: str, version: str) -> None:
    """From what Chart.yaml asks for to the newest whose schemas are at hand."""
    kubernetes = pytest.importorskip("kubernetes_validate", reason="the schemas of Kubernetes are not installed (extra chart)")
    assert f'kubeVersion: ">={OLDEST}.0-0"' in (CHART / "Chart.yaml").read_text()
    for item in installed(installation):
        kubernetes.validate(item, version, strict=True)


def test_the_smallest_installation_of_the_page_renders_to_valid_objects() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="the schemas of Kubernetes are not installed (extra chart)")
    found = objects(example("# values.yaml"))
    for item in found:
        kubernetes.validate(item, NEWEST, strict=True)
    (binding,) = [item for item in found if item["kind"] == "RoleBinding"]
    assert [(s["name"], s["namespace"]) for s in binding["subjects"]] == [("airflow-worker", "airflow")]


def test_the_page_delivers_every_dag_file_in_one_configmap() -> None:
    """`--set-file dags.files.NAME\\.py=FILE` for each of dags/; a ConfigMap holds a mebibyte."""
    files = {file.name: file.read_text() for file in (ROOT / "dags").glob("*.py")}
    assert "--set dags.delivery=configMap" in PAGE
    found = objects({"dags": {"delivery": "configMap", "files": files}})
    delivered = next(item for item in found if item["kind"] == "ConfigMap" and item["metadata"]["name"].endswith("-dags"))["data"]
    assert {name: text.strip() for name, text in delivered.items()} == {name: text.strip() for name, text in files.items()}
    assert sum(map(len, delivered.values())) < 2**20


@pytest.fixture(scope="module")
def with_dependency(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with a stand-in for Airflow's, which shows the values that it was given."""
    folder = tmp_path_factory.mktemp("chart") / "bmflow"
    shutil.copytree(CHART, folder, ignore=shutil.ignore_patterns("charts"))
    airflow = folder / "charts" / "airflow"
    (airflow / "templates").mkdir(parents=True)
    version = next(item["version"] for item in yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"])
    (airflow / "Chart.yaml").write_text(f"apiVersion: v2\nname: airflow\nversion: {version}\n")
    seen = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: seen}\ndata: {values: {{ .Values | toJson | quote }}}\n"
    (airflow / "templates" / "seen.yaml").write_text(seen)
    return folder


def rendered(folder: Path, values: dict[str, Any]) -> dict[str, str]:
    """Text by file name, for the release `bmflow` in the namespace of that name, as on the page."""
    with helm.Chart.load(folder) as chart:
        chart.validate_schema(values)
        return chart.render(values, name="bmflow", namespace="bmflow")


def test_airflow_comes_along_only_where_it_is_wanted(with_dependency: Path) -> None:
    assert not [name for name in rendered(with_dependency, {}) if "/charts/airflow/" in name]


def test_the_pages_values_of_airflow_name_what_the_release_makes(with_dependency: Path) -> None:
    """Its ConfigMaps, and the account of Airflow's workers in the Role's binding."""
    values = example("airflow:")
    texts = rendered(with_dependency, values)
    seen = json.loads(yaml.safe_load(texts["bmflow/charts/airflow/templates/seen.yaml"])["data"]["values"])
    assert {name: seen[name] for name in values["airflow"]} == values["airflow"]
    made = [item for name, text in texts.items() if name.startswith("bmflow/templates/") and name.endswith(".yaml")
            for item in yaml.safe_load_all(text) if item]  # fmt: skip
    maps = {item["metadata"]["name"] for item in made if item["kind"] == "ConfigMap"}
    wanted = {entry["configMapRef"]["name"] for entry in yaml.safe_load(seen["extraEnvFrom"])}
    assert wanted | {volume["configMap"]["name"] for volume in seen["volumes"]} <= maps
    (variables,) = [item["data"] for item in made if item["metadata"]["name"] == "bmflow-airflow"]
    assert variables["BMFLOW_POD_TEMPLATES"] == seen["volumeMounts"][0]["mountPath"]
    (binding,) = [item for item in made if item["kind"] == "RoleBinding"]
    assert "bmflow-airflow-worker" in {subject["name"] for subject in binding["subjects"]}
    assert "Airflow comes with this release" in texts["bmflow/templates/NOTES.txt"]
