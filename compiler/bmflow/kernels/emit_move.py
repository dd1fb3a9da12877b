"""Ops that move values without changing them; integers and floats alike, both dialects."""

from __future__ import annotations

import numpy as np

from bmflow.ir.types import shape_of
from bmflow.kernels.emission import Emission, Emitter


def _source(e: Emission) -> str:
    """The operand, whose values must mean the same in the result's type."""
    e.require(e.held().dtype is e.result.dtype, f"from {e.held().dtype.value} to {e.result.dtype.value}")
    return e.input()


def emit_concat(e: Emission) -> str:
    """Join along the axis."""
    for index in range(len(e.op.operands)):
        found = e.held(index).dtype
        e.require(found is e.result.dtype, f"of {found.value} into {e.result.dtype.value}")
    return e.moved(e.node("Concat", *e.inputs, axis=e.integer("axis")))


def emit_slice(e: Emission) -> str:
    """x[offset : ends : steps]."""
    starts, ends, steps = (e.constant(np.array(e.ints(name), np.int64)) for name in ("offset", "ends", "steps"))
    axes = e.constant(np.arange(len(e.shape), dtype=np.int64))
    return e.node("Slice", _source(e), starts, ends, axes, steps)


def emit_reshape(e: Emission) -> str:
    """Another shape."""
    return e.reshape(_source(e), e.shape)


def emit_permute(e: Emission) -> str:
    """Transpose."""
    return e.node("Transpose", _source(e), perm=e.ints("order"))


def emit_depth_to_space(e: Emission) -> str:
    """Exchange blocks of pixels with channels: split the axes, put them in the other order, join them.

    deep: (n, [c] bh bw or bw bh [c], i, j); wide: (n, c, i, bh, j, bw).
    """
    e.require(e.flag("in_is_NCHW") and e.flag("out_is_NCHW"), "in another layout than NCHW")
    inverse, source = e.flag("is_inversed"), _source(e)
    n, c, height, width = shape_of(e.op.operands[0]) if inverse else e.shape
    block_h, block_w = e.integer("block_h"), e.integer("block_w")
    block = ["bw", "bh"] if e.flag("swap_cr") else ["bh", "bw"]
    deep = ["n", *(["c", *block] if e.flag("is_CRD") else [*block, "c"]), "i", "j"]
    wide = ["n", "c", "i", "bh", "j", "bw"]
    sizes = {"n": n, "c": c, "bh": block_h, "bw": block_w, "i": height // block_h, "j": width // block_w}
    before, after = (wide, deep) if inverse else (deep, wide)
    split = e.reshape(source, [sizes[axis] for axis in before])
    return e.reshape(e.node("Transpose", split, perm=[before.index(axis) for axis in after]), e.shape)


def emit_upsample(e: Emission) -> str:
    """y[h][w] = x[h // scale_h][w // scale_w]."""
    scales = e.constant(np.array([1, 1, e.integer("scale_h"), e.integer("scale_w")], np.float32))
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return e.moved(e.node("Resize", _source(e), "", scales, **settings))


EMITTERS: dict[str, Emitter] = {
    f"{dialect}.{name}": emitter
    for dialect in ("top", "tpu")
    for name, emitter in {
        "Concat": emit_concat,
        "Slice": emit_slice,
        "Reshape": emit_reshape,
        "Permute": emit_permute,
        "Depth2Space": emit_depth_to_space,
        "Upsample": emit_upsample,
    }.items()
}
