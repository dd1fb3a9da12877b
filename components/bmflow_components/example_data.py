"""The example's data: pictures of six shapes with COCO annotations, made by code from a seed.

    FOLDER/dataset.json                       what it was made from, and the digest of all other files
    FOLDER/annotations/SPLIT.json             COCO instances
    FOLDER/images/SPLIT/SPLIT_000000.jpg      pictures

SPLIT is train, calibration, evaluation or search. Each picture has random numbers of its own, drawn from (version, seed, split, index):
splits never share a picture, and a larger count only adds pictures. The same options give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bmflow import artifacts
from bmflow.cli import common
from bmflow.errors import InputError

VERSION = 1  # raise it whenever the same options give other pixels or boxes
SPLITS = ("train", "calibration", "evaluation", "search")
FIRST_ID = 1_000_000  # picture ids of split k start at (k + 1) * FIRST_ID
JPEG_QUALITY = 92
SMALLEST = {"train": 0.05, "calibration": 0.08, "evaluation": 0.08, "search": 0.08}  # size of a shape; training goes below what is scored
CLASSES = ("circle", "square", "triangle", "cross", "star", "ring")
Progress = Callable[[Iterable[int], int, str], Iterable[int]]


@dataclass(frozen=True)
class DatasetOptions:
    """Seed, pictures of each split (0 leaves the split out), side of the square pictures in pixels."""

    seed: int = 0
    train: int = 2000
    calibration: int = 100
    evaluation: int = 200
    size: int = 320
    search: int = 0

    def count(self, split: str) -> int:
        """Pictures of a split."""
        return int(getattr(self, split))

    def check(self) -> None:
        """Refuse numbers that make no dataset."""
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: expected a whole number from 0 up")
        if not 64 <= self.size <= 2048:
            raise InputError(
                f"size {self.size}: expected 64 to 2048 pixels; shapes would be too small to see or pictures too large to hold"
            )
        for split in SPLITS:
            if not 0 <= self.count(split) < FIRST_ID:
                raise InputError(f"{split} {self.count(split)}: expected 0 to {FIRST_ID - 1} pictures")
        if not any(self.count(split) for split in SPLITS):
            raise InputError("all splits have 0 pictures; ask for at least one picture")


@dataclass(frozen=True)
class Dataset:
    """A finished dataset folder and the SHA-256 over its files."""

    folder: Path
    options: DatasetOptions
    digest: str

    def images(self, split: str) -> Path:
        """Folder of a split's pictures."""
        return self.folder / "images" / split

    def annotations(self, split: str) -> Path:
        """COCO annotation file of a split."""
        return self.folder / "annotations" / f"{split}.json"


def generate(folder: str | Path, options: DatasetOptions, progress: Progress | None = None) -> Dataset:
    """Make the dataset in a new folder, which appears whole or not at all.

    A folder that already holds the same dataset is checked against its digest and left as it is.

    Raises:
        InputError: options out of range, or the folder holds something else.
    """
    options.check()
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        return _existing(target, options)
    with _atomic_folder(target) as work:
        for split in SPLITS:
            if options.count(split):
                _write_split(work, split, options, progress)
        digest = digest_of(work)
        artifacts.write_text(work / "dataset.json", _text(_description(options) | {"digest": digest}))
    return Dataset(target, options, digest)


def load(folder: str | Path) -> Dataset:
    """Open a dataset made by `generate`, and check that no file changed since.

    Raises:
        InputError: not such a folder, made by another version, or altered.
    """
    path = Path(folder) / "dataset.json"
    try:
        found = json.loads(path.read_text())
        options = DatasetOptions(**{name: int(found[name]) for name in asdict(DatasetOptions()) if name in found or name != "search"})
        version, digest = int(found["version"]), str(found["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: no example dataset, {path.name} is missing or unreadable ({type(error).__name__}: {error})") from error
    if version != VERSION:
        raise InputError(
            f"{folder}: made by version {version} of the generator, this is version {VERSION}; generate it anew in another folder"
        )
    if digest_of(Path(folder)) != digest:
        raise InputError(f"{folder}: its files differ from the digest in {path.name}; remove the folder and generate it anew")
    return Dataset(Path(folder), options, digest)


def digest_of(folder: Path) -> str:
    """SHA-256 over the sorted `digest  path` lines of every file but dataset.json."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / "dataset.json")
    lines = [f"{artifacts.sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _existing(folder: Path, options: DatasetOptions) -> Dataset:
    found = load(folder)
    if found.options != options:
        raise InputError(f"{folder}: holds the dataset of {found.options}, asked for {options}; choose another folder or remove this one")
    return found


@contextmanager
def _atomic_folder(target: Path) -> Generator[Path]:
    """Give a temporary folder beside `target`; rename it to `target` when the block ends well, remove it otherwise."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot write here ({error.strerror}); choose a writable folder") from error
    try:
        yield work
        work.chmod(0o755)
        os.replace(work, target)  # an empty target folder is replaced
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_split(folder: Path, split: str, options: DatasetOptions, progress: Progress | None) -> None:
    (folder / "images" / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    count = options.count(split)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for index in progress(range(count), count, split) if progress else range(count):
        data, image, found = picture(split, index, options)
        artifacts.write_bytes(folder / "images" / split / image["file_name"], data)
        images.append(image)
        boxes += [box | {"id": FIRST_ID * (SPLITS.index(split) + 1) + len(boxes) + k} for k, box in enumerate(found)]
    info = _description(options) | {"split": split, "description": "bmflow example: six shapes on clutter"}
    categories = [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(CLASSES)]
    whole = {"info": info, "licenses": [], "images": images, "categories": categories, "annotations": boxes}
    artifacts.write_text(folder / "annotations" / f"{split}.json", _text(whole))


def picture(split: str, index: int, options: DatasetOptions) -> tuple[bytes, dict[str, Any], list[dict[str, Any]]]:
    """One picture as JPEG bytes, its COCO image entry, and its COCO boxes (ids not yet given)."""
    import cv2
    import numpy as np

    from bmflow_components.example_scene import render

    number = SPLITS.index(split)
    rng = np.random.default_rng([VERSION, options.seed, number, index])
    pixels, shapes = render(rng, options.size, SMALLEST[split])
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    picture_id = FIRST_ID * (number + 1) + index
    image = {"id": picture_id, "file_name": f"{split}_{index:06d}.jpg", "width": options.size, "height": options.size}
    boxes = [
        {"image_id": picture_id, "category_id": shape.kind + 1, "bbox": list(shape.box), "area": shape.visible, "iscrowd": 0}
        for shape in shapes
    ]
    return data.tobytes(), image, boxes


def _description(options: DatasetOptions) -> dict[str, Any]:
    known = {name: value for name, value in asdict(options).items() if value or name != "search"}  # a set that came later, and is rare
    return {"generator": "bmflow_components.example_data", "version": VERSION, "jpeg_quality": JPEG_QUALITY, **known}


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"


_EXAMPLES = """examples:
  python -m bmflow_components.example_data --output data                          2000 train, 100 calibration, 200 evaluation
  python -m bmflow_components.example_data --output small --train 0 --calibration 20 --evaluation 50
  model_eval --model_file model.onnx --postprocess_type coco_mAP --dataset data/images/evaluation \\
             --coco_annotation data/annotations/evaluation.json

Six classes (circle, square, triangle, cross, star, ring), 0 to 8 shapes a picture, 8 to 36 % of its side (from 5 % in train), turned,
stretched, partly hidden, among clutter, under uneven light and noise. The same options give the same files, byte for byte; a larger
count adds pictures and keeps the others. To follow a change of the data, raise --train or change --seed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run as `python -m bmflow_components.example_data`."""
    default = DatasetOptions()
    parse = common.parser("example_data", "Make the example's detection dataset (COCO format) from a seed.", _EXAMPLES)
    parse.add_argument("--output", required=True, help="folder to make; left as it is when it already holds the same dataset")
    parse.add_argument(
        "--seed", type=int, default=default.seed, help=f"whole number, another gives other pictures (default {default.seed})"
    )
    for split in SPLITS:
        parse.add_argument(
            f"--{split}", type=int, default=default.count(split), help=f"pictures (default {default.count(split)}; 0: no such split)"
        )
    parse.add_argument("--size", type=int, default=default.size, help=f"side of the pictures in pixels (default {default.size})")
    return common.main(parse, _run, argv)


def _run(options: argparse.Namespace) -> int:
    wanted = DatasetOptions(options.seed, options.train, options.calibration, options.evaluation, options.size, options.search)
    made = generate(options.output, wanted, _bar)
    counts = (f"{wanted.count(split)} {split}" for split in SPLITS if wanted.count(split) or split != "search")
    print(f"{made.folder}: {', '.join(counts)}; sha256 {made.digest}")
    return 0


def _bar(work: Iterable[int], total: int, what: str) -> Iterator[int]:
    yield from common.progress(work, total, what)


if __name__ == "__main__":
    raise SystemExit(main())
