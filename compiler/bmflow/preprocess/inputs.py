"""Network inputs from the files a user gives: one npz, npy files, or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bmflow import artifacts
from bmflow.errors import InputError, nearest_names
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp
from bmflow.ir.types import shape_of
from bmflow.preprocess.picture import Preprocess

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".jfif", ".yuv")
Arrays = dict[str, np.ndarray]


def load_inputs(module: Module, files: Sequence[str]) -> Arrays:
    """Make every network input, float32 by layer name.

    One `.npz` holds all inputs by name (with one array and one input the name does not matter); pictures serve one input each,
    the last one those left over; otherwise one `.npy` per input. A leading dimension of 1 is repeated to the batch.
    Raises:
        InputError: a file that cannot be used, names missing, shapes that do not fit, or an input that records no preprocessing.
    """
    inputs = module.inputs
    if not files:
        raise InputError("no input file given; expected a picture, an npz or npy files")
    suffix = Path(files[0]).suffix.lower()
    if suffix == ".npz":
        return _from_npz(inputs, files)
    if suffix in PICTURES:
        return _from_pictures(inputs, files)
    if suffix == ".npy":
        return _from_npy(inputs, files)
    raise InputError(f"{files[0]}: expected an .npz, .npy files or pictures ({', '.join(PICTURES)}), found the suffix '{suffix}'")


def fit(array: np.ndarray, op: TopInputOp, where: str) -> np.ndarray:
    """Bring an array to an input's type and shape: float32, a leading 1 repeated to the batch.

    Raises:
        InputError: another shape, or values that are not numbers.
    """
    shape = shape_of(op.output)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where}: expected numbers for input {op.layer_name}, found {array.dtype}")
    if shape and array.ndim == len(shape) and array.shape[0] == 1 and shape[0] > 1:
        array = np.repeat(array, shape[0], axis=0)
    if array.shape != shape:
        raise InputError(f"{where}: input {op.layer_name} is {_text(shape)}, found {_text(array.shape)}")
    return np.ascontiguousarray(array, np.float32)


def from_arrays(inputs: Sequence[TopInputOp], arrays: Arrays, where: str) -> Arrays:
    """Every input out of named arrays; one array serves one input whatever its name.

    Raises:
        InputError: a name is missing (nearest names shown) or a shape does not fit.
    """
    if len(arrays) == 1 and len(inputs) == 1:
        return {inputs[0].layer_name: fit(next(iter(arrays.values())), inputs[0], where)}
    for op in inputs:
        if op.layer_name not in arrays:
            hint = nearest_names(op.layer_name, arrays) or f"it holds {', '.join(list(arrays)[:10])}"
            raise InputError(f"{where}: holds no array for input {op.layer_name}; {hint}")
    return {op.layer_name: fit(arrays[op.layer_name], op, where) for op in inputs}


def _from_npz(inputs: Sequence[TopInputOp], files: Sequence[str]) -> Arrays:
    if len(files) != 1:
        raise InputError(f"expected one npz file with all inputs, found {len(files)} files: {', '.join(files)}")
    return from_arrays(inputs, artifacts.load_npz(files[0]), files[0])


def _from_npy(inputs: Sequence[TopInputOp], files: Sequence[str]) -> Arrays:
    if len(files) != len(inputs):
        names = ", ".join(op.layer_name for op in inputs)
        raise InputError(f"expected {len(inputs)} npy files, one per input ({names}), found {len(files)}")
    return {op.layer_name: fit(load_npy(file), op, file) for op, file in zip(inputs, files, strict=True)}


def load_npy(path: str) -> np.ndarray:
    """Read one array.

    Raises:
        InputError: missing, damaged, or holding pickled objects.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable npy file ({error})") from error


def _from_pictures(inputs: Sequence[TopInputOp], files: Sequence[str]) -> Arrays:
    if len(files) > len(inputs):
        more = "several pictures of one batch are written together in quotes, 'a.jpg,b.jpg'" if len(inputs) == 1 else "give one per input"
        raise InputError(f"{len(files)} pictures for {len(inputs)} inputs; {more}")
    filled = [*files, *([files[-1]] * (len(inputs) - len(files)))]
    return {op.layer_name: picture_of(op).load(file) for op, file in zip(inputs, filled, strict=True)}


def picture_of(op: TopInputOp) -> Preprocess:
    """The picture preprocessing of an input.

    Raises:
        InputError: it records none.
    """
    preprocess = Preprocess.of(op)
    if preprocess is None:
        raise InputError(f"input {op.layer_name} records no picture preprocessing (channel_format none?); give an npz or npy file")
    return preprocess


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
