"""The list of stages and the pipelines: light, consistent, and the one source of command lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bmflow_components import contracts
from bmflow_components.contracts import PIPELINES, STAGES, Pipeline, Runs, Stage
from bmflow_components.pipelines import OUTSIDE, links
from bmflow_components.ports import RESULT

ROOT = Path(__file__).resolve().parents[3]
BY_NAME = {stage.name: stage for stage in STAGES}


def test_contracts_import_the_standard_library_alone_in_milliseconds() -> None:
    """A process that reads its files again and again, as orchestrators do, must not pay for numpy or any service's client."""
    code = (
        "import sys, time; t = time.perf_counter(); from bmflow_components import contracts; seconds = time.perf_counter() - t;"
        "roots = {name.partition('.')[0] for name in sys.modules};"
        "print(seconds, sorted(roots - set(sys.stdlib_module_names) - {'__main__', 'bmflow_components', '__mp_main__'}))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "components")}
    command = [sys.executable, "-S", "-E", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'components')!r}); {code}"]
    seconds, others = min(
        subprocess.run(command, env=env, text=True, capture_output=True, check=True).stdout.split(" ", 1) for _ in range(3)
    )
    assert others.strip() == "[]"
    assert float(seconds) < 0.2


def test_the_command_line_of_deploy_reads_as_people_type_it() -> None:
    """Inputs, outputs, changed parameters, result."""
    words = contracts.argv(
        BY_NAME["deploy"], {"mlir": "t/mlir", "table": "c/table"},
        {"bmodel": "o/m.bmodel", "similarity": "o/s.json", "estimate": "o/e.json"},
        {"quantize": "F16", "asymmetric": True, "processor": "bm1684x"}, "o/result.json",
    )  # fmt: skip
    assert " ".join(words) == (
        "python -m bmflow_components deploy --in-mlir t/mlir --in-table c/table --out-bmodel o/m.bmodel --out-similarity o/s.json "
        "--out-estimate o/e.json --quantize F16 --asymmetric true --result o/result.json"
    )


def test_an_input_of_many_is_repeated_and_templates_pass_through() -> None:
    """Orchestrators give texts that they fill in later."""
    words = contracts.argv(
        BY_NAME["gate"],
        {"candidates": ["a", "b"]},
        {"decision": "d", "note": "n"},
        {"processor": "{{ params.p }}"},
        "r",
        "/usr/bin/python3",
    )
    assert words == [
        "/usr/bin/python3", "-m", "bmflow_components", "gate", "--in-candidates", "a", "--in-candidates", "b", "--out-decision", "d",
        "--out-note", "n", "--processor", "{{ params.p }}", "--result", "r",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "outputs", "params", "message"),
    [
        ({"mlri": "x"}, {}, {}, "has no input mlri; it has dataset, mlir"),
        ({"mlir": "x", "dataset": "y"}, {"tables": "x"}, {}, "has no output tables; it has corrected, histograms, patterns, table"),
        ({"mlir": "x", "dataset": "y"}, {"table": "x", "patterns": "y"}, {"methods": "kl"}, "has no parameter methods"),
        ({"mlir": "x"}, {"table": "x", "patterns": "y"}, {}, "dataset, corrected, histograms missing"),
        ({"mlir": "x", "dataset": "y"}, {"table": "x"}, {}, "corrected, histograms, patterns missing"),
    ],
)
def test_wrong_ports_and_parameters_are_refused(
    inputs: dict[str, str], outputs: dict[str, str], params: dict[str, str], message: str
) -> None:
    """With the names that there are."""
    with pytest.raises(ValueError, match=message):
        contracts.argv(BY_NAME["calibrate"], inputs, outputs, params, "r")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_names_of_a_stage_are_unique_and_its_outputs_have_places_of_their_own(stage: Stage) -> None:
    """Ports and parameters share one space of names in Kubeflow Pipelines; files share a task's folder."""
    names = [item.name for item in (*stage.inputs, *stage.outputs, RESULT, *stage.params)]
    assert len(names) == len(set(names))
    assert all(name.isidentifier() for name in names)
    files = [port.file for port in (*stage.outputs, RESULT)]
    assert len(files) == len(set(files))
    assert not any(port.optional or port.many for port in stage.outputs)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_defaults_are_among_the_choices_and_survive_the_command_line(stage: Stage) -> None:
    """read(text(value)) == value."""
    for param in stage.params:
        assert param.read(param.text(param.default)) == param.default


def test_processors_are_those_that_the_compiler_has_a_description_of() -> None:
    """The list stands in two places because importing the compiler would cost what a parse may not."""
    assert set(contracts.PROCESSORS) == {path.stem for path in (ROOT / "compiler/bmflow/target").glob("*.toml")}


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_every_link_joins_an_output_to_an_input_that_takes_it(pipeline: Pipeline) -> None:
    """Names, kinds, folders, order of nodes, and inputs of many where links gather."""
    before: set[str] = set()
    given = {port.name: port for port in pipeline.inputs}
    for node in pipeline.nodes:
        stage = BY_NAME[node.stage]
        for name, source, output in links(node):
            port = stage.input(name)
            if source == OUTSIDE:
                found = given[output]
            else:
                assert source in before, f"{node.name} takes from {source}, which comes later"
                made = pipeline.node(source)
                found = RESULT if output == RESULT.name else BY_NAME[made.stage].output(output)
                assert port.many or set(made.over) <= set(node.over), f"{node.name}.{name} gathers but takes one"
            assert (found.kind, found.folder) == (port.kind, port.folder), f"{node.name}.{name}"
        assert {port.name for port in stage.inputs if not port.optional} <= set(node.inputs)
        assert set(node.needs) <= set(node.inputs)
        assert set(node.params) <= {param.name for param in stage.params}
        before.add(node.name)


def test_a_run_is_expanded_to_tasks_that_share_and_gather() -> None:
    """Two processors, two number types, and a search for the mixed ones alone."""
    tasks = {
        t.name: t for t in contracts.expand(contracts.pipeline("compile_and_deploy"), ["bm1684x", "bm1688"], ["INT8", "MIXED"], ["model"])
    }
    assert [name for name in tasks if name.startswith("qtable")] == ["qtable[bm1684x/MIXED]", "qtable[bm1688/MIXED]"]
    assert "qtable" not in tasks["deploy[bm1688/INT8]"].inputs
    assert tasks["deploy[bm1688/MIXED]"].inputs["qtable"] == (("qtable[bm1688/MIXED]", "qtable"),)
    assert tasks["deploy[bm1688/MIXED]"].params == {"processor": "bm1688", "quantize": "MIXED"}
    assert tasks["deploy[bm1688/MIXED]"].folder == "deploy/bm1688-MIXED"
    assert tasks["gate[bm1684x]"].inputs["candidates"] == (("evaluate[bm1684x/INT8]", "metrics"), ("evaluate[bm1684x/MIXED]", "metrics"))
    assert len(tasks["report"].inputs["candidates"]) == 4
    assert "given_detector" not in tasks["transform"].inputs


def test_nodes_left_out_take_along_what_cannot_do_without_them() -> None:
    """Without the registry there is no champion to evaluate, but still a gate."""
    left = contracts.without(contracts.pipeline("compile_and_deploy"), ["fetch", "register"])
    names = [node.name for node in left.nodes]
    assert "evaluate_champion" not in names
    assert "champion" not in left.node("gate").inputs
    assert left.node("report").runs is Runs.ALWAYS
    assert "evaluate_champion.metrics" not in " ".join(" ".join(node.inputs.values()) for node in left.nodes)


def test_settings_are_named_by_stage_and_shared_ones_stand_alone() -> None:
    """Fixed parameters and axes are no settings; a pipeline has defaults of its own."""
    settings = {setting.name: setting for setting in contracts.pipeline("retrain_and_deploy").settings()}
    assert settings["transform_pixel_format"].param.default == "rgb"
    assert settings["evaluate_iou"].stages == ("evaluate",)
    assert set(settings["model_name"].stages) == {"transform", "fetch", "report", "register"}
    assert not {"deploy_quantize", "deploy_processor", "evaluate_label", "fetch_which"} & set(settings)
    assert "train_epochs" in settings


@pytest.mark.parametrize(
    ("stage", "code", "said", "expected"),
    [
        ("deploy", 0, None, False),
        ("deploy", 1, None, False),
        ("deploy", 1, True, True),
        ("deploy", 2, True, False),
        ("gate", 3, True, False),
        ("deploy", -9, None, True),
        ("deploy", 137, None, True),
        ("register", 1, None, True),
        ("register", 1, False, False),
        ("register", 2, None, False),
    ],
)
def test_only_failures_of_the_machinery_are_tried_again(stage: str, code: int, said: bool | None, expected: bool) -> None:
    """Never bad input, a compile error or a missed bar."""
    assert contracts.may_retry(BY_NAME[stage], code, said) is expected
