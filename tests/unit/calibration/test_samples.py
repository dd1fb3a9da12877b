"""Which samples are chosen, and the batches made of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from bmflow import artifacts
from bmflow.calibration.methods import Method
from bmflow.calibration.ordered import in_order
from bmflow.calibration.samples import Entry, Loader, from_folder, from_list
from bmflow.calibration.sweep import collect, first_batches
from bmflow.errors import InputError
from bmflow.ir.module import Module, ModuleBuilder

PICTURE = {"pixel_format": "gray", "mean": [0.0], "scale": [1.0]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network(batch: int = 1, picture: bool = True) -> Module:
    builder = ModuleBuilder("net", "ONNX")
    return builder.finish([builder.input("x", (batch, 1, 2, 2), PICTURE if picture else None)])


def pictures(values: range, where: str = "data") -> list[str]:
    Path(where).mkdir(parents=True, exist_ok=True)
    for value in values:
        cv2.imwrite(f"{where}/{value:03}.png", np.full((2, 2), value, np.uint8))
    return [f"{where}/{value:03}.png" for value in values]


def first_values(loader: Loader) -> list[list[float]]:
    return [batch["x"][:, 0, 0, 0].tolist() for batch in loader.batches((entry, loader.load(entry)) for entry in loader.entries)]


def test_the_choice_is_pythons_shuffle_of_the_sorted_paths_with_seed_1684() -> None:
    expected = sorted(pictures(range(20), "data/b") + pictures(range(20, 25), "data/a"))
    Path("data/README.md").touch()
    random.seed(1684)
    random.shuffle(expected)
    assert [entry.files[0] for entry in from_folder("data", 7)] == expected[:7]
    assert len(from_folder("data")) == 25


def test_a_data_list_is_used_in_its_order() -> None:
    a, b, c = pictures(range(3))
    Path("list").write_text(f"{c}\n\n{a} , {b}\n{b}\n")
    assert from_list("list") == [Entry((c,)), Entry((a, b)), Entry((b,))]
    assert from_list("list", 1) == [Entry((c,))]


def _write_bad() -> None:
    Path("empty").mkdir()
    pictures(range(1), "mixed")
    np.save("mixed/a.npy", np.zeros(1))
    Path("none.txt").write_text("\n")
    Path("absent.txt").write_text("nowhere.jpg\n")
    Path("kind.txt").write_text("kind.txt\n")
    Path("mixed.txt").write_text("mixed/000.png\nmixed/a.npy\n")


REFUSED = {
    "no folder": (from_folder, "nowhere", "no such folder"),
    "empty": (from_folder, "empty", "holds no sample"),
    "mixed": (from_folder, "mixed", "must be of one kind, found"),
    "no list": (from_list, "nowhere", "cannot be read as a list"),
    "empty list": (from_list, "none.txt", "lists no sample"),
    "absent": (from_list, "absent.txt", "nowhere.jpg: no such file"),
    "kind": (from_list, "kind.txt", "kind.txt: expected a picture"),
    "mixed list": (from_list, "mixed.txt", "must be of one kind, found picture"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_samples_that_cannot_be_used_are_refused(case: str) -> None:
    _write_bad()
    choose, path, message = REFUSED[case]
    with pytest.raises(InputError) as caught:
        choose(path)
    assert message in str(caught.value)


def test_pictures_are_joined_to_batches_and_the_last_fills_the_rest() -> None:
    loader = Loader(network(batch=3), [Entry((path,)) for path in pictures(range(1, 6))])
    assert first_values(loader) == [[1, 2, 3], [4, 5, 5]]
    assert loader.used == 5


def test_arrays_that_do_not_fill_a_batch_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    for value in range(3):
        artifacts.save_npz(f"{value}.npz", {"any": np.full((1, 1, 2, 2), value)})
    artifacts.save_npz("whole.npz", {"any": np.full((2, 1, 2, 2), 9)})
    loader = Loader(network(2, picture=False), [Entry((f"{name}.npz",)) for name in (0, "whole", 1, 2)])
    assert first_values(loader) == [[9, 9], [0, 1]]
    assert loader.used == 3  # a whole batch counts as one sample
    assert "the last 1 samples do not fill a batch of 2" in caplog.text


def test_broken_pictures_are_named_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    paths = pictures(range(4))
    Path(paths[1]).write_bytes(b"broken")
    loader = Loader(network(), [Entry((path,)) for path in paths])
    with caplog.at_level(logging.WARNING, "bmflow"):
        assert first_values(loader) == [[0], [2], [3]]
    assert loader.used == 3
    assert list(loader.broken) == [paths[1]]
    assert f"skipped {paths[1]}" in caplog.text


def test_more_broken_pictures_than_good_ones_are_refused() -> None:
    paths = pictures(range(4))
    for path in paths[1:]:
        Path(path).write_bytes(b"broken")
    loader = Loader(network(), [Entry((path,)) for path in paths])
    with pytest.raises(InputError, match="3 of 4 samples are broken, too few remain"):
        first_values(loader)


def test_arrays_of_another_shape_are_refused_at_once() -> None:
    artifacts.save_npz("a.npz", {"x": np.zeros((1, 1, 3, 3))})
    loader = Loader(network(picture=False), [Entry(("a.npz",))] * 3)
    with pytest.raises(InputError, match=r"a\.npz: input x is 1x1x2x2, found 1x1x3x3"):
        first_values(loader)


def test_pictures_need_recorded_preprocessing() -> None:
    with pytest.raises(InputError, match="records no picture preprocessing"):
        Loader(network(picture=False), [Entry((pictures(range(1))[0],))])


@pytest.mark.parametrize("use", [lambda m, loader: first_batches(loader, 5), lambda m, loader: collect(m, loader, Method.MAX)])
def test_samples_that_make_no_batch_are_refused(use: Callable[[Module, Loader], object]) -> None:
    artifacts.save_npz("a.npz", {"x": np.zeros((1, 1, 2, 2))})
    module = network(2, picture=False)
    with pytest.raises(InputError, match="the 1 samples do not make one batch of 2"):
        use(module, Loader(module, [Entry(("a.npz",))]))


def test_results_come_in_order_with_few_under_way() -> None:
    running: list[int] = []

    def work(item: int) -> int:
        running.append(item)
        return item * item

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, work, iter(range(100)), ahead=3)
        assert next(results) == 0
        assert len(running) <= 4
        assert list(results) == [i * i for i in range(1, 100)]


def test_an_exception_is_raised_at_its_turn() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, lambda x: 1 // x, [2, 1, 0, 1], ahead=2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
