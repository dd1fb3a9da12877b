"""Accuracy of 8-bit and mixed networks in two folds, beside what other quantizers make of the same network.

Fold by fold, 50 of the 100 pictures calibrate (and are searched on); the other 50 and the 39 further ones are scored. What is printed is the
mean of both folds, and of the difference to float the interval that holds 95 of 100 paired draws of pictures. Our rows are scored on the
bmodel, in the simulator; all rows by the same code with the same preprocessing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from bmflow.container import bmodel
from bmflow.driver.evaluate import CocoOptions, evaluate_coco
from bmflow.evaluation.coco import Annotations
from bmflow.simulator import Simulator

from benchmarks import clock
from benchmarks.__main__ import machine
from benchmarks.matches import Difference, Draws, Matches
from benchmarks.methods import ROWS, Row, Spot

PAGE = Path(__file__).resolve().parent.parent / "docs" / "accuracy.md"
HEAD = ("network", "how", "mAP50-95", "less than float", "95 of 100 draws", "cycles / INT8", "cycles / F16", "seconds", "peak GiB")


@dataclass(frozen=True)
class Network:
    """A detector of the test data: what model_transform is given, and the limit of cycles of its mixed row."""

    name: str
    shape: str
    picture: tuple[str, ...]
    limit: tuple[str, ...]


NETWORKS = {
    "yolov5n": Network(
        "yolov5n", "[[1,3,640,640]]", ("--scale", "0.0039216,0.0039216,0.0039216", "--keep_aspect_ratio", "--pixel_format", "rgb"),
        ("--max_cycles", "1.245"),
    ),
    "yolox_nano": Network(
        "yolox_nano", "[[1,3,416,416]]",
        ("--keep_aspect_ratio", "--pixel_format", "bgr", "--pad_value", "114", "--pad_type", "normal"), ("--max_float_cycles", "0.7"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One line: a row over both folds. Cycles by the simulator's estimate, 0 where there is none."""

    network: str
    row: Row
    mean: float
    difference: Difference
    cycles: float
    seconds: float
    peak_bytes: int


def folds(data: Path, folder: Path) -> list[tuple[Path, Path, Path]]:
    """(pictures that calibrate, pictures that are scored, their annotations) of each fold; every second picture by name."""
    hundred, further = (sorted((data / f"coco2017-{part}").glob("*.jpg")) for part in ("calib", "val"))
    made = list[tuple[Path, Path, Path]]()
    for number in range(2):
        place = folder / f"fold{number}"
        calibration, scored = place / "calibration", place / "scored"
        for into, pictures in ((calibration, hundred[number::2]), (scored, [*hundred[1 - number :: 2], *further])):
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir(parents=True)
            for picture in pictures:
                (into / picture.name).symlink_to(picture)
        note = place / "scored.json"
        note.write_text(json.dumps(_annotations(data, {path.name for path in scored.iterdir()})))
        made.append((calibration, scored, note))
    return made


def _annotations(data: Path, names: set[str]) -> dict[str, object]:
    parts = [json.loads((data / "annotations" / f"instances_coco2017-{part}.json").read_text()) for part in ("calib", "val")]
    pictures = [item for part in parts for item in part["images"] if item["file_name"] in names]
    known = {item["id"] for item in pictures}
    boxes = [item for part in parts for item in part["annotations"] if item["image_id"] in known]
    numbered = [{**item, "id": number} for number, item in enumerate(boxes, 1)]
    return {"images": pictures, "annotations": numbered, "categories": parts[0]["categories"]}


def measure(data: Path, folder: Path, network: Network, rows: Sequence[Row], draws: int) -> Iterator[Result]:
    """All rows of one network, one by one; a row that is in the folder already is read from there."""
    parts = folds(data, folder)
    spots = [_spot(data, folder / f"fold{number}" / network.name, network, part[0]) for number, part in enumerate(parts)]
    floats = Draws.of([_matches(str(spot.model), part) for spot, part in zip(spots, parts, strict=True)], draws)
    print(f"{network.name} in float: {floats.mean:.4f}", flush=True)
    for row in rows:
        note = folder / f"{network.name}_{row.key}.json"
        if not note.is_file():
            note.write_text(json.dumps(_figures(row, spots, parts, floats, draws)))
        known = json.loads(note.read_text())
        yield Result(network.name, row, known["mean"], Difference(*known["difference"]), known["cycles"], known["seconds"], known["peak"])


def _figures(row: Row, spots: Sequence[Spot], parts: Sequence[tuple[Path, Path, Path]], floats: Draws, draws: int) -> dict[str, object]:
    made = [row.make(spot) for spot in spots]
    scored = Draws.of([_matches(one.model, part) for one, part in zip(made, parts, strict=True)], draws)
    gap = Difference.of(floats, scored)
    return {
        "mean": scored.mean, "difference": (gap.mean, gap.low, gap.high), "cycles": float(np.mean([_cycles(one.model) for one in made])),
        "seconds": float(np.mean([one.seconds for one in made])), "peak": max(one.peak_bytes for one in made),
    }  # fmt: skip


def _spot(data: Path, place: Path, network: Network, calibration: Path) -> Spot:
    place.mkdir(parents=True, exist_ok=True)
    model = data / "models" / f"{network.name}.onnx"
    command = [*clock.tool("model_transform"), "--model_name", network.name, "--model_def", str(model), "--input_shapes", network.shape,
               *network.picture, "--mlir", f"{network.name}.mlir"]  # fmt: skip
    clock.process(command, place)
    return Spot(place, network.name, model, calibration, network.limit)


def _matches(model: str, part: tuple[Path, Path, Path]) -> Matches:
    annotations = Annotations.load(str(part[2]))
    return Matches.of(annotations, evaluate_coco(CocoOptions(model, str(part[1]), annotations.path)).found)


def _cycles(model: str) -> float:
    return float(Simulator(bmodel.read(Path(model).read_bytes())).estimate().total_cycles) if model.endswith(".bmodel") else 0.0


def _cells(one: Result, results: Sequence[Result]) -> list[str]:
    def ratio(key: str) -> str:
        unit = next((other.cycles for other in results if other.row.key == key and other.network == one.network), 0.0)
        return f"{one.cycles / unit:.3f}" if unit and one.cycles else ""

    gap = one.difference
    return [
        one.network, one.row.what, f"{one.mean:.4f}", f"{-gap.mean:+.4f}", f"{-gap.high:+.4f} .. {-gap.low:+.4f}", ratio("int8"), ratio("f16"),
        f"{one.seconds:.0f}", f"{one.peak_bytes / 2**30:.2f}",
    ]  # fmt: skip


def page(results: Sequence[Result], note: str) -> str:
    """docs/accuracy.md."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(_cells(one, results) for one in results)]
    commands = "\n".join(f"- {row.what}: {row.how}" for row in dict.fromkeys(one.row for one in results))
    return f"""# Accuracy

Written by `python -m benchmarks.accuracy DATA --write` on {date.today().isoformat()}: {machine()}.

{(__doc__ or "").partition(chr(10))[2].strip()}

Every second of the 100 pictures calibrates; score floor .001, class-aware NMS at .6, 300 boxes a picture. Cycles are the simulator's estimate
from assumed rates. Seconds and memory are those of making the network (calibration, search, compilation), {clock.THREADS} threads.
{note and chr(10) + note + chr(10)}
{chr(10).join(f"| {' | '.join(cells)} |" for cells in lines)}

How each row was made:

{commands}
"""


def main() -> int:
    """Run it."""
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("data", type=Path, help="folder of models and pictures")
    parse.add_argument("--folder", type=Path, required=True, help="where everything is made; rows that lie there are not made again")
    parse.add_argument("--networks", default=",".join(NETWORKS), help=f"default {','.join(NETWORKS)}")
    parse.add_argument("--rows", default=",".join(row.key for row in ROWS), help=f"default {','.join(row.key for row in ROWS)}")
    parse.add_argument("--draws", type=int, default=200, help="draws of the paired bootstrap (default 200)")
    parse.add_argument("--write", action="store_true", help="write docs/accuracy.md")
    parse.add_argument("--note", default="", help="a sentence to write there")
    options = parse.parse_args()
    clock.pin_threads()
    rows = [row for key in options.rows.split(",") for row in ROWS if row.key == key]
    start, results = time.perf_counter(), list[Result]()
    for name in options.networks.split(","):
        for result in measure(options.data.resolve(), options.folder.resolve(), NETWORKS[name], rows, options.draws):
            results.append(result)
            print("  ".join(_cells(result, results)), flush=True)
            if options.write:
                PAGE.write_text(page(results, options.note))
    print(f"{time.perf_counter() - start:.0f} s in all")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
