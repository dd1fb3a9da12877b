"""Single steps on small inputs: passing a network on, no champion yet, MIXED without a table, bad texts, the gate's files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bmflow.driver.search import Kind
from bmflow.driver.search_map import Labels
from bmflow.errors import InputError
from bmflow.evaluation.detections import Detections
from bmflow.evaluation.spec import METADATA_KEY, DetectorSpec
from bmflow_components import contracts, detections, example_data, split
from bmflow_components.job import Job
from bmflow_components.steps import deploy, evaluate, gate, qtable, train, transform
from onnx import TensorProto, helper

SPEC = {
    "schema": 1, "family": "yolov5", "pad_value": 114, "classes": [{"id": 1, "name": "cat"}],
    "anchors": {"8": [[8, 8]], "16": [[16, 16]], "32": [[32, 32]]},
}  # fmt: skip
EVALUATION = {"digest": "d", "pictures": 2, "settings": "s"}


def job(folder: Path, name: str, inputs: dict[str, Any] | None = None, **params: Any) -> Job:
    """What the process would hand to a step; inputs are paths or lists of paths."""
    stage = contracts.stage(name)
    given = {port: tuple(paths) if isinstance(paths, list) else (paths,) for port, paths in (inputs or {}).items()}
    (folder / "out").mkdir(exist_ok=True)
    outputs = {port.name: folder / "out" / port.file for port in stage.outputs}
    return Job(stage, given, outputs, {**stage.defaults(), **params}, folder, folder)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """An ONNX file that carries a detector's description."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])]
    )
    model = helper.make_model(graph)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(SPEC)})
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_given_network_is_passed_on_with_the_description_it_carries(tmp_path: Path, network: Path) -> None:
    """Same bytes, classes of its metadata, no figures of a training that did not happen."""
    work = job(tmp_path, "train", {"given_model": network})
    outcome = train.run(work)
    assert work.output("model").read_bytes() == network.read_bytes()
    assert DetectorSpec.load(work.output("detector")).names == ("cat",)
    assert json.loads(work.output("metrics").read_text()) == {"schema": 1, "trained": False, "metrics": {}}
    assert work.output("curves").read_text() == "epoch\n"
    assert outcome.metrics == {}


def test_no_champion_yet_is_a_measurement_that_says_so(tmp_path: Path) -> None:
    """And a gate that takes it compares with none."""
    (tmp_path / "champion").mkdir()
    (tmp_path / "champion/champion.json").write_text('{"schema": 1, "found": false}')
    work = job(tmp_path, "evaluate", {"champion": tmp_path / "champion"}, label="champion")
    evaluate.run(work)
    assert json.loads(work.output("metrics").read_text())["measured"] is False
    assert json.loads((work.output("worst") / "worst.json").read_text())["pictures"] == []
    assert detections.load(work.output("detections")) == {}
    judged = job(tmp_path, "gate", {
        "candidates": [measured(tmp_path, "a")], "float": measured(tmp_path, "float"), "champion": work.output("metrics"),
    })  # fmt: skip
    assert gate.run(judged).verdict == ""
    assert json.loads(judged.output("decision").read_text())["champion"] is None


@pytest.mark.parametrize("given", [[], ["model", "bmodel"]])
def test_exactly_one_network_is_evaluated(tmp_path: Path, network: Path, given: list[str]) -> None:
    """None and two are refused."""
    with pytest.raises(InputError, match="expected one of --in-model, --in-bmodel, --in-champion, found"):
        evaluate.run(job(tmp_path, "evaluate", dict.fromkeys(given, network)))


def test_mixed_needs_a_table(tmp_path: Path) -> None:
    """Before anything is read."""
    with pytest.raises(InputError, match="--quantize MIXED needs --in-qtable"):
        deploy.run(job(tmp_path, "deploy", {"mlir": tmp_path}, quantize="MIXED"))


def dataset(folder: Path, **counts: int) -> Path:
    """Pictures of the example with their record."""
    made = example_data.generate(folder, example_data.DatasetOptions(train=0, size=64, **counts))
    split.inspect(made.folder, {}).save(made.folder / split.FILE)
    return made.folder


def test_a_search_of_number_types_takes_its_settings_and_the_pictures_set_aside_for_it(tmp_path: Path) -> None:
    """mAP decides where the dataset has a set search, which neither calibrates nor evaluates; without one noise does."""
    data = dataset(tmp_path / "data", calibration=1, evaluation=1, search=1)
    inputs = {"mlir": tmp_path, "table": tmp_path / "table", "dataset": data, "detector": tmp_path / "detector.json"}
    work = job(tmp_path, "qtable", inputs, max_cycles=1.25, map_drop=0.02, patterns="none", asymmetric=True, target=0.9)
    found = qtable._options(work)
    assert (found.kind, found.max_cycles, found.expected_cos, found.asymmetric) == (Kind.PARETO, 1.25, 0.9, True)
    assert found.calibrate.patterns == ()
    assert found.calibrate.dataset == str(data / "images/calibration")
    files = (str(data / "images/search"), str(data / "annotations/search.json"), str(tmp_path / "detector.json"))
    assert found.labels == Labels(*files, drop=0.02)
    plain = qtable._options(job(tmp_path, "qtable", inputs | {"dataset": dataset(tmp_path / "two", calibration=1, evaluation=1)}))
    assert (plain.labels, plain.max_cycles, plain.calibrate.patterns) == (None, 0.0, ("yolo", "softmax"))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"input_shapes": "1,3,8,8"}, "--input_shapes 1,3,8,8: expected lists of whole numbers"),
        ({"scale": "1,x,1"}, "--scale 1,x,1: expected numbers separated by commas"),
        ({"tolerance": "0.9"}, "--tolerance 0.9: expected two numbers"),
    ],
)
def test_texts_that_hold_numbers_are_checked(tmp_path: Path, params: dict[str, str], message: str) -> None:
    """The parameter and what it should be."""
    readers = {
        "input_shapes": lambda text: transform._shapes(text),
        "scale": lambda text: transform._numbers(job(tmp_path, "transform", scale=text), "scale"),
        "tolerance": lambda text: transform.similarity.bounds(text, "tolerance"),
    }
    [(name, text)] = params.items()
    with pytest.raises(InputError, match=message):
        readers[name](text)


def measured(folder: Path, label: str, **changes: Any) -> Path:
    """A metrics file as evaluate writes it."""
    content = {
        "schema": 1, "measured": True, "label": label, "processor": "bm1684x", "quantize": "INT8",
        "network": {"sha256": hashlib.sha256(label.encode()).hexdigest(), "bytes": 10, "kind": "bmodel"}, "evaluation": EVALUATION,
        "accuracy": {"map": 0.5, "map50": 0.8, "map75": 0.5, "per_class": {"cat": 0.5}}, "cost": {"size_bytes": 10, "milliseconds": 1.0}, **changes,
    }  # fmt: skip
    path = folder / f"{label.replace('/', '-')}.json"
    path.write_text(json.dumps(content))
    return path


def test_the_gate_judges_its_own_processor_and_leaves_a_record_and_a_page(tmp_path: Path) -> None:
    """A faster candidate of another processor does not count."""
    fast = measured(tmp_path, "other", processor="bm1688", cost={"milliseconds": 0.1})
    work = job(
        tmp_path, "gate", {"candidates": [fast, measured(tmp_path, "mine")], "float": measured(tmp_path, "float")}, processor="bm1684x"
    )
    outcome = gate.run(work)
    decision = json.loads(work.output("decision").read_text())
    assert decision["chosen"] == {
        "label": "mine", "processor": "bm1684x", "quantize": "INT8", "sha256": hashlib.sha256(b"mine").hexdigest()
    }  # fmt: skip
    assert outcome.facts["chosen"] == "mine"
    assert work.output("note").read_text().startswith("# Passed: bm1684x\n\nmine is taken: it meets every bar")


def test_a_gate_without_the_float_network_refuses_unless_told_otherwise(tmp_path: Path) -> None:
    """And then says what it did not judge."""
    with pytest.raises(InputError, match="no measurement of the float network"):
        gate.run(job(tmp_path, "gate", {"candidates": [measured(tmp_path, "a")]}))
    work = job(tmp_path, "gate", {"candidates": [measured(tmp_path, "a")]}, require_float=False)
    gate.run(work)
    [candidate] = json.loads(work.output("decision").read_text())["candidates"]
    assert candidate["notes"] == ["drops against the float network are not judged: it was not measured"]


def test_detections_survive_their_file(tmp_path: Path) -> None:
    """To a thousandth of a pixel and a millionth of a score."""
    found = Detections(np.array([[1.23456, 2, 3, 4]], np.float32), np.array([0.1234567], np.float32), np.array([2], np.int64))
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    detections.save(tmp_path / "d.json", {7: found, 9: empty}, ("a", "b", "c"))
    back = detections.load(tmp_path / "d.json")
    assert np.allclose(back[7].boxes, found.boxes, atol=1e-3)
    assert np.allclose(back[7].scores, found.scores, atol=1e-6)
    assert list(back[7].classes) == [2]
    assert back[9].boxes.shape == (0, 4)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2}', '{"schema": 1, "pictures": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    """Not JSON, not an object, another schema, other fields."""
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(InputError, match=r"d\.json"):
        detections.load(tmp_path / "d.json")
