"""Bring a dataset into one form: sets of pictures with COCO annotations, looked through and disjoint, and the record of that."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from bmflow.errors import InputError
from bmflow.evaluation.coco import Annotations
from bmflow.evaluation.spec import DetectorSpec

from bmflow_components import example_data, split, uri
from bmflow_components.dvc_source import DvcFolder
from bmflow_components.job import Job, Outcome
from bmflow_components.split import SETS, Split


def fingerprint(job: Job) -> str:
    """What the content follows from that is no input: the revision that DVC finds."""
    return json.dumps(_dvc(job).describe(), sort_keys=True) if _from_dvc(job) else ""


def run(job: Job) -> Outcome:
    """Take the data, look through it, write folder and record."""
    folder = job.output("dataset")
    source = _take(job, folder)
    found = split.inspect(folder, source)
    _check_detector(job, found)
    found.save(folder / split.FILE)
    found.save(job.output("split"))
    counts = {f"pictures_{name}": float(len(s.pictures)) for name, s in found.sets.items()}
    return Outcome(counts, {"digest": found.digest, **{k: str(v) for k, v in source.items() if v not in ("", False)}})


def _from_dvc(job: Job) -> bool:
    if job.optional("source") and job.text("path"):
        raise InputError("--in-source and --path: give one of them, a folder or a path in a DVC repository")
    if job.text("repo") and not job.text("path"):
        raise InputError(f"--repo {job.text('repo')}: say with --path which folder of the repository is the dataset")
    return bool(job.text("path"))


def _dvc(job: Job) -> DvcFolder:
    repo = job.text("repo") or "."
    is_url = uri.is_remote(repo) or ("@" in repo and ":" in repo)
    return DvcFolder(repo if is_url else str((job.origin / repo).resolve()), job.text("rev"), job.text("path"))


def _take(job: Job, folder: Path) -> dict[str, Any]:
    if _from_dvc(job):
        where = _dvc(job)
        copy = Path("dvc").absolute()
        where.fetch(copy)
        arrange(copy, folder, job)
        return where.describe()
    if source := job.optional("source"):
        arrange(source, folder, job)
        return {"kind": "folder"}
    options = example_data.DatasetOptions(
        job.whole("seed"),
        job.whole("train"),
        job.whole("calibration"),
        job.whole("evaluation"),
        job.whole("size"),
        job.whole("search"),
    )
    example_data.generate(folder, options)
    return {"kind": "example", "seed": options.seed, "version": example_data.VERSION}


def arrange(source: Path, folder: Path, job: Job) -> None:
    """Copy the sets that a folder has, or make them of a folder with one annotation file.

    Raises:
        InputError: neither form.
    """
    given = [name for name in SETS if (source / "annotations" / f"{name}.json").is_file()]
    files = sorted((source / "annotations").glob("*.json")) if not given else []
    if not given and len(files) != 1:
        raise InputError(
            f"{source}: expected annotations/SET.json with images/SET/ (SET: {', '.join(SETS)}), or one file in annotations/ with images/; "
            f"found {len(files)} annotation files"
        )
    wanted = {name: job.whole(name) for name in SETS if job.whole(name)}
    if not wanted:
        raise InputError("--train, --calibration, --evaluation and --search are all 0; ask for at least one picture")
    if given:
        for name in wanted:
            if name in given:
                _copy(split.read_annotations(source / "annotations" / f"{name}.json"), source / "images" / name, folder, name, wanted[name])
        return
    _divide(split.read_annotations(files[0]), source / "images", folder, wanted, job.whole("seed"))


def _divide(whole: dict[str, Any], images: Path, folder: Path, wanted: dict[str, int], seed: int) -> None:
    """Shuffle by a hash of seed and file name, so that a picture keeps its place when others come; evaluation takes first, training last."""
    order = sorted(whole["images"], key=lambda item: hashlib.sha256(f"{seed}:{item['file_name']}".encode()).digest())
    start = 0
    for name in ("evaluation", "calibration", "search", "train"):
        count = wanted.get(name, 0)
        part = {**whole, "images": order[start : start + count]}
        start += count
        if part["images"]:
            _copy(part, images, folder, name, count)


def _copy(whole: dict[str, Any], images: Path, folder: Path, name: str, count: int) -> None:
    """Write the first `count` pictures (by file name) and their boxes as one set."""
    chosen = sorted(whole["images"], key=lambda item: str(item["file_name"]))[:count]
    ids = {item["id"] for item in chosen}
    part = {**whole, "images": chosen, "annotations": [box for box in whole["annotations"] if box["image_id"] in ids]}
    target = folder / "images" / name
    for item in chosen:
        file, place = images / item["file_name"], target / item["file_name"]
        if not place.resolve().is_relative_to(target.resolve()):
            raise InputError(f"picture {item['file_name']}: its name leads out of the folder of pictures")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            raise InputError(f"{images}: has no picture {item['file_name']}, though the annotations of {name} list it")
        shutil.copyfile(file, place)
    path = folder / "annotations" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(part) + "\n")


def _check_detector(job: Job, found: Split) -> None:
    """Refuse classes that the detector does not know, before hours of work."""
    given = job.optional("detector")
    if given is None:
        return
    spec = DetectorSpec.load(given)
    for name in found.sets:
        Annotations.load(str(found.annotations(name))).check_classes(spec, str(given))
