"""Files that follow from the list of stages: equal to what is generated, and read by the tools they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
from bmflow_components import derived, yaml_text

ROOT = Path(__file__).resolve().parents[2]
FILES = derived.files()


@pytest.mark.parametrize("path", sorted(FILES))
def test_a_derived_file_is_what_the_list_of_stages_gives(path: str) -> None:
    """Run scripts/generate after a change of the list."""
    assert (ROOT / path).is_file(), "run scripts/generate"
    assert (ROOT / path).read_text() == FILES[path], "run scripts/generate"


def test_yaml_text_is_read_back_as_the_same_values() -> None:
    """Against PyYAML, with words that YAML takes for something else."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; install the extra `pipeline`")
    value = {
        "plain": "abc/d-e.f", "words": ["yes", "no", "null", "1", "1.5", "0x1", "on", "~", "- a", "a: b", "a #b", "", " x", "é"],
        "numbers": [1, 2.5, -3, True, None], "nested": [{"a": {"b": [1, {"c": "d"}]}, "e": "f"}], "none": [], "empty": {},
        "on": {"x:y": "'quoted' \"twice\"", "${item}": "${a.b}"},
    }  # fmt: skip
    assert yaml.safe_load(yaml_text.dump(value)) == value
    assert yaml.safe_load(yaml_text.dump({"a": {"folded": "one two\n--three\n--four"}})) == {"a": {"folded": "one two --three --four"}}


@pytest.mark.parametrize("path", sorted(path for path in FILES if path.endswith("component.yaml")))
def test_kubeflow_reads_each_component(path: str) -> None:
    """kfp loads it, and every field is one of the published message."""
    yaml = pytest.importorskip("yaml")
    kfp = pytest.importorskip("kfp", reason="kfp is not installed; install the extra `kfp`")
    from google.protobuf import json_format
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

    spec = json_format.ParseDict(yaml.safe_load(FILES[path]), PipelineSpec())
    loaded = kfp.components.load_component_from_file(str(ROOT / path))
    assert loaded.component_spec.name == spec.pipeline_info.name == Path(path).parent.name
    [executor] = json_format.MessageToDict(spec)["deploymentSpec"]["executors"].values()
    assert executor["container"]["command"][:3] == ["python", "-m", "bmflow_components"]


def test_every_dependency_of_dvc_is_an_output_before_it_or_lies_in_the_repository() -> None:
    """And every parameter is in params.yaml."""
    yaml = pytest.importorskip("yaml")
    stages, params = yaml.safe_load(FILES["dvc.yaml"])["stages"], yaml.safe_load(FILES["params.yaml"])
    made: set[str] = set()
    for stage in stages.values():
        for path in stage["deps"]:
            assert path in made or (ROOT / path).exists() or path.startswith("examples/")
        for name in stage.get("params", []):
            value = params
            for part in name.split("."):
                value = value[part]
        outputs = [*stage.get("outs", []), *stage.get("metrics", [])]
        assert not made & set(outputs)
        made |= set(outputs)


def test_dvc_itself_reads_the_file() -> None:
    """Its own schema, interpolation and graph."""
    pytest.importorskip("dvc", reason="DVC is not installed; install the extra `dvc`")
    from dvc.repo import Repo

    repo = Repo(str(ROOT))
    names = {stage.addressing for stage in repo.index.stages}
    assert {"dataset", "transform", "deploy-bm1684x-INT8", "gate-bm1684x"} <= names
    repo.close()


def test_plots_of_dvc_have_numbers_on_both_axes() -> None:
    """Its templates of lines draw nothing where an axis holds names; without `x` they count the rows."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; it comes with every extra of the pipeline")
    plots = [settings for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"] for settings in plot.values()]
    assert {(settings["template"], settings.get("x"), settings["y"]) for settings in plots} == {("simple", None, "cosine")}
