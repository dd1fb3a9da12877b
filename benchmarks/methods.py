"""How the networks of `benchmarks.accuracy` are made: our tools as commands, other quantizers (extra `bench`) as processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import clock

CHOSEN = "new_cali_table.txt"
"""Where a search that chooses ranges layer by layer puts its table."""


@dataclass(frozen=True)
class Spot:
    """Where a row is made: a folder with `<name>.mlir`, the ONNX file, pictures to calibrate with, the limit of the mixed row."""

    folder: Path
    name: str
    model: Path
    calibration: Path
    limit: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """A network file, the seconds it took and the most memory of a process."""

    model: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Row:
    """A way to quantize: `how` in words of the command line."""

    key: str
    what: str
    how: str
    make: Callable[[Spot], Made]


def _run(spot: Spot, model: Path, *commands: list[str]) -> Made:
    return _made(model, [clock.process(command, spot.folder) for command in commands])


def _made(model: Path, runs: Sequence[clock.Finished]) -> Made:
    return Made(str(model), sum(run.seconds for run in runs), max(run.peak_bytes for run in runs))


def _ours(key: str, what: str, quantize: str, calibrate: str = "", deploy: str = "", corrected: str = "", search: bool = False) -> Row:
    """A row of our tools; LIMIT in `calibrate` stands for the network's limit of cycles."""

    def make(spot: Spot) -> Made:
        table, model, chosen = f"{key}_table", spot.folder / f"{key}.bmodel", spot.folder / CHOSEN
        pictures = "42" if search else "50"  # a search scores on pictures that do not calibrate
        runs = list[clock.Finished]()
        chosen.unlink(missing_ok=True)
        if quantize == "INT8":
            words = [*clock.tool("run_calibration"), f"{spot.name}.mlir", "--dataset", str(spot.calibration), "--input_num", pictures]
            more = [word for part in calibrate.split() for word in (spot.limit if part == "LIMIT" else (part,))]
            runs.append(clock.process([*words, "-o", table, "--quantize_table", f"{key}_qtable", *more], spot.folder))
        tables = ["--calibration_table", CHOSEN if chosen.is_file() else table] if quantize == "INT8" else []
        words = [
            *clock.tool("model_deploy"), "--mlir", f"{spot.name}{corrected}.mlir", "--quantize", quantize, "--processor", "bm1684x", *tables,
            *deploy.replace("QTABLE", f"{key}_qtable").split(), "--skip_validation", "--model", str(model),
        ]  # fmt: skip
        return _made(model, [*runs, clock.process(words, spot.folder)])

    commands = [f"run_calibration {calibrate}"] * (quantize == "INT8") + [f"model_deploy --quantize {quantize} {deploy}"]
    return Row(key, what, ", ".join(f"`{command.strip()}`" for command in commands), make)


def _peer(key: str, what: str, method: str) -> Row:
    def make(spot: Spot) -> Made:
        model = spot.folder / f"{key}.onnx"
        words = [sys.executable, str(Path(__file__).with_name("peers.py")), method, str(spot.model), str(spot.folder / f"{spot.name}.mlir")]
        return _run(spot, model, [*words, str(spot.calibration), str(model)])

    return Row(key, what, f"`benchmarks/peers.py {method}`", make)


_PERCENTILE = "--cali_method percentile9999"
_ASYMMETRIC = "--asymmetric --quantize_table QTABLE"
_SEARCH = "--quantize_method_list percentile9999,max --search pareto LIMIT --asymmetric"
ROWS = (
    _ours("f16", "F16", "F16"),
    _ours("int8", "INT8 symmetric, defaults", "INT8"),
    _ours("heads", "INT8 symmetric, 16-bit heads", "INT8", deploy="--quantize_table QTABLE"),
    _ours("asym", "INT8 asymmetric, 16-bit heads", "INT8", _PERCENTILE, _ASYMMETRIC),
    _ours("we", "the same, equalized", "INT8", f"{_PERCENTILE} --we", _ASYMMETRIC, "_we"),
    _ours("gptq", "the same, filters by GPTQ", "INT8", f"{_PERCENTILE} --we --gptq", _ASYMMETRIC, "_we_gptq"),
    _ours(
        "first", "the same, the first layers in F16", "INT8", f"{_PERCENTILE} --we --gptq --patterns yolo,first", _ASYMMETRIC, "_we_gptq"
    ),
    _ours(
        "mixed", "mixed, within a limit of cycles", "INT8", f"--cali_method max --we --gptq {_SEARCH}", _ASYMMETRIC, "_we_gptq", search=True
    ),
    _peer("ort_minmax", "onnxruntime static, MinMax", "minmax"),
    _peer("ort_percentile", "onnxruntime static, Percentile", "percentile"),
    _peer("nncf", "NNCF, defaults", "nncf"),
    _peer("nncf_mixed", "NNCF, mixed preset", "nncf_mixed"),
)
"""The rows, in the order of the table."""
