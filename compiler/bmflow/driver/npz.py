"""The verbs of npz_tool: look into npz files, compare them, cut and convert them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from bmflow import artifacts
from bmflow.errors import InputError, nearest_names
from bmflow.numerics import similarity

Arrays = dict[str, np.ndarray]


def pick(arrays: Arrays, name: str, path: str) -> np.ndarray:
    """Find an array by name.

    Raises:
        InputError: unknown name, with the nearest ones.
    """
    if name not in arrays:
        hint = nearest_names(name, arrays) or f"it has {', '.join(list(arrays)[:8])}"
        raise InputError(f"{path}: no array named {name}; {hint}")
    return arrays[name]


def compare(
    target: str,
    reference: str,
    tolerance: tuple[float, float],
    verbosity: int,
    excepts: Collection[str],
    keys: Collection[str],
    int8_close: bool,
) -> tuple[similarity.Report, str]:
    """Compare two files; returns the report and its printed text. `keys` (if any) limits it to these names."""
    targets, references = artifacts.load_npz(target), artifacts.load_npz(reference)
    for key in keys:
        pick(references, key, reference)
    chosen = {name: array for name, array in references.items() if not keys or name in keys}
    report = similarity.compare(targets, chosen, tolerance, excepts, int8_close)
    return report, report.text(verbosity, target, reference)


def comparison_csv(report: similarity.Report) -> str:
    """The comparison as CSV, one line a tensor."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["name", "op", "quant", "pass", "sim_cos", "sim_euc", "sqnr"])
    for tensor in report.tensors:
        op = tensor.name.rpartition("_")[2]
        writer.writerow([tensor.name, op, tensor.dtype, tensor.verdict.passed, tensor.cosine, tensor.euclid, tensor.sqnr])
    return stream.getvalue()


def listing(path: str) -> str:
    """One line per array: name, shape, dtype, separated by tabs."""
    return "\n".join(f"{name}\t{array.shape}\t{array.dtype}" for name, array in artifacts.load_npz(path).items())


def dump(path: str, name: str, top: int = 0) -> str:
    """Print an array with its shape and type; top > 0 lists the largest values, top < 0 prints every element.

    A picture of shape (n <= 1, c = 3, h, w) also gets max, min, mean, mean magnitude and deviation per channel.
    """
    array = pick(artifacts.load_npz(path), name, path)
    lines = [_elements(array, everything=top < 0), f"shape {array.shape}", f"dtype {array.dtype}"]
    if array.ndim == 4 and array.shape[0] <= 1 and array.shape[1] == 3:
        lines += [f"channel {c}: {_figures(array[:, c])}" for c in range(3)]
    if top > 0:
        flat = array.ravel()
        order = np.argsort(-flat.astype(np.float64), kind="stable")[:top]
        lines += [f"top {rank}: idx {index} value {flat[index]}" for rank, index in enumerate(order, 1)]
    return "\n".join(lines)


def _elements(array: np.ndarray, everything: bool) -> str:
    with np.printoptions(threshold=array.size + 1 if everything else 1000):
        return str(array)


def _figures(values: np.ndarray) -> str:
    data = values.astype(np.float64)
    return f"max {data.max():.6f} min {data.min():.6f} mean {data.mean():.6f} abs mean {np.abs(data).mean():.6f} std {data.std():.6f}"


def extract(source: str, out: str, names: Sequence[str]) -> None:
    """Keep only these arrays."""
    arrays = artifacts.load_npz(source)
    artifacts.save_npz(out, {name: pick(arrays, name, source) for name in names})


def remove(path: str, names: Sequence[str]) -> None:
    """Drop these arrays, in place."""
    arrays = artifacts.load_npz(path)
    for name in names:
        pick(arrays, name, path)
    artifacts.save_npz(path, {name: array for name, array in arrays.items() if name not in names})


def merge(first: str, second: str, out: str) -> None:
    """Union of two files; an array that is in both must be the same in both."""
    a, b = artifacts.load_npz(first), artifacts.load_npz(second)
    clash = [name for name in a.keys() & b.keys() if not np.array_equal(a[name], b[name])]
    if clash:
        raise InputError(f"{first} and {second} hold different arrays named {', '.join(sorted(clash)[:5])}; rename them first")
    artifacts.save_npz(out, a | b)


def insert(source: str, out: str) -> None:
    """Add every array of `source` to `out`, replacing those of the same name."""
    existing = artifacts.load_npz(out) if Path(out).exists() else {}
    artifacts.save_npz(out, existing | artifacts.load_npz(source))


def rename(path: str, old: str, new: str) -> None:
    """Rename one array, in place; the order of the arrays stays."""
    arrays = artifacts.load_npz(path)
    pick(arrays, old, path)
    if new in arrays:
        raise InputError(f"{path}: already has an array named {new}; remove it first")
    artifacts.save_npz(path, {new if name == old else name: array for name, array in arrays.items()})


def reshape(path: str, name: str, shape: Sequence[int]) -> None:
    """Give one array another shape, in place."""
    arrays = artifacts.load_npz(path)
    array = pick(arrays, name, path)
    if int(np.prod(shape)) != array.size:
        raise InputError(f"{path}: {name} has {array.size} elements, shape {list(shape)} has {int(np.prod(shape))}")
    artifacts.save_npz(path, arrays | {name: array.reshape(tuple(shape))})


def permute(path: str, order: Sequence[int], name: str = "") -> None:
    """Transpose one array (or all of this rank, when no name is given), in place."""
    arrays = artifacts.load_npz(path)
    names = [name] if name else [n for n, a in arrays.items() if a.ndim == len(order)]
    for chosen in names:
        array = pick(arrays, chosen, path)
        if sorted(order) != list(range(array.ndim)):
            raise InputError(f"{path}: {chosen} has {array.ndim} dimensions; {list(order)} is not an order of them")
        arrays[chosen] = np.ascontiguousarray(array.transpose(tuple(order)))
    artifacts.save_npz(path, arrays)


_BINARY_KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "int8": lambda x: np.clip(np.sign(x) * np.floor(np.abs(x) + 0.5), -128, 127).astype(np.int8),
    "bf16": lambda x: to_bf16_bits(x.astype(np.float32)),
    "float32": lambda x: x.astype(np.float32),
}


def to_bin(path: str, name: str, out: str, kind: str = "") -> None:
    """Write one array's raw bytes, converted to int8, bf16 or float32 when asked."""
    array = pick(artifacts.load_npz(path), name, path)
    artifacts.write_bytes(out, np.ascontiguousarray(_BINARY_KINDS[kind](array) if kind else array).tobytes())


def to_dat(path: str, out: str) -> None:
    """Write all arrays' raw bytes one after another, in file order."""
    artifacts.write_bytes(out, b"".join(np.ascontiguousarray(a).tobytes() for a in artifacts.load_npz(path).values()))


def to_npy(path: str, name: str) -> str:
    """Write one array as `<name>.npy` in the current folder; returns the file name."""
    array = pick(artifacts.load_npz(path), name, path)
    out = name.replace("/", "_") + ".npy"
    with artifacts.atomic_path(out) as temporary, temporary.open("wb") as stream:
        np.save(stream, array)
    return out


def to_bf16_bits(values: np.ndarray) -> np.ndarray:
    """Bits of float32 values rounded to bf16, ties to even."""
    from bmflow.numerics.formats import bf16_bits

    return bf16_bits(np.ascontiguousarray(values, np.float32))


_CONVERSIONS: dict[str, tuple[np.dtype, Callable[[np.ndarray], np.ndarray]]] = {
    "fp32_to_fp16": (np.dtype(np.float32), lambda x: x.astype(np.float16)),
    "fp16_to_fp32": (np.dtype(np.float16), lambda x: x.astype(np.float32)),
    "fp32_to_bf16": (np.dtype(np.float32), to_bf16_bits),
    "bf16_to_fp32": (np.dtype(np.uint16), lambda x: (x.astype(np.uint32) << 16).view(np.float32)),
}
CONVERSIONS = tuple(_CONVERSIONS)


def convert(conversion: str, source: str, out: str) -> None:
    """Convert every array of the conversion's source type; the others are copied."""
    kind, function = _CONVERSIONS[conversion]
    arrays = artifacts.load_npz(source)
    artifacts.save_npz(out, {name: function(array) if array.dtype == kind else array for name, array in arrays.items()})


def statistic(path: str, name: str, axis: int = 1) -> str:
    """Mean, variance, max, min and range of every slice along `axis`."""
    array = pick(artifacts.load_npz(path), name, path)
    if not -array.ndim <= axis < array.ndim:
        raise InputError(f"{path}: {name} has {array.ndim} dimensions, axis {axis} is outside")
    slices = np.moveaxis(array.astype(np.float64), axis, 0).reshape(array.shape[axis], -1)
    lines = ["index\tmean\tvar\tmax\tmin\trange"]
    for index, values in enumerate(slices):
        low, high = values.min(), values.max()
        lines.append(f"{index}\t{values.mean():.6f}\t{values.var():.6f}\t{high:.6f}\t{low:.6f}\t{high - low:.6f}")
    return "\n".join(lines)


def nan_or_inf(path: str) -> list[str]:
    """One line per array that holds NaN or infinity, with the counts."""
    lines = []
    for name, array in artifacts.load_npz(path).items():
        if not np.issubdtype(array.dtype, np.floating):
            continue
        nans, infinities = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        if nans or infinities:
            lines.append(f"{name}: {nans} NaN, {infinities} inf of {array.size}")
    return lines
