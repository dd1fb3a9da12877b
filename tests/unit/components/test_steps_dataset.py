"""The stage dataset: forms of sources, disjoint sets, refusals of bad data, DVC revisions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow_components import contracts, split
from bmflow_components.job import Job
from bmflow_components.split import Split
from bmflow_components.steps import dataset

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def picture(path: Path, seed: int) -> None:
    """A picture of noise, 32x24."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8))


def annotations(names: list[str], categories: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """One box a picture."""
    images = [{"id": k, "file_name": name, "width": 32, "height": 24} for k, name in enumerate(names, 1)]
    boxes = [
        {"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0}
        for k in range(1, len(names) + 1)
    ]
    return {"images": images, "annotations": boxes, "categories": categories or CATEGORIES}


def one_file(folder: Path, count: int = 10) -> Path:
    """images/ and one annotation file."""
    names = [f"{k:02d}.png" for k in range(count)]
    for k, name in enumerate(names):
        picture(folder / "images" / name, k)
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "all.json").write_text(json.dumps(annotations(names)))
    return folder


def with_sets(folder: Path) -> Path:
    """Two sets of three pictures."""
    for base, name in ((0, "calibration"), (10, "evaluation")):
        names = [f"{base + k:02d}.png" for k in range(3)]
        for k, file in enumerate(names):
            picture(folder / "images" / name / file, base + k)
        (folder / "annotations").mkdir(exist_ok=True, parents=True)
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(annotations(names)))
    return folder


def job(tmp_path: Path, source: Path | None = None, detector: Path | None = None, **params: Any) -> Job:
    """What the process would hand to the step."""
    stage = contracts.stage("dataset")
    inputs = {name: (path,) for name, path in (("source", source), ("detector", detector)) if path}
    out = tmp_path / "made"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    return Job(stage, inputs, {"dataset": out / "dataset", "split": out / "split.json"}, {**stage.defaults(), **params}, tmp_path, tmp_path)


def made(tmp_path: Path, **options: Any) -> Split:
    """Run the step and read what it wrote."""
    work = job(tmp_path, **options)
    dataset.run(work)
    assert (tmp_path / "made/split.json").read_text() == (tmp_path / "made/dataset/split.json").read_text()
    return Split.load(work.output("dataset"))


def test_one_annotation_file_is_divided_into_sets_that_share_no_picture(tmp_path: Path) -> None:
    """All pictures, each once, with exactly their boxes."""
    found = made(tmp_path, source=one_file(tmp_path / "src"), train=3, calibration=3, evaluation=3, search=1)
    names = {name: set(found.set(name).pictures) for name in split.SETS}
    assert {name: len(files) for name, files in names.items()} == {"train": 3, "calibration": 3, "evaluation": 3, "search": 1}
    assert len(set.union(*names.values())) == 10
    for name in split.SETS:
        data = json.loads(found.annotations(name).read_text())
        assert {image["file_name"] for image in data["images"]} == names[name]
        assert {box["image_id"] for box in data["annotations"]} == {image["id"] for image in data["images"]}


def test_a_picture_keeps_its_set_when_others_come(tmp_path: Path) -> None:
    """Evaluation pictures of ten are evaluation pictures of fourteen, as long as the hash lets no newcomer in between; none moves to training."""
    before = made(tmp_path, source=one_file(tmp_path / "a", 10), train=100, calibration=2, evaluation=100)
    after = made(tmp_path, source=one_file(tmp_path / "b", 14), train=100, calibration=2, evaluation=100)
    assert set(before.set("evaluation").pictures) <= set(after.set("evaluation").pictures)


def test_given_sets_are_taken_as_they_are_and_cut_to_the_count(tmp_path: Path) -> None:
    """First by file name."""
    found = made(tmp_path, source=with_sets(tmp_path / "src"), calibration=2, evaluation=5)
    assert list(found.set("calibration").pictures) == ["00.png", "01.png"]
    assert len(found.set("evaluation").pictures) == 3
    assert found.classes == {1: "cat", 2: "dog"}
    assert found.source == {"kind": "folder"}


def test_the_digest_follows_pictures_and_annotations(tmp_path: Path) -> None:
    """The same data gives the same digests, one changed box others, and only for its set."""
    source = with_sets(tmp_path / "src")
    first, second = made(tmp_path, source=source), made(tmp_path, source=source)
    assert first.digest == second.digest
    path = source / "annotations/evaluation.json"
    data = json.loads(path.read_text())
    data["annotations"][0]["bbox"][0] = 3
    path.write_text(json.dumps(data))
    third = made(tmp_path, source=source)
    assert third.digest != first.digest
    assert third.set("evaluation").digest != first.set("evaluation").digest
    assert third.set("calibration").digest == first.set("calibration").digest


def test_the_example_is_made_when_nothing_is_given(tmp_path: Path) -> None:
    """With the counts asked for and no training set."""
    found = made(tmp_path, train=0, calibration=2, evaluation=3, size=96)
    assert {name: len(s.pictures) for name, s in found.sets.items()} == {"calibration": 2, "evaluation": 3}
    assert found.source["kind"] == "example"


def _overlap(folder: Path) -> None:
    shutil.copy(folder / "images/calibration/01.png", folder / "images/evaluation/11.png")


def _broken(folder: Path) -> None:
    data = (folder / "images/evaluation/11.png").read_bytes()
    (folder / "images/evaluation/11.png").write_bytes(data[:40])


def _wrong_size(folder: Path) -> None:
    cv2.imwrite(str(folder / "images/evaluation/11.png"), np.zeros((8, 8, 3), np.uint8))


def _missing(folder: Path) -> None:
    (folder / "images/evaluation/11.png").unlink()


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "annotations/evaluation.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return edit


def _twins(folder: Path) -> None:
    shutil.copy(folder / "images/evaluation/10.png", folder / "images/evaluation/11.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_overlap, r"1 pictures are in two sets: calibration/01.png = evaluation/11.png; accuracy measured on pictures"),
        (_twins, "11.png and 10.png are the same picture"),
        (_broken, r"1 broken pictures: 11.png \(no readable picture\)"),
        (_wrong_size, r"11.png \(8x8, annotated as 32x24\)"),
        (_missing, "has no picture 11.png, though the annotations of evaluation list it"),
        (_edit(lambda data: data.update(annotations=[])), "has 3 pictures and 0 boxes"),
        (_edit(lambda data: data.pop("categories")), "not a COCO annotation file .KeyError: 'categories'"),
        (_edit(lambda data: data["annotations"][1].update(category_id=9)), "box 1 belongs to category 9"),
        (_edit(lambda data: data["annotations"][1].update(image_id=9)), "box 1 belongs to picture 9"),
        (_edit(lambda data: data["annotations"][1].update(bbox=[0, 0, -1, 2])), "box 1 is .0.0, 0.0, -1.0, 2.0."),
        (
            _edit(lambda data: data["categories"].append({"id": 3, "name": "cow"})),
            "its classes 1 cat, 2 dog, 3 cow are not those of the other sets",
        ),
        (_edit(lambda data: data["images"][1].update(file_name="../calibration/00.png")), "its name leads out of the folder"),
        (_edit(lambda data: data["images"][1].update(file_name="10.png")), "lists 10.png twice"),
        (lambda folder: shutil.rmtree(folder / "annotations"), "found 0 annotation files"),
        (lambda folder: (folder / "annotations/evaluation.json").write_text("{"), "not a COCO annotation file"),
    ],
)
def test_bad_data_is_refused_by_name(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    """Before hours of training, and with what to look at."""
    source = with_sets(tmp_path / "src")
    spoil(source)
    with pytest.raises(InputError, match=message):
        dataset.run(job(tmp_path, source=source))


def test_classes_that_the_detector_does_not_know_are_refused(tmp_path: Path) -> None:
    """They would count as missed."""
    detector = {
        "schema": 1, "family": "yolov5", "classes": [{"id": 1, "name": "cat"}, {"id": 2, "name": "horse"}],
        "anchors": {"8": [[1, 1]], "16": [[1, 1]], "32": [[1, 1]]},
    }  # fmt: skip
    (tmp_path / "detector.json").write_text(json.dumps(detector))
    with pytest.raises(InputError, match="category 2 is dog, but horse in"):
        dataset.run(job(tmp_path, source=with_sets(tmp_path / "src"), detector=tmp_path / "detector.json"))


def test_a_record_whose_sets_overlap_is_refused_when_it_is_read(tmp_path: Path) -> None:
    """calibrate and evaluate look again: somebody may have edited the folder."""
    made(tmp_path, source=with_sets(tmp_path / "src"))
    path = tmp_path / "made/dataset/split.json"
    data = json.loads(path.read_text())
    data["sets"]["evaluation"]["pictures"]["x.png"] = data["sets"]["calibration"]["pictures"]["00.png"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"in two sets: calibration/00\.png = evaluation/x\.png"):
        Split.load(path.parent)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"repo": "x"}, "say with --path which folder"),
        ({"train": 0, "calibration": 0, "evaluation": 0}, "ask for at least one picture"),
        ({"path": "x"}, "--in-source and --path: give one of them"),
    ],
)
def test_contradictory_parameters_are_refused(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    """With what to do."""
    with pytest.raises(InputError, match=message):
        dataset.run(job(tmp_path, source=with_sets(tmp_path / "src"), **params))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository with a dataset at tag v1 and one more picture set aside at v2."""
    pytest.importorskip("dvc", reason="DVC is not installed; install the extra `dvc`")
    folder = tmp_path_factory.mktemp("repository")

    def call(*words: str) -> None:
        subprocess.run(words, cwd=folder, check=True, capture_output=True)

    dvc = [sys.executable, "-m", "dvc"]
    call("git", "init", "-q")
    call("git", "config", "user.email", "a@example.com")
    call("git", "config", "user.name", "a")
    call(*dvc, "init", "-q")
    call(*dvc, "config", "core.analytics", "false")
    with_sets(folder / "data")
    for tag in ("v1", "v2"):
        call(*dvc, "add", "-q", "data")
        call("git", "add", "-A")
        call("git", "commit", "-qm", tag)
        call("git", "tag", tag)
        if tag == "v1":
            _edit(lambda data: data["annotations"][0].update(bbox=[2, 2, 5, 5]))(folder / "data")
    return folder


def test_a_dvc_revision_is_taken_and_recorded(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit and DVC's digest; another revision gives other data and another fingerprint."""
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    work = job(tmp_path, repo=str(repository), rev="v1", path="data")
    first = dataset.fingerprint(work)
    dataset.run(work)
    old = Split.load(work.output("dataset"))
    commit = subprocess.run(["git", "rev-parse", "v1"], cwd=repository, text=True, capture_output=True, check=True).stdout.strip()
    assert (old.source["kind"], old.source["rev"], old.source["commit"]) == ("dvc", "v1", commit)
    assert old.source["md5"].endswith(".dir")
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "two")
    work = job(tmp_path, repo=str(repository), rev="v2", path="data")
    assert dataset.fingerprint(work) != first
    dataset.run(work)
    assert Split.load(work.output("dataset")).digest != old.digest


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rev": "v9", "path": "data"}, "the repository has no revision 'v9'"),
        ({"rev": "v1", "path": "dota"}, "the repository has no such path at that revision"),
        ({"repo": "/nowhere/at/all", "path": "data"}, "no DVC repository"),
    ],
)
def test_a_revision_path_or_repository_that_does_not_exist_is_named(
    tmp_path: Path, repository: Path, params: dict[str, str], message: str
) -> None:  # fmt: skip
    """Bad input, not a failure to try again."""
    with pytest.raises(InputError, match=message):
        dataset.fingerprint(job(tmp_path, **{"repo": str(repository), **params}))
