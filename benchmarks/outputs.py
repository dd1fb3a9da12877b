"""Output errors of a classifier and a face detector in 8 bits, on pictures that did not calibrate.

50 of the 100 pictures calibrate; 15 others are looked at: the five single pictures of the test data and the first ten of its second set.
Of squeezenet the logits are compared (`--output_names` in front of its Softmax), of ultraface the boxes, and the largest error of a score
in each picture, since a cosine does not see one wrong score among thousands. Outputs are those of the bmodel, in the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bmflow.driver.inference import open_session
from bmflow.ir.module import Module
from bmflow.numerics.similarity import cosine
from bmflow.preprocess import Preprocess

from benchmarks import clock, page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "accuracy-outputs.md"
HEAD = (
    "network",
    "run_calibration",
    "model_deploy --quantize INT8",
    "cosine, least of 15",
    "of the 5",
    "largest score error, mean of 15",
    "of the 5",
)
SINGLE = ("faces", "portrait", "dog", "cat", "parrot")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Network:
    """What model_transform is given, and the parts of the output names compared: by cosine, and by the largest error."""

    name: str
    model: str
    arguments: tuple[str, ...]
    compared: str
    scores: str = ""


NETWORKS = (
    Network(
        "squeezenet_logits", "squeezenet_v1.1",
        ("--input_shapes", "[[1,3,227,227]]", "--mean", "104,117,123", "--pixel_format", "bgr", "--output_names", "pool10"),
        "pool10",
    ),
    Network(
        "ultraface", "ultraface_rfb320",
        ("--input_shapes", "[[1,3,240,320]]", "--mean", "127,127,127", "--scale", "0.0078125,0.0078125,0.0078125", "--pixel_format", "rgb"),
        "boxes", "scores",
    ),
)  # fmt: skip
CALIBRATIONS = ("", "--cali_method max", "--cali_method max --gptq", "--cali_method max --we --gptq")


def rows(data: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    """Make and compare every network in every way."""
    pictures, calibration = looked_at(data), calibration_set(data, folder)
    for network in NETWORKS:
        name = network.name
        model = str(data / "models" / f"{network.model}.onnx")
        words = [*clock.tool("model_transform"), "--model_name", name, "--model_def", model, *network.arguments]
        clock.process([*words, "--mlir", f"{name}.mlir"], folder)
        exact = outputs_of(folder / f"{name}.mlir", folder / f"{name}.mlir", pictures)
        for calibrate in CALIBRATIONS:
            words = [*clock.tool("run_calibration"), f"{name}.mlir", "--dataset", str(calibration), "--input_num", "50", "-o", "table"]
            clock.process([*words, *calibrate.split()], folder)
            corrected = "".join(f"_{option}" for option in ("we", "gptq") if f"--{option}" in calibrate)
            for deploy in ("", "--asymmetric"):
                clock.process(
                    [*clock.tool("model_deploy"), "--mlir", f"{name}{corrected}.mlir", "--quantize", "INT8", "--processor", "bm1684x",
                     "--calibration_table", "table", "--skip_validation", "--model", "network.bmodel", *deploy.split()],
                    folder,
                )  # fmt: skip
                found = outputs_of(folder / "network.bmodel", folder / f"{name}.mlir", pictures)
                yield (name, calibrate or "defaults", deploy or "symmetric", *_figures(network, exact, found))


def looked_at(data: Path) -> list[Path]:
    """The 15 pictures compared."""
    return [*(data / "images" / f"{name}.jpg" for name in SINGLE), *sorted((data / "coco2017-val").glob("*.jpg"))[:10]]


def calibration_set(data: Path, folder: Path) -> Path:
    """A folder with 50 of the 100 pictures."""
    calibration = folder / "calibration"
    calibration.mkdir(parents=True, exist_ok=True)
    for picture in sorted((data / "coco2017-calib").glob("*.jpg"))[::2]:
        (calibration / picture.name).unlink(missing_ok=True)
        (calibration / picture.name).symlink_to(picture)
    return calibration


def outputs_of(model: Path, mlir: Path, pictures: Sequence[Path]) -> list[Arrays]:
    """Outputs of a module or a bmodel for pictures, prepared as the module records."""
    session, source = open_session(str(model), clock.THREADS), Module.load(mlir).inputs[0]
    preprocess = Preprocess.of(source)
    assert preprocess is not None
    return [session.run({source.layer_name: preprocess.load(str(picture))}) for picture in pictures]


def _figures(network: Network, exact: Sequence[Arrays], found: Sequence[Arrays]) -> tuple[str, ...]:
    def pairs(part: str) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            tuple(next(value for name, value in one.items() if part in name).ravel() for one in both)
            for both in zip(exact, found, strict=True)
        ]  # pyright: ignore

    cosines, few = [cosine(*pair) for pair in pairs(network.compared)], len(SINGLE)
    figures = [f"{min(cosines):.5f}", f"{min(cosines[:few]):.5f}"]
    if not network.scores:
        return (*figures, "", "")
    errors = [float(np.abs(one - other).max()) for one, other in pairs(network.scores)]
    return (*figures, f"{np.mean(errors):.3f}", f"{np.mean(errors[:few]):.3f}")


def main() -> int:
    """Run it."""
    return page.run("outputs", "Output errors of two small networks", __doc__ or "", PAGE, HEAD, rows)


if __name__ == "__main__":
    raise SystemExit(main())
