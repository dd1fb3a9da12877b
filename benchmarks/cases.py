"""What is measured: the main job of yolov5n, each tool as a process of its own, the inferences inside this one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.clock import THREADS, Finished, interleaved, process, tool, typical

PICTURES, SEARCHED = 100, 30


@dataclass(frozen=True)
class Bar:
    """An upper bound: `must` and `aim` in the unit of the row."""

    must: float
    aim: float


@dataclass(frozen=True)
class Row:
    """One line of the table; `value` is in `unit` (a multiple of t_ort, seconds or GiB)."""

    what: str
    value: float
    unit: str
    bar: Bar | None = None
    seconds: float | None = None


def measure(data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Run everything in an empty folder; rows come as they are known."""
    transform = process(_transform(data), folder)
    calibrate = process(_calibrate(data, PICTURES), folder)
    few = process([*_calibrate(data, PICTURES // 4)[:-1], "few_table"], folder)
    deploy = process(_deploy(), folder)
    search = process(_search(data), folder)
    times = _inferences(data, folder, rounds)
    unit = times["onnxruntime"]
    yield Row("one float inference by onnxruntime (t_ort)", unit * 1000, "ms", None, unit)
    yield from _calibration_rows(calibrate, few, unit)
    yield Row("simulate one INT8 bmodel inference", times["bmodel"] / unit, "t_ort", Bar(20, 5), times["bmodel"])
    yield Row("the same with every check on", times["bmodel, checked"] / unit, "t_ort", None, times["bmodel, checked"])
    yield Row("INT8 tpu module through kernels", times["tpu"] / unit, "t_ort", Bar(8, 2), times["tpu"])
    yield Row("float top module through kernels", times["top"] / unit, "t_ort", None, times["top"])
    yield Row("model_transform with validation", transform.seconds, "s", Bar(10, 5), transform.seconds)
    yield Row("model_deploy INT8 with both validations", deploy.seconds, "s", Bar(40, 15), deploy.seconds)
    yield Row("peak memory of model_deploy INT8", deploy.peak_bytes / 2**30, "GiB")
    cost = search.seconds / (SEARCHED * unit)
    yield Row("run_calibration --we --gptq --search pareto, all of it", cost, f"x ({SEARCHED} t_ort)", Bar(240, 60), search.seconds)
    yield Row("peak memory of that", search.peak_bytes / 2**30, "GiB")
    yield from _start_up_rows(folder, rounds)


def _calibration_rows(calibrate: Finished, few: Finished, unit: float) -> Iterator[Row]:
    yield Row(
        f"run_calibration, {PICTURES} pictures, KL with tuning",
        calibrate.seconds / (PICTURES * unit),
        "x (100 t_ort)",
        Bar(12, 5),
        calibrate.seconds,
    )
    yield Row("peak memory of that", calibrate.peak_bytes / 2**30, "GiB", Bar(2, 1))
    yield Row(f"peak memory with {PICTURES // 4} pictures (flat when equal)", few.peak_bytes / 2**30, "GiB")


def _start_up_rows(folder: Path, rounds: int) -> Iterator[Row]:
    bar = Bar(0.5, 0.2)
    started = typical([sys.executable, "-c", "pass"], folder, rounds).seconds
    imported = typical([sys.executable, "-c", "import bmflow"], folder, rounds).seconds
    yield Row(f"import bmflow (Python's own start of {started:.2f} s included)", imported, "s", bar, imported)
    for name in (
        "model_transform",
        "run_calibration",
        "model_deploy",
        "model_runner",
        "model_tool",
        "npz_tool",
        "model_eval",
        "detect_yolov5",
    ):
        seconds = typical([*tool(name), "--help"], folder, rounds).seconds
        yield Row(f"{name} --help", seconds, "s", bar, seconds)


def _inferences(data: Path, folder: Path, rounds: int) -> dict[str, float]:
    import onnxruntime
    from bmflow import artifacts
    from bmflow.container import bmodel
    from bmflow.ir.module import Module
    from bmflow.kernels import Executable
    from bmflow.simulator import Simulator

    inputs = artifacts.load_npz(folder / "yolov5n_in_f32.npz")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(data / "models" / "yolov5n.onnx"), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: next(iter(inputs.values())).astype(np.float32)}
    top = Executable(Module.load(folder / "yolov5n.mlir"), "outputs", THREADS)
    tpu = Executable(Module.load(folder / "yolov5n_bm1684x_int8_sym_tpu.mlir"), "outputs", THREADS)
    simulator = Simulator(bmodel.read((folder / "yolov5n_int8.bmodel").read_bytes()))
    return interleaved(
        {
            "onnxruntime": lambda: session.run(None, feed),
            "top": lambda: top.run(inputs),
            "tpu": lambda: tpu.run(inputs),
            "bmodel": lambda: simulator.run(inputs, check=False),
            "bmodel, checked": lambda: simulator.run(inputs, check=True),
        },
        rounds,
    )


def _transform(data: Path) -> list[str]:
    return [
        *tool("model_transform"), "--model_name", "yolov5n", "--model_def", str(data / "models" / "yolov5n.onnx"),
        "--input_shapes", "[[1,3,640,640]]", "--mean", "0.0,0.0,0.0", "--scale", "0.0039216,0.0039216,0.0039216", "--keep_aspect_ratio",
        "--pixel_format", "rgb", "--test_input", str(data / "images" / "dog.jpg"), "--test_result", "yolov5n_top_outputs.npz",
        "--mlir", "yolov5n.mlir",
    ]  # fmt: skip


def _calibrate(data: Path, pictures: int) -> list[str]:
    dataset = str(data / "coco2017-calib")
    return [*tool("run_calibration"), "yolov5n.mlir", "--dataset", dataset, "--input_num", str(pictures), "-o", "yolov5n_cali_table"]


def _search(data: Path) -> list[str]:
    """42 of 50 pictures calibrate, 8 are scored on."""
    return [
        *tool("run_calibration"), "yolov5n.mlir", "--dataset", str(data / "coco2017-calib"), "--input_num", "42", "--cali_method", "percentile9999",
        "--we", "--gptq", "--search", "pareto", "--quantize_method_list", "percentile9999", "--max_cycles", "1.25", "--asymmetric",
        "--quantize_table", "searched_qtable", "-o", "searched_table",
    ]  # fmt: skip


def _deploy() -> list[str]:
    return [
        *tool("model_deploy"), "--mlir", "yolov5n.mlir", "--quantize", "INT8", "--calibration_table", "yolov5n_cali_table",
        "--processor", "bm1684x", "--test_input", "yolov5n_in_f32.npz", "--test_reference", "yolov5n_top_outputs.npz",
        "--tolerance", "0.85,0.45", "--model", "yolov5n_int8.bmodel",
    ]  # fmt: skip
