"""Measure accuracy: COCO mAP of detectors and top-k of classifiers, for any kind of network file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bmflow.driver.inference import MlirSession, Session, open_session, run_on_picture
from bmflow.errors import InputError
from bmflow.evaluation import coco, detector
from bmflow.evaluation.detections import Detections
from bmflow.evaluation.spec import COCO, METADATA_KEY, DetectorSpec

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".jfif"}
Progress = Callable[[Iterable[tuple[int, str]], int], Iterable[tuple[int, str]]]


@dataclass(frozen=True)
class CocoOptions:
    """`count` 0 measures every annotated picture; `model` is .onnx, .mlir or .bmodel; `detector` as for `detector_spec`."""

    model: str
    dataset: str
    annotation: str
    count: int = 0
    settings: detector.Settings = field(default_factory=detector.Settings)
    detector: str = ""


@dataclass(frozen=True)
class CocoResult:
    """Accuracy, what it was measured with, and what was found in each picture (by id, in its own pixels)."""

    accuracy: coco.CocoAccuracy
    family: detector.Family
    settings: detector.Settings
    spec: DetectorSpec
    found: dict[int, Detections]


def evaluate_coco(options: CocoOptions, progress: Progress | None = None) -> CocoResult:
    """Score a detector; its family decides the preprocessing.

    Raises:
        InputError: unreadable files, no annotated picture in the folder, classes that differ, or outputs of no known detector.
    """
    annotations = coco.Annotations.load(options.annotation)
    spec = detector_spec(options.model, options.detector)
    annotations.check_classes(spec, options.detector or options.model)
    work = _annotated_pictures(options, annotations)
    session = open_session(options.model)
    net_size = _net_size(session, options.model)
    family = detector.family_of(run_on_picture(session, np.zeros((1, 3, *net_size), np.float32)), net_size, spec)
    found: dict[int, Detections] = {}
    for number, path in progress(work, len(work)) if progress else work:
        ready = detector.letterbox(detector.read_picture(path), net_size, family, spec.pad_value)
        found[number] = detector.find(run_on_picture(session, ready.data), family, net_size, options.settings, ready, spec)
    accuracy = coco.measure(annotations, found, options.settings.limit, spec)
    return CocoResult(accuracy, family, options.settings, spec, found)


def detector_spec(model: str, path: str = "") -> DetectorSpec:
    """What is known of a detector: the given detector.json, else what an ONNX file says in its metadata, else COCO's classes and anchors.

    Raises:
        InputError: an unreadable description.
    """
    if path:
        return DetectorSpec.load(path)
    if not model.endswith(".onnx") or not Path(model).is_file():
        return COCO
    text = _onnx_metadata(model).get(METADATA_KEY)
    return DetectorSpec.parse(text, f"{model}, metadata {METADATA_KEY}") if text else COCO


def _onnx_metadata(path: str) -> dict[str, str]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise InputError(f"{path}: not a readable ONNX file ({error})") from error
    return {item.key: item.value for item in model.metadata_props}


def _annotated_pictures(options: CocoOptions, annotations: coco.Annotations) -> list[tuple[int, str]]:
    folder = Path(options.dataset)
    if not folder.is_dir():
        raise InputError(f"--dataset {folder}: no such folder")
    work = [(number, str(folder / name)) for number, name in sorted(annotations.pictures.items()) if (folder / name).is_file()]
    if not work:
        raise InputError(f"--dataset {folder}: holds none of the {len(annotations.pictures)} pictures named in {options.annotation}")
    return work[: options.count] if options.count > 0 else work


def _net_size(session: Session, model: str) -> tuple[int, int]:
    shapes = list(session.input_shapes.values())
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][:2] != (1, 3):
        raise InputError(f"{model}: expected one input 1x3xHxW, found {session.input_shapes}")
    return shapes[0][2], shapes[0][3]


@dataclass(frozen=True)
class TopkOptions:
    """Classifier to score; `mlir` gives the preprocessing when the model itself records none."""

    model: str
    dataset: str
    label_file: str = ""
    mlir: str = ""
    count: int = 0


@dataclass(frozen=True)
class TopkResult:
    """Shares of pictures (0..1) whose class is the best or among the five best."""

    pictures: int
    top1: float
    top5: float


def evaluate_topk(options: TopkOptions, report: Callable[[TopkResult], None] | None = None) -> TopkResult:
    """Score a classifier over a folder with one sub-folder a class, or a flat folder with a label file.

    The label file has one class number (counted from 1) a line, for the pictures sorted by path.
    """
    work = list(_labelled_pictures(options))
    if options.count > 0:
        work = work[: options.count]
    session = open_session(options.model)
    preprocess = _preprocess(options, session)
    first = within = 0
    for done, (path, label) in enumerate(work, 1):
        scores = next(iter(run_on_picture(session, preprocess(path)).values())).ravel()
        best = np.argsort(-scores, kind="stable")[:5]
        first += int(best[0] == label)
        within += int(label in best)
        if report and (done % 50 == 0 or done == len(work)):
            report(TopkResult(done, first / done, within / done))
    return TopkResult(len(work), first / len(work), within / len(work))


def _labelled_pictures(options: TopkOptions) -> Iterator[tuple[str, int]]:
    folder = Path(options.dataset)
    if not folder.is_dir():
        raise InputError(f"--dataset {folder}: no such folder")
    if not options.label_file:
        yield from _folder_per_class(folder)
        return
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    try:
        labels = [int(line.split()[-1]) - 1 for line in Path(options.label_file).read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"--label_file {options.label_file}: expected one class number a line ({error})") from error
    if not pictures or len(labels) < len(pictures):
        raise InputError(f"--label_file {options.label_file}: {len(labels)} labels for {len(pictures)} pictures in {folder}")
    yield from ((str(path), label) for path, label in zip(pictures, labels, strict=False))


def _folder_per_class(folder: Path) -> Iterator[tuple[str, int]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise InputError(f"--dataset {folder}: has no sub-folder a class; give --label_file for a flat folder")
    for label, inside in enumerate(classes):
        yield from ((str(path), label) for path in sorted(inside.iterdir()) if path.suffix.lower() in PICTURES)


def _preprocess(options: TopkOptions, session: Session) -> Callable[[str], np.ndarray]:
    from bmflow.ir.module import Module
    from bmflow.preprocess import Preprocess

    if not options.mlir and not isinstance(session, MlirSession):
        raise InputError(f"{options.model}: records no preprocessing; give --mlir with the module model_transform wrote for it")
    module = session.module if isinstance(session, MlirSession) else Module.load(options.mlir)
    preprocess = Preprocess.of(module.inputs[0])
    if preprocess is None:
        raise InputError(f"{options.mlir or options.model}: its input records no picture preprocessing; transform it with --pixel_format")
    return preprocess.load
