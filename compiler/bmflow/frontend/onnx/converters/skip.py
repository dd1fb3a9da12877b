"""Nodes that leave no op of their own: their output is their input, or they dissolve into the next op."""

from __future__ import annotations

from onnx import TensorProto

from bmflow.frontend.onnx.graph import Converter, Node, Padding, Unsupported

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax")
_FOLDS_PADS = ("Conv", "MaxPool", "AveragePool")


def convert_identity(node: Node) -> None:
    """Identity, Dropout (inference): the input itself."""
    if node.used(1):
        raise Unsupported("its mask is used")
    node.bind(node.value())


def convert_cast(node: Node) -> None:
    """Cast between float types: the input itself, for everything is float32 here."""
    kind = node.graph.known.types[node.proto.input[0]].tensor_type.elem_type
    if node.int("to") not in _FLOATS or kind not in _FLOATS:
        raise Unsupported(f"from {TensorProto.DataType.Name(kind)} to {TensorProto.DataType.Name(node.int('to'))}")
    node.bind(node.value())


def convert_pad(node: Node) -> None:
    """Pad with zeros around h and w, read by convolutions and pools only: becomes their pads."""
    if node.text("mode", "constant") != "constant" or _pad_value(node) != 0:
        raise Unsupported("only zeros can be folded into the next op")
    pads = _full_pads(node)
    if not any(pads):
        node.bind(node.value())
        return
    rank = len(node.shape())
    if rank != 4 or any((*pads[:2], *pads[4:6])) or min(pads) < 0:
        raise Unsupported(f"pads {pads}; only pads around h and w are supported")
    readers = node.graph.consumers.get(node.proto.output[0], [])
    if node.proto.output[0] in node.graph.outputs or any(reader.op_type not in _FOLDS_PADS for reader in readers):
        raise Unsupported("it is not followed by a convolution or a pool that could take its pads")
    producer = node.graph.producers.get(node.proto.input[0])
    never_negative = producer is not None and producer.op_type in _NEVER_NEGATIVE
    padding = Padding(node.value(), (pads[2], pads[3], pads[6], pads[7]), never_negative)
    node.graph.paddings[node.proto.output[0]] = padding
    node.bind(padding.value)


def _pad_value(node: Node) -> float:
    if node.graph.opset < 11:
        return node.float("value", 0.0)
    return float(node.constant(2, "its value").item()) if node.has(2) else 0.0


def _full_pads(node: Node) -> list[int]:
    """Pads at the begin of every dimension, then at the end."""
    if node.graph.opset < 11:
        return node.ints("pads")
    pads, rank = node.constant_ints(1, "its pads"), len(node.shape())
    if not node.has(3):
        return pads
    axes, full = node.constant_ints(3, "its axes"), [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis % rank], full[axis % rank + rank] = pads[i], pads[i + len(axes)]
    return full


CONVERTERS: dict[str, Converter] = {
    "Identity": convert_identity,
    "Dropout": convert_identity,
    "Cast": convert_cast,
    "Pad": convert_pad,
}
