"""The stages that speak to MLflow: register, fetch, promote, rollback; logged once however often they run, and never what did not pass."""

# ruff: noqa: E402
# (imports after the skip)

from __future__ import annotations

import json
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed; install the extra `mlflow`")

from bmflow import artifacts
from bmflow.errors import InputError
from bmflow_components import documents
from bmflow_components.job import Job
from bmflow_components.steps import fetch, promote, register, rollback
from bmflow_components.tracking import registry
from bmflow_components.tracking.dataset_source import DvcDatasetSource
from stage_files import Made, candidate, decision, job, metrics, result, split
from tracking_store import SPEC, detector_files, folder, shared_store


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A network's name for this test alone."""
    return request.node.name.replace("[", "-").replace("]", "")[:50]


@pytest.fixture
def made(tmp_path: Path) -> list[Made]:
    """Two candidates."""
    _, f32, f16 = detector_files()
    return [candidate(tmp_path / "c", "F32", 0.0, f32, 1.2), candidate(tmp_path / "c", "F16", 0.02, f16, 0.6)]


def request(folder: Path, model: str, made: list[Made], chosen: str = "bm1684x/F32", **params: object) -> Job:
    names = ("decision", "float", "split", "training")
    files = {name: folder / f"{name}.json" for name in names}
    documents.write(files["decision"], decision(made, chosen))
    documents.write(files["float"], metrics("float", "F32", 0.0, None))
    documents.write(files["split"], split())
    documents.write(files["training"], {"trained": True, "metrics": {"epochs": 3.0}})
    (folder / "detector.json").write_text(SPEC.text())
    (folder / "curves.csv").write_text("epoch,loss/box,map50\n1,0.5,0.1\n2,0.25,0.4\n")
    (folder / "report.html").write_text("<p>report</p>")
    transform = folder / "transform.json"
    transform.write_text(
        result("transform", {"pixel_format": "rgb", "mean": "0,0,0", "db_password": "hunter22"}, {"mlir": files["split"]}).json()
    )
    inputs = {
        **{name: [path] for name, path in files.items()}, "bmodels": [item.bmodel for item in made], "candidates": [item.metrics for item in made],
        "similarities": [item.similarity for item in made], "worst": [item.worst for item in made], "detector": [folder / "detector.json"],
        "curves": [folder / "curves.csv"], "report": [folder / "report.html"], "results": [transform, *(item.result for item in made)],
    }  # fmt: skip
    return job(folder, "register", inputs, {"model_name": model, "tracking_uri": shared_store().uri, "experiment": "stages", **params})


def record(of: Job) -> dict:
    return json.loads(of.output("record").read_text())


def test_the_run_and_its_candidates_are_logged_and_the_chosen_one_is_champion(tmp_path: Path, model: str, made: list[Made]) -> None:
    work = request(tmp_path, model, made, who="anna")
    outcome = register.run(work)
    found, client = record(work), shared_store().client
    assert (outcome.metrics, found["version"], found["promoted"], found["note"]) == ({"promoted": 1.0}, "1", True, "version 1 is champion")
    parent = client.get_run(found["run_id"])
    assert parent.data.metrics == {
        "fp32/map": 0.6, "fp32/map50": 0.8, "fp32/map75": 0.7, "fp32/class/circle": 0.7, "fp32/class/ring": 0.5, "train/epochs": 3.0,
        "train/loss/box": 0.25, "train/map50": 0.4,
    }  # fmt: skip
    assert [point.value for point in client.get_metric_history(parent.info.run_id, "train/loss/box")] == [0.5, 0.25]
    assert parent.data.params["transform.pixel_format"] == "rgb"
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} >= {"report.html", "split.json", "results", "decisions"}
    child = client.get_run(found["candidates"][artifacts.sha256_file(made[1].bmodel)])
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.metrics["f16/map"] == pytest.approx(0.58)
    assert child.data.metrics["delta/map"] == pytest.approx(-0.02)
    assert child.data.metrics["cost/milliseconds"] == 0.6
    assert child.data.params["deploy.quantize"] == "F16"
    assert child.data.tags["bmflow.bmodel.sha256"] == artifacts.sha256_file(made[1].bmodel)
    assert {item.path for item in client.list_artifacts(child.info.run_id)} >= {"metrics.json", "similarity_by_layer.json", "worst"}
    event = registry.history(shared_store(), f"{model}-bm1684x")[0]
    assert (event.who, event.new, event.reason) == ("anna", "1", "bm1684x/F32 is taken: it meets every bar")


def test_datasets_are_logged_with_their_dvc_address(tmp_path: Path, model: str, made: list[Made]) -> None:
    work = request(tmp_path, model, made)
    register.run(work)
    used = shared_store().client.get_run(record(work)["run_id"]).inputs.dataset_inputs
    assert {item.dataset.name for item in used} == {f"{model}-calibration", f"{model}-evaluation"}
    source = DvcDatasetSource.from_dict(json.loads(used[0].dataset.source))
    assert (source.path, source.rev, source.md5) == ("data/shapes", "c0ffee" * 6, "5d" * 16)


def test_a_registered_detector_finds_boxes_and_says_where_it_comes_from(tmp_path: Path, model: str, made: list[Made]) -> None:
    work = request(tmp_path, model, made)
    register.run(work)
    loaded = mlflow.pyfunc.load_model(f"models:/{model}-bm1684x@champion")
    assert "class_name" in loaded.predict(loaded.input_example).columns
    facts = loaded.metadata.flavors["bmodel"]
    assert facts["preprocess"] == {"pixel_format": "rgb", "mean": "0,0,0"}
    assert facts["digests"]["calibration_table"] == "7a" * 32
    card = shared_store().client.get_model_version(f"{model}-bm1684x", "1").description
    assert "| mAP50-95 | 0.6000 | 0.6000 | +0.0000 |" in card
    assert "finds 3 classes: circle, square, star" in card


def test_running_again_finds_everything_and_makes_nothing(tmp_path: Path, model: str, made: list[Made]) -> None:
    first, second = request(tmp_path, model, made), request(tmp_path, model, made)
    register.run(first)
    before = record(first)
    register.run(second)
    assert record(second) == before
    store = shared_store()
    experiment = store.client.get_experiment_by_name("stages").experiment_id
    assert len(store.client.search_runs([experiment], f"tags.`bmflow.model` = '{model}'")) == 1
    assert len(registry.versions(store, f"{model}-bm1684x")) == 1
    assert len(registry.history(store, f"{model}-bm1684x")) == 1


def test_what_did_not_pass_is_logged_but_never_registered(tmp_path: Path, model: str, made: list[Made]) -> None:
    work = request(tmp_path, model, made, "")
    register.run(work)
    assert (record(work)["version"], record(work)["promoted"]) == ("", False)
    assert len(record(work)["candidates"]) == 2
    assert registry.versions(shared_store(), f"{model}-bm1684x") == []


def test_a_version_waits_when_it_is_not_to_be_promoted(tmp_path: Path, model: str, made: list[Made]) -> None:
    register.run(request(tmp_path, model, made, promote=False))
    (version,) = registry.versions(shared_store(), f"{model}-bm1684x")
    assert version.aliases == ("challenger",)


def test_a_version_that_somebody_took_back_is_not_promoted_by_itself_again(tmp_path: Path, model: str, made: list[Made]) -> None:
    register.run(request(tmp_path, model, made, "bm1684x/F16"))
    register.run(request(tmp_path, model, made, "bm1684x/F32"))
    name = f"{model}-bm1684x"
    registry.rollback(shared_store(), name, who="anna", reason="misses rings")
    again = request(tmp_path, model, made, "bm1684x/F32", run_name="another run")
    documents.write(again.input("decision"), decision(made, "bm1684x/F32", notes=["next week"]))
    register.run(again)
    assert record(again)["promoted"] is False
    assert "was taken back on" in record(again)["note"]
    assert "by anna (misses rings)" in record(again)["note"]
    champion = registry.find_version(shared_store(), name)
    assert champion is not None
    assert champion.number == "1"


def test_decision_and_candidates_of_different_runs_are_refused(tmp_path: Path, model: str, made: list[Made]) -> None:
    work = request(tmp_path, model, made)
    named = {"label": "bm1684x/F32", "sha256": "9" * 64}
    documents.write(work.input("decision"), decision(made, "bm1684x/F32") | {"chosen": named})
    with pytest.raises(InputError, match="is not among the candidates bm1684x/F16, bm1684x/F32"):
        register.run(work)


def test_no_secret_reaches_mlflow(tmp_path: Path, model: str, made: list[Made]) -> None:
    register.run(request(tmp_path, model, made))
    database = folder() / "store" / "mlflow.db"
    assert b"hunter22" not in database.read_bytes()


def test_the_champion_is_fetched_as_the_stage_evaluate_takes_it(
    tmp_path: Path, model: str, made: list[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the current folder of a stage is a temporary one
    register.run(request(tmp_path, model, made))
    work = job(tmp_path / "fetch", "fetch", {}, {"model_name": model, "tracking_uri": shared_store().uri})
    fetch.run(work)
    place = work.output("champion")
    known = documents.read(place / "champion.json", "")
    assert (known["found"], known["version"], known["quantize"]) == (True, "1", "F32")
    assert known["since"].endswith("Z")
    assert artifacts.sha256_file(place / "model.bmodel") == known["sha256"]
    assert (place / "detector.json").read_text() == SPEC.text()


def test_no_champion_is_no_error_unless_one_is_required(tmp_path: Path, model: str) -> None:
    work = job(tmp_path, "fetch", {}, {"model_name": model, "tracking_uri": shared_store().uri})
    fetch.run(work)
    assert documents.read(work.output("champion") / "champion.json", "")["found"] is False
    with pytest.raises(InputError, match="no such registered model"):
        fetch.run(job(tmp_path, "fetch", {}, {"model_name": model, "tracking_uri": shared_store().uri, "required": True}))


def test_promotion_and_rollback_by_hand_need_a_reason_and_leave_the_event(tmp_path: Path, model: str, made: list[Made]) -> None:
    register.run(request(tmp_path, model, made, "bm1684x/F16"))
    register.run(request(tmp_path, model, made, "bm1684x/F32", promote=False))
    place = {"model_name": model, "tracking_uri": shared_store().uri}
    with pytest.raises(InputError, match="--reason is empty"):
        promote.run(job(tmp_path, "promote", {}, place))
    work = job(tmp_path, "promote", {}, {**place, "reason": "field test", "who": "anna"})
    promote.run(work)
    promoted = record(work)
    assert (promoted["action"], promoted["from"], promoted["to"], promoted["who"]) == ("promote", "1", "2", "anna")
    back = job(tmp_path, "rollback", {}, {**place, "reason": "bad"})
    rollback.run(back)
    assert (record(back)["to"], record(back)["previous"]) == ("1", promoted["sha256"])
