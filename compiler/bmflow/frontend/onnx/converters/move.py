"""Ops that move values: joining, cutting, reshaping, transposing."""

from __future__ import annotations

from bmflow.dialects.top.shape import TopConcatOp, TopPermuteOp, TopReshapeOp, TopSliceOp
from bmflow.frontend.onnx.graph import Converter, Node, Unsupported
from bmflow.ir.attributes import Python
from bmflow.ir.values import SSAValue


def convert_concat(node: Node) -> None:
    """Concat -> top.Concat."""
    axis = node.int("axis") % len(node.output_shape())
    operands = [node.value(i) for i in range(len(node.proto.input))]
    node.bind(node.emit(TopConcatOp, operands, {"axis": axis}))


def convert_reshape(node: Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze -> top.Reshape."""
    node.bind(node.emit(TopReshapeOp, [node.value()], {"shape": list(node.output_shape())}))


def convert_transpose(node: Node) -> None:
    """Transpose -> top.Permute."""
    rank = len(node.shape())
    order = node.ints("perm", list(reversed(range(rank))))
    node.bind(node.emit(TopPermuteOp, [node.value()], {"order": order}))


def convert_slice(node: Node) -> None:
    """Slice -> top.Slice with one resolved offset, end and step per dimension."""
    shape = node.shape()
    starts, ends, axes, steps = _slice_arguments(node)
    offset, stop, stride = [0] * len(shape), list(shape), [1] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise Unsupported(f"step {step}; only positive steps are supported")
        size = shape[axis]
        offset[axis], stop[axis], stride[axis] = _clamp(start, size), _clamp(end, size), step
    node.bind(node.emit(TopSliceOp, _slice_operands(node), _slice_settings(offset, stop, stride)))


def _slice_arguments(node: Node) -> tuple[list[int], list[int], list[int], list[int]]:
    if node.graph.opset < 10:
        starts, ends = node.ints("starts"), node.ints("ends")
        return starts, ends, node.ints("axes", list(range(len(starts)))), [1] * len(starts)
    starts, ends = node.constant_ints(1, "starts"), node.constant_ints(2, "ends")
    axes = node.constant_ints(3, "axes") if node.has(3) else list(range(len(starts)))
    steps = node.constant_ints(4, "steps") if node.has(4) else [1] * len(starts)
    return starts, ends, axes, steps


def _clamp(position: int, size: int) -> int:
    return min(max(position + size if position < 0 else position, 0), size)


def _slice_operands(node: Node) -> list[SSAValue]:
    return [node.value(), node.none, node.none, node.none]


def _slice_settings(offset: list[int], ends: list[int], steps: list[int]) -> dict[str, Python]:
    return {"offset": list(offset), "ends": list(ends), "steps": list(steps), "axes": []}


def convert_split(node: Node) -> None:
    """Split -> one top.Slice for every output that is used."""
    shape = node.shape()
    axis, begin = node.int("axis") % len(shape), 0
    for index, output in enumerate(node.proto.output):
        part = node.output_shape(index)
        offset, ends = [0] * len(shape), list(shape)
        offset[axis], ends[axis] = begin, begin + part[axis]
        begin = ends[axis]
        if node.used(index):
            settings = _slice_settings(offset, ends, [1] * len(shape))
            node.bind(node.emit(TopSliceOp, _slice_operands(node), settings, part, f"{output}_Split"), index)


def convert_gather(node: Node) -> None:
    """Gather by one constant index, or by several at equal distances -> top.Slice, and top.Reshape where the axis vanishes."""
    shape, axis = node.shape(), node.int("axis") % len(node.shape())
    given = node.constant(1, "its index")
    if node.is_constant(0):
        raise Unsupported("its data are constant")
    indices = [int(i) % shape[axis] for i in given.ravel()]
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if given.ndim > 1 or not indices or step < 1 or indices != list(range(indices[0], indices[-1] + 1, step)):
        raise Unsupported(f"indices {given.tolist()}; only one, or several at equal distances upwards, are supported")
    if len(shape) == 1 and given.ndim == 0:
        raise Unsupported("its result is a single number")
    offset, ends, steps = [0] * len(shape), list(shape), [1] * len(shape)
    offset[axis], ends[axis], steps[axis] = indices[0], indices[-1] + 1, step
    kept = (*shape[:axis], len(indices), *shape[axis + 1 :])
    name = node.name if given.ndim else f"{node.name}_slice"
    part = node.emit(TopSliceOp, _slice_operands(node), _slice_settings(offset, ends, steps), kept, name)
    node.bind(part if given.ndim else node.emit(TopReshapeOp, [part], {"shape": list(node.output_shape())}))


CONVERTERS: dict[str, Converter] = {
    "Concat": convert_concat,
    "Reshape": convert_reshape,
    "Flatten": convert_reshape,
    "Squeeze": convert_reshape,
    "Unsqueeze": convert_reshape,
    "Transpose": convert_transpose,
    "Slice": convert_slice,
    "Split": convert_split,
    "Gather": convert_gather,
}
