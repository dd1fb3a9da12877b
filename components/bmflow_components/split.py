"""A dataset's sets and the proof that they are disjoint: no picture, known by its bytes, is in two of them.

    FOLDER/images/SET/...            pictures
    FOLDER/annotations/SET.json      COCO instances
    FOLDER/split.json                the record

SET is train, calibration, evaluation or search (on which tables are chosen); an empty set is absent.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmflow import artifacts
from bmflow.errors import InputError

from bmflow_components import documents

SETS = ("train", "calibration", "evaluation", "search")
FILE = "split.json"
_SHOWN = 5


@dataclass(frozen=True)
class PictureSet:
    """One set: digest over its annotations and pictures, and the SHA-256 of each picture by file name."""

    name: str
    digest: str
    pictures: Mapping[str, str]
    boxes: int


@dataclass(frozen=True)
class Split:
    """The record.

    Attributes:
        source: where the data came from: kind, and for DVC repo, rev, path, commit, md5.
        digest: over all sets.
        classes: name by category id.
    """

    folder: Path
    source: Mapping[str, Any]
    digest: str
    classes: Mapping[int, str]
    sets: Mapping[str, PictureSet]

    def images(self, name: str) -> Path:
        """Folder of a set's pictures.

        Raises:
            InputError: the dataset has no such set.
        """
        self.set(name)
        return self.folder / "images" / name

    def annotations(self, name: str) -> Path:
        """Annotation file of a set.

        Raises:
            InputError: the dataset has no such set.
        """
        self.set(name)
        return self.folder / "annotations" / f"{name}.json"

    def set(self, name: str) -> PictureSet:
        """A set.

        Raises:
            InputError: the dataset has no such set.
        """
        if name not in self.sets:
            raise InputError(f"{self.folder}: has no {name} pictures, only {', '.join(self.sets)}; run the stage dataset with --{name} N")
        return self.sets[name]

    def save(self, path: Path) -> None:
        """Write the record."""
        documents.write(path, {
            "source": dict(self.source), "digest": self.digest, "classes": [{"id": k, "name": v} for k, v in self.classes.items()],
            "sets": {s.name: {"digest": s.digest, "boxes": s.boxes, "pictures": dict(s.pictures)} for s in self.sets.values()},
        })  # fmt: skip

    @staticmethod
    def load(folder: Path) -> Split:
        """Read the record of a dataset folder and check again that the sets are disjoint.

        Raises:
            InputError: no such record, damaged, or a picture is in two sets.
        """
        data = documents.read(folder / FILE, "the record of a dataset, as the stage dataset writes it")
        try:
            classes = {int(item["id"]): str(item["name"]) for item in data["classes"]}
            sets = {name: PictureSet(name, s["digest"], s["pictures"], int(s["boxes"])) for name, s in data["sets"].items()}
            split = Split(folder, data["source"], data["digest"], classes, sets)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{folder / FILE}: not a usable record ({type(error).__name__}: {error}); run the stage dataset again"
            ) from error
        check_disjoint(sets, str(folder))
        return split


def inspect(folder: Path, source: Mapping[str, Any]) -> Split:
    """Look through the sets of a folder: every picture, every box, and whether any picture is in two sets.

    Raises:
        InputError: what is wrong, with the names of the first culprits.
    """
    classes: dict[int, str] = {}
    sets: dict[str, PictureSet] = {}
    for name in SETS:
        path = folder / "annotations" / f"{name}.json"
        if path.is_file():
            annotations = read_annotations(path)
            _join_classes(classes, annotations, path)
            sets[name] = _inspect_set(name, folder / "images" / name, annotations, path)
    if not sets:
        raise InputError(f"{folder}: has no annotations/SET.json, SET one of {', '.join(SETS)}")
    check_disjoint(sets, str(folder))
    whole = hashlib.sha256("".join(f"{name} {found.digest}\n" for name, found in sets.items()).encode())
    return Split(folder, source, whole.hexdigest(), classes, sets)


def read_annotations(path: Path) -> dict[str, Any]:
    """Read a COCO file and check its parts: every box has a known picture, a known class, and a size.

    Raises:
        InputError: naming what is wrong.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        pictures = {int(item["id"]): str(item["file_name"]) for item in data["images"]}
        kinds = {int(item["id"]): str(item["name"]) for item in data["categories"]}
        boxes = [(int(b["image_id"]), int(b["category_id"]), [float(v) for v in b["bbox"]]) for b in data["annotations"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from error
    if not pictures or not boxes:
        raise InputError(f"{path}: has {len(pictures)} pictures and {len(boxes)} boxes; nothing can be learnt or measured without both")
    for number, (picture, kind, box) in enumerate(boxes):
        if picture not in pictures or kind not in kinds:
            what = f"picture {picture}" if picture not in pictures else f"category {kind}"
            raise InputError(f"{path}: box {number} belongs to {what}, which the file does not list")
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
            raise InputError(f"{path}: box {number} is {box}; expected x, y, width, height, finite and not negative")
    twice = [name for name, count in Counter(pictures.values()).items() if count > 1]
    if twice:
        raise InputError(f"{path}: lists {_some(twice)} twice")
    return data


def _join_classes(classes: dict[int, str], annotations: Mapping[str, Any], path: Path) -> None:
    found = {int(item["id"]): str(item["name"]) for item in annotations["categories"]}
    if classes and found != classes:
        raise InputError(f"{path}: its classes {_named(found)} are not those of the other sets, {_named(classes)}")
    classes.update(found)


def _named(classes: Mapping[int, str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in list(classes.items())[:12]) or "none"


def _inspect_set(name: str, images: Path, annotations: Mapping[str, Any], path: Path) -> PictureSet:
    missing, broken, digests = [], [], {}
    for item in annotations["images"]:
        file = images / item["file_name"]
        if not file.is_file():
            missing.append(item["file_name"])
        elif problem := _broken(file, item):
            broken.append(f"{item['file_name']} ({problem})")
        else:
            digests[item["file_name"]] = artifacts.sha256_file(file)
    if missing:
        raise InputError(f"{path}: {len(missing)} pictures are not in {images}: {_some(missing)}")
    if broken:
        raise InputError(f"{images}: {len(broken)} broken pictures: {_some(broken)}; replace them, or take them out of {path.name}")
    _refuse_copies(digests, images)
    lines = [f"{artifacts.sha256_file(path)}  annotations\n", *(f"{value}  {file}\n" for file, value in sorted(digests.items()))]
    return PictureSet(name, hashlib.sha256("".join(lines).encode()).hexdigest(), digests, len(annotations["annotations"]))


def _broken(file: Path, item: Mapping[str, Any]) -> str:
    import cv2

    picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if picture is None:
        return "no readable picture"
    height, width = picture.shape[:2]
    expected = (item.get("width", width), item.get("height", height))
    return "" if expected == (width, height) else f"{width}x{height}, annotated as {expected[0]}x{expected[1]}"


def _refuse_copies(digests: Mapping[str, str], images: Path) -> None:
    names: dict[str, str] = {}
    for name, value in digests.items():
        if value in names:
            raise InputError(f"{images}: {name} and {names[value]} are the same picture; take one of them out")
        names[value] = name


def check_disjoint(sets: Mapping[str, PictureSet], where: str) -> None:
    """Refuse sets that share a picture.

    Raises:
        InputError: naming the pictures.
    """
    owners: dict[str, tuple[str, str]] = {}
    shared: list[str] = []
    for found in sets.values():
        for name, value in found.pictures.items():
            if value in owners and owners[value][0] != found.name:
                shared.append(f"{owners[value][0]}/{owners[value][1]} = {found.name}/{name}")
            owners.setdefault(value, (found.name, name))
    if shared:
        raise InputError(
            f"{where}: {len(shared)} pictures are in two sets: {_some(shared)}; accuracy measured on pictures that were calibrated or trained on "
            "means nothing, so split the data anew"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
