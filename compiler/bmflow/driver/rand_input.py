"""The verb of gen_rand_input: random network inputs that a module accepts, the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bmflow import artifacts
from bmflow.errors import InputError

if TYPE_CHECKING:
    from bmflow.ir.structure import TopInputOp

_T = TypeVar("_T")
FLOATS = {"f32": np.float32, "f16": np.float32, "bf16": np.float32}
INTEGERS = {"si32": np.int32, "ui32": np.uint32, "si16": np.int16, "ui16": np.uint16, "si8": np.int8, "ui8": np.uint8}
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class RandOptions:
    """Lists go by input number: `ranges` (low, high) with both ends included, default -1..1; `types` such as f32 or si32, default f32."""

    mlir: str
    output: str
    ranges: Sequence[Sequence[float]] = ()
    types: Sequence[str] = ()
    picture: bool = False
    seed: int = 1684


def generate(options: RandOptions) -> dict[str, np.ndarray]:
    """Draw the inputs and save them: an npz by input name, or with `picture` one 8-bit picture of the input's size.

    Raises:
        InputError: lists that do not fit the inputs, unknown types, or no picture input.
    """
    from bmflow.ir.module import Module

    if not Path(options.mlir).is_file():
        raise InputError(f"--mlir {options.mlir}: no such file")
    inputs = Module.load(options.mlir).inputs
    rng = np.random.default_rng(options.seed)
    if options.picture:
        return _picture(options, inputs, rng)
    ranges, types = _fitted("--ranges", options.ranges, [-1.0, 1.0], inputs), _fitted("--input_types", options.types, "f32", inputs)
    arrays = {op.layer_name: _draw(op, low_high, kind, rng) for op, low_high, kind in zip(inputs, ranges, types, strict=True)}
    artifacts.save_npz(options.output, arrays)
    return arrays


def _fitted(option: str, values: Sequence[_T], default: _T, inputs: Sequence[TopInputOp]) -> Sequence[_T]:
    if values and len(values) != len(inputs):
        names = ", ".join(op.layer_name for op in inputs)
        raise InputError(f"{option}: expected one entry for each of the {len(inputs)} inputs ({names}), found {len(values)}")
    return values or [default] * len(inputs)


def _draw(op: TopInputOp, low_high: Sequence[float], kind: str, rng: np.random.Generator) -> np.ndarray:
    from bmflow.ir.types import shape_of

    if len(low_high) != 2 or not low_high[0] <= low_high[1]:
        raise InputError(f"--ranges: input {op.layer_name} needs [low, high] with low <= high, found {list(low_high)}")
    low, high = low_high
    if kind in FLOATS:
        return rng.uniform(low, high, shape_of(op.output)).astype(FLOATS[kind])
    if kind not in INTEGERS:
        raise InputError(f"--input_types: {kind} is no type; choose from {', '.join((*FLOATS, *INTEGERS))}")
    limits = np.iinfo(INTEGERS[kind])
    if low < limits.min or high > limits.max:
        raise InputError(f"--ranges: {low}..{high} does not fit the {kind} input {op.layer_name}, {limits.min}..{limits.max}")
    return rng.integers(int(np.ceil(low)), int(np.floor(high)), shape_of(op.output), INTEGERS[kind], endpoint=True)


def _picture(options: RandOptions, inputs: Sequence[TopInputOp], rng: np.random.Generator) -> dict[str, np.ndarray]:
    import cv2

    if len(inputs) != 1 or not inputs[0]["pixel_format"]:
        names = ", ".join(op.layer_name for op in inputs)
        raise InputError(f"--img: {options.mlir} has no single picture input (it has {names}); leave --img out for an npz")
    if Path(options.output).suffix.lower() not in PICTURES:
        raise InputError(f"--output {options.output}: with --img expected a picture name ending in {', '.join(PICTURES)}")
    size = inputs[0].ints("resize_dims")
    picture = rng.integers(0, 256, (*size, *([] if inputs[0]["pixel_format"] == "gray" else [3])), np.uint8)
    with artifacts.atomic_path(options.output) as temporary:
        cv2.imwrite(str(temporary), picture)
    return {inputs[0].layer_name: picture}
