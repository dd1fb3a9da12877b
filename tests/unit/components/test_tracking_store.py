"""Calls to MLflow end: done, refused, too slow, or given up after the server was gone too long."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed; install the extra `mlflow`")

import requests
from bmflow.errors import InputError
from bmflow_components.tracking.store import Patience, Store, TrackingError, is_gone

QUICK = Patience(gone_s=0.5, call_s=5, pause_s=0.02, longest_pause_s=0.05)


def store(patience: Patience = QUICK) -> Store:
    return Store("http://user:pw-1234@127.0.0.1:9", None, patience=patience)


def test_a_server_that_comes_back_is_asked_again() -> None:
    attempts: list[float] = []

    def call() -> str:
        attempts.append(time.monotonic())
        if len(attempts) < 4:
            raise requests.exceptions.ConnectionError("refused")
        return "done"

    assert store().call("ask", call) == "done"
    pauses = [b - a for a, b in pairwise(attempts)]
    assert pauses[0] >= 0.02
    assert pauses[1] >= 0.04  # doubled


def test_a_server_gone_for_good_ends_with_exit_code_1_and_says_what_is_safe() -> None:
    began = time.monotonic()
    with pytest.raises(
        TrackingError, match=r"did not answer for 0.5 s .*to list.*: .*outputs of the stages are on disk; run this stage again"
    ) as caught:
        store().call("list the runs", store().client.search_experiments)
    assert caught.value.exit_code == 1
    assert "pw-1234" not in str(caught.value)
    assert time.monotonic() - began < 30


def test_a_call_that_hangs_is_given_up() -> None:
    release = threading.Event()
    with pytest.raises(TrackingError, match=r"took longer than 0\.1 s to wait"):
        store(Patience(call_s=0.1)).call("wait", release.wait)
    release.set()


def test_a_refusal_is_not_repeated() -> None:
    attempts: list[int] = []

    def refuse() -> None:
        attempts.append(1)
        raise ValueError("no such thing\nand more")

    with pytest.raises(TrackingError, match=r"refused to ask: no such thing$"):
        store().call("ask", refuse)
    assert len(attempts) == 1


@pytest.mark.parametrize(("code", "gone"), [(429, True), (500, False), (502, True), (503, True), (400, False), (404, False)])
def test_overload_is_waited_for_and_errors_are_not(code: int, gone: bool) -> None:
    response = requests.Response()
    response.status_code = code
    assert is_gone(requests.exceptions.HTTPError("x", response=response)) is gone


def test_an_absence_is_recognised_below_the_error_that_wraps_it() -> None:
    error = RuntimeError("cannot")
    assert not is_gone(error)
    error.__cause__ = requests.exceptions.ConnectTimeout("slow")
    assert is_gone(error)


def test_the_default_store_is_sqlite_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = Store.open(root=tmp_path)
    assert (opened.uri, opened.artifacts) == (f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts")


def test_the_environment_names_another_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("BMFLOW_MLFLOW_PATIENCE_S", "7.5")
    assert (Store.open().uri, Store.open().artifacts, Store.open().patience.gone_s) == ("http://127.0.0.1:5000", None, 7.5)


def test_another_kind_of_address_is_refused_without_its_password() -> None:
    with pytest.raises(InputError, match=r"mysql://\*\*\*@db/x: expected sqlite") as caught:
        Store.open("mysql://me:hunter22@db/x")
    assert "hunter22" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write here"):
        _ = Store.open(f"sqlite:///{tmp_path}/file/mlflow.db").client
