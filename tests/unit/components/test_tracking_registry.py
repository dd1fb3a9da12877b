"""Versions, aliases, promotion and rollback, with a record that shows when somebody changed it."""

# ruff: noqa: E402
# (imports after the skip)

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed; install the extra `mlflow`")

from bmflow import artifacts
from bmflow.errors import InputError
from bmflow_components.tracking import flavor, registry
from bmflow_components.tracking.__main__ import main
from bmflow_components.tracking.card import Card
from bmflow_components.tracking.registration import register
from bmflow_components.tracking.registry import CHALLENGER, CHAMPION, Version
from bmflow_components.tracking.runs import RunRecord, log_run
from bmflow_components.tracking.store import Store
from tracking_store import registration, shared_store, small_bmodel


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model for this test alone."""
    return request.node.name.replace("[", "-").replace("]", "")[:60]


def add(name: str, *scales: float) -> list[Version]:
    """Register one version for each scale."""
    store = shared_store()
    run = log_run(store, RunRecord("run", f"run of {name}"))
    return [register(store, run, registration(name, f"{name} {scale}", scale, tags={"bmflow.chip": "bm1684x"})) for scale in scales]


def record_file(name: str) -> Path:
    """Where the record lies on disk."""
    store = shared_store()
    run = store.client.get_run(store.client.get_registered_model(name).tags["bmflow.audit.run"])
    return Path(run.info.artifact_uri.removeprefix("file://")) / "promotions.jsonl"


def test_a_new_version_waits_as_challenger_with_digest_figures_and_card(name: str) -> None:
    (version,) = add(name, 0.1)
    assert version.aliases == (CHALLENGER,)
    assert version.sha256 == artifacts.sha256_file(small_bmodel(0.1))
    assert version.metrics == {"int8/map": 0.1}
    assert version.tags["bmflow.chip"] == "bm1684x"
    text = shared_store().client.get_model_version(name, version.number).description
    assert text.startswith("# shapes for BM1684X, INT8")


def test_registering_the_same_work_again_makes_no_second_version(name: str) -> None:
    first, again, other = add(name, 0.1, 0.1, 0.2)
    assert (first.number, again.number, other.number) == ("1", "1", "2")


def test_promotion_moves_the_alias_and_writes_an_event(name: str) -> None:
    add(name, 0.1, 0.2)
    event = registry.promote(shared_store(), name, "1", "anna", "first")
    assert (event.number, event.old, event.new, event.who, event.reason, event.metrics) == (1, "", "1", "anna", "first", {"int8/map": 0.1})
    second = registry.promote(shared_store(), name, CHALLENGER, "anna", "better")
    assert (second.number, second.old, second.new, second.previous) == (2, "1", "2", event.sha256)
    assert {v.number: v.aliases for v in registry.versions(shared_store(), name)} == {"1": (), "2": (CHAMPION,)}
    tags = registry.get_version(shared_store(), name, "2").tags
    assert tags["bmflow.promotion.000002"].endswith(second.sha256)
    assert len(record_file(name).read_text().splitlines()) == 2


def test_promoting_again_changes_nothing(name: str) -> None:
    add(name, 0.1)
    first = registry.promote(shared_store(), name, "1")
    assert registry.promote(shared_store(), name, "1") == first
    assert len(registry.history(shared_store(), name)) == 1


def test_a_run_repeated_after_a_rollback_does_not_undo_it(name: str) -> None:
    add(name, 0.1, 0.2)
    registry.promote(shared_store(), name, "1", key="run-1")
    registry.promote(shared_store(), name, "2", key="run-2")
    registry.rollback(shared_store(), name, reason="bad")
    registry.promote(shared_store(), name, "2", key="run-2")
    champion = registry.find_version(shared_store(), name)
    assert champion is not None
    assert champion.number == "1"


def test_rollbacks_go_further_back_each_time(name: str) -> None:
    add(name, 0.1, 0.2, 0.3)
    for number in "123":
        registry.promote(shared_store(), name, number)
    assert [registry.rollback(shared_store(), name, reason="bad").new for _ in range(2)] == ["2", "1"]
    with pytest.raises(InputError, match="nothing to go back to; version 1 is the only champion so far"):
        registry.rollback(shared_store(), name)


def test_a_rollback_to_a_version_that_never_was_champion_is_refused(name: str) -> None:
    add(name, 0.1, 0.2, 0.3)
    for number in "13":
        registry.promote(shared_store(), name, number)
    with pytest.raises(InputError, match="version 2 was not champion before version 3; choose from 1"):
        registry.rollback(shared_store(), name, "2")


def test_unknown_models_and_versions_are_named_with_what_there_is(name: str) -> None:
    add(name, 0.1)
    with pytest.raises(InputError, match=f"no such registered model .* did you mean {name}"):
        registry.promote(shared_store(), name[:-1])
    with pytest.raises(InputError, match="has no version 7; it has the versions 1"):
        registry.promote(shared_store(), name, "7")
    with pytest.raises(InputError, match="never had a champion"):
        registry.rollback(shared_store(), name)


def test_a_changed_record_stops_everything(name: str) -> None:
    add(name, 0.1, 0.2)
    registry.promote(shared_store(), name, "1", "anna")
    file = record_file(name)
    file.write_text(file.read_text().replace("anna", "otto"))
    for act in (registry.history, registry.rollback, registry.promote):
        with pytest.raises(InputError, match="line 1: the record was changed after it was written"):
            act(shared_store(), name)


def test_a_record_cut_short_is_noticed_even_with_its_head_tag_put_back(name: str) -> None:
    add(name, 0.1, 0.2)
    first = registry.promote(shared_store(), name, "1")
    registry.promote(shared_store(), name, "2")
    file = record_file(name)
    file.write_text(first.line())
    with pytest.raises(InputError, match="cut short or replaced: expected event 2"):
        registry.history(shared_store(), name)
    shared_store().client.set_registered_model_tag(name, "bmflow.audit.count", "1")
    shared_store().client.set_registered_model_tag(name, "bmflow.audit.head", first.sha256)
    with pytest.raises(InputError, match="lacks the event that version 2 is marked with"):
        registry.history(shared_store(), name)


def test_a_promotion_that_died_after_the_record_is_completed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add(name, 0.1, 0.2)
    registry.promote(shared_store(), name, "1")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_apply", die)
        with pytest.raises(KeyboardInterrupt):
            registry.promote(shared_store(), name, "2", key="k")
    assert "by the record version 2 is champion, but the alias says 1" in registry.drifted(shared_store(), name)
    assert registry.promote(shared_store(), name, "2", key="k").number == 2
    assert registry.drifted(shared_store(), name) == ""


def test_an_alias_moved_by_hand_is_shown(name: str) -> None:
    add(name, 0.1, 0.2)
    registry.promote(shared_store(), name, "1")
    shared_store().client.set_registered_model_alias(name, CHAMPION, "2")
    assert "the alias says 2" in registry.drifted(shared_store(), name)


def test_promotions_at_the_same_time_are_written_one_after_the_other(name: str) -> None:
    add(name, 0.1, 0.2, 0.3)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: registry.promote(shared_store(), name, number), "123"))
    events = registry.history(shared_store(), name)
    assert [e.number for e in events] == [1, 2, 3]
    assert {e.new for e in events} == {"1", "2", "3"}
    assert registry.drifted(shared_store(), name) == ""


def test_a_lock_left_by_a_process_that_died_is_broken_after_a_while(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add(name, 0.1)
    shared_store().client.create_registered_model(f"{name}.changing", {"bmflow.holder": "nobody"})
    monkeypatch.setattr(registry, "_STALE_S", -1.0)
    assert registry.promote(shared_store(), name, "1").number == 1


def test_the_champion_is_fetched_with_its_digest_checked(name: str, tmp_path: Path) -> None:
    add(name, 0.1)
    registry.promote(shared_store(), name, "1")
    fetched = registry.fetch(shared_store(), name, CHAMPION, tmp_path)
    assert fetched.bmodel.read_bytes() == small_bmodel(0.1).read_bytes()
    assert fetched.detector is None


@pytest.mark.parametrize("thorough", [False, True])
def test_a_bmodel_altered_in_the_registry_is_refused(name: str, tmp_path: Path, thorough: bool) -> None:
    (version,) = add(name, 0.1)
    registry.promote(shared_store(), name, "1")
    stored = _stored(shared_store(), version)
    shutil.copy(small_bmodel(0.9), stored / "model.bmodel")
    if thorough:  # the attacker also puts the digest in MLmodel right
        text = (stored / "MLmodel").read_text().replace(version.sha256, artifacts.sha256_file(small_bmodel(0.9)))
        (stored / "MLmodel").write_text(text)
    with pytest.raises(InputError, match="was altered after it was registered"):
        registry.fetch(shared_store(), name, CHAMPION, tmp_path)
    with pytest.raises(InputError, match="was altered after it was registered"):
        flavor.load_model(f"models:/{name}@{CHAMPION}")


def test_a_registered_model_loads_by_alias_as_a_pyfunc(name: str) -> None:
    add(name, 0.1)
    registry.promote(shared_store(), name, "1")
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    assert loaded.metadata.flavors["bmodel"]["chip"] == "BM1684X"


def _stored(store: Store, version: Version) -> Path:
    model = store.client.get_logged_model(version.source.removeprefix("models:/"))
    return Path(model.artifact_location.removeprefix("file://"))


def test_the_command_line_shows_promotes_rolls_back_and_fetches(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(name, 0.1, 0.2)
    place = ["--store", shared_store().uri]
    assert main(["promote", name, "--version", "1", "--reason", "first", "--who", "anna", *place]) == 0
    assert main(["promote", name, "--reason", "better", *place]) == 0
    assert main(["rollback", name, "--reason", "misses rings", *place]) == 0
    capsys.readouterr()
    assert main(["history", name, "--json", *place]) == 0
    assert [(e["action"], e["to"], e["reason"]) for e in json.loads(capsys.readouterr().out)] == [
        ("promote", "1", "first"), ("promote", "2", "better"), ("rollback", "1", "misses rings"),
    ]  # fmt: skip
    assert main(["show", name, *place]) == 0
    assert "champion" in capsys.readouterr().out
    assert main(["fetch", name, "--to", str(tmp_path), *place]) == 0
    assert main(["rollback", name, "--reason", "x", *place]) == 2
    assert "nothing to go back to" in capsys.readouterr().err


def test_a_card_fits_a_description_and_hides_secrets() -> None:
    card = Card(
        "shapes", "BM1684X", "INT8", "finds shapes", ["images 1x3x320x320 float32"], classes=[f"c{k}" for k in range(80)],
        accuracy=[("mAP50-95", 0.82, 0.8)], data={"evaluation": "dvc://me:hunter22@host/x"}, limits=["none " * 50] * 40, command="x --token abc123",
    )  # fmt: skip
    text = card.markdown()
    assert len(text) <= 5000
    assert "| mAP50-95 | 0.8200 | 0.8000 | -0.0200 |" in text
    assert "hunter22" not in text + card.json()
    assert json.loads(card.json())["classes"][79] == "c79"
