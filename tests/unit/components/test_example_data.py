"""The example's data: the same bytes for the same options, sound annotations, splits apart, honest refusals."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow.evaluation import coco
from bmflow_components import example_scene
from bmflow_components.example_data import CLASSES, SPLITS, Dataset, DatasetOptions, digest_of, generate, load, main

SMALL = DatasetOptions(seed=5, train=6, calibration=3, evaluation=4, size=160, search=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six, three and four small pictures."""
    return generate(tmp_path_factory.mktemp("data") / "set", SMALL)


def annotations(dataset: Dataset, split: str) -> dict[str, Any]:
    return json.loads(dataset.annotations(split).read_text())


def test_the_same_options_give_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    again = generate(tmp_path / "again", SMALL)
    assert again.digest == dataset.digest
    assert (again.folder / "dataset.json").read_bytes() == (dataset.folder / "dataset.json").read_bytes()


def test_pixels_and_boxes_of_this_version_are_the_known_ones() -> None:
    # renew together with example_data.VERSION: stored networks were measured on these pictures
    whole = hashlib.sha256()
    for index in range(4):
        pixels, shapes = example_scene.render(np.random.default_rng([1, 0, 2, index]), 320, 0.08)
        whole.update(pixels.tobytes() + repr(shapes).encode())
    assert whole.hexdigest() == "90209b944c07eaa3691f211ee569d0b1703d811d07f8ed085d5c035a0f684feb"


def test_another_seed_gives_other_pictures(dataset: Dataset, tmp_path: Path) -> None:
    other = generate(tmp_path / "other", replace(SMALL, seed=6))
    assert not picture_digests(other) & picture_digests(dataset)


def picture_digests(dataset: Dataset) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in dataset.folder.rglob("*.jpg")}


def test_a_larger_count_keeps_the_pictures_and_adds_to_them(dataset: Dataset, tmp_path: Path) -> None:
    more = generate(tmp_path / "more", replace(SMALL, train=8))
    assert picture_digests(dataset) < picture_digests(more)
    before, after = annotations(dataset, "train"), annotations(more, "train")
    assert after["images"][:6] == before["images"]
    assert after["annotations"][: len(before["annotations"])] == before["annotations"]


def test_splits_share_neither_pictures_nor_ids(dataset: Dataset) -> None:
    assert len(picture_digests(dataset)) == 15
    for key in ("images", "annotations"):
        ids = [item["id"] for split in SPLITS for item in annotations(dataset, split)[key]]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("split", SPLITS)
def test_annotations_are_sound_coco(dataset: Dataset, split: str) -> None:
    found = annotations(dataset, split)
    assert coco.Annotations.load(str(dataset.annotations(split))).pictures.keys() == {image["id"] for image in found["images"]}
    assert [(item["id"], item["name"]) for item in found["categories"]] == list(enumerate(CLASSES, 1))
    for image in found["images"]:
        pixels = cv2.imread(str(dataset.images(split) / image["file_name"]))
        assert pixels is not None
        assert pixels.shape == (image["height"], image["width"], 3) == (160, 160, 3)
    images = {image["id"] for image in found["images"]}
    for item in found["annotations"]:
        x, y, width, height = item["bbox"]
        assert item["image_id"] in images
        assert 1 <= item["category_id"] <= len(CLASSES)
        assert 0 <= x < x + width <= 160
        assert 0 <= y < y + height <= 160
        assert 0 < item["area"] <= width * height


def test_annotations_say_what_they_were_made_from(dataset: Dataset) -> None:
    info = annotations(dataset, "calibration")["info"]
    assert {
        "generator": "bmflow_components.example_data",
        "version": 1,
        "seed": 5,
        "split": "calibration",
        "size": 160,
    }.items() <= info.items()


def test_classes_are_the_shapes_that_are_drawn() -> None:
    assert tuple(example_scene.SHAPES) == CLASSES


def test_shapes_vary_in_class_and_size_and_stay_in_sight() -> None:
    shapes = [shape for k in range(80) for shape in example_scene.render(np.random.default_rng([7, k]), 320, 0.05)[1]]
    counts = np.bincount([shape.kind for shape in shapes], minlength=len(CLASSES))
    assert counts.min() > 0.4 * counts.mean()
    sides = np.array([max(shape.box[2:]) for shape in shapes])
    assert sides.min() <= 20
    assert sides.max() >= 90
    # a star fills about a quarter of its box when turned; nothing that hides more than its share is labelled
    assert all(shape.visible > 0.1 * shape.box[2] * shape.box[3] for shape in shapes)


def test_the_box_of_a_whole_circle_is_its_diameter() -> None:
    contours = [40 * contour + (100.0, 80.0) for contour in example_scene.SHAPES["circle"]]
    x, y, width, height = example_scene._bounds(example_scene._mask(contours, 200) > 127)
    assert (x, y) == (pytest.approx(60, abs=1), pytest.approx(40, abs=1))
    assert (width, height) == (pytest.approx(80, abs=2), pytest.approx(80, abs=2))


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("square", 2.0),  # diagonal 2
        ("triangle", 3 * np.sqrt(3) / 4),  # inscribed in a circle of radius 1
        ("cross", 4 * 0.32 * (2 * 0.95 - 0.32)),  # two bars 2 * .32 wide, 2 * .95 long, less the square they share
        ("star", 10 * 0.42 * np.sin(np.pi / 5) / 2),  # ten triangles of sides 1 and .42 with 36 degrees between
        ("ring", 24 * np.sin(np.pi / 24) * (1 - 0.55**2)),  # 48-gons
    ],
)
def test_the_area_of_an_outline_follows_from_its_geometry(name: str, area: float) -> None:
    assert example_scene._area(example_scene.SHAPES[name]) == pytest.approx(area)


def test_an_existing_folder_is_left_as_it_is_when_it_holds_the_same(dataset: Dataset) -> None:
    stamp = (dataset.folder / "dataset.json").stat().st_mtime_ns
    assert generate(dataset.folder, SMALL).digest == dataset.digest
    assert (dataset.folder / "dataset.json").stat().st_mtime_ns == stamp
    assert load(dataset.folder) == dataset


def test_an_existing_folder_of_other_options_is_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="holds the dataset of"):
        generate(dataset.folder, replace(SMALL, train=7))


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="no example dataset"):
        generate(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("harm", ["picture", "annotation", "extra"])
def test_an_altered_dataset_is_refused(harm: str, tmp_path: Path) -> None:
    made = generate(tmp_path / "set", replace(SMALL, train=1, calibration=0, evaluation=1))
    path = {
        "picture": made.images("train") / "train_000000.jpg",
        "annotation": made.annotations("evaluation"),
        "extra": made.folder / "images" / "more.jpg",
    }[harm]
    path.write_bytes(b"other")
    with pytest.raises(InputError, match="differ from the digest"):
        load(made.folder)


def test_a_split_of_no_pictures_is_left_out(tmp_path: Path) -> None:
    made = generate(tmp_path / "set", DatasetOptions(train=0, calibration=0, evaluation=1, size=64))
    files = sorted(path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file())
    assert files == ["annotations/evaluation.json", "dataset.json", "images/evaluation/evaluation_000000.jpg"]
    assert digest_of(made.folder) == made.digest


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (replace(SMALL, seed=-1), "seed -1"),
        (replace(SMALL, size=10), "size 10"),
        (replace(SMALL, train=10**6), "train 1000000"),
        (replace(SMALL, evaluation=-1), "evaluation -1"),
        (DatasetOptions(train=0, calibration=0, evaluation=0), "0 pictures"),
    ],
    ids=["seed", "size", "too many", "negative", "nothing"],
)
def test_options_that_make_no_dataset_are_refused_before_anything_is_written(options: DatasetOptions, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        generate(tmp_path / "set", options)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_when_making_it_is_interrupted(tmp_path: Path) -> None:
    def stop(work: Any, total: int, what: str) -> Any:
        yield next(iter(work))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", SMALL, stop)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", str(tmp_path / "set"), "--train", "1", "--calibration", "1", "--evaluation", "1", "--size", "64"]
    assert main(arguments) == 0
    assert f"1 train, 1 calibration, 1 evaluation; sha256 {load(tmp_path / 'set').digest}" in capsys.readouterr().out
    assert main([*arguments, "--seed", "3"]) == 2
    assert "choose another folder" in capsys.readouterr().err
