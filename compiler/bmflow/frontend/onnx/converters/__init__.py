"""One file per operator family; the tables joined in this order say what can be converted."""

from bmflow.frontend.onnx.converters import conv, elementwise, matmul, move, pool, resize, skip
from bmflow.frontend.onnx.graph import Converter

CONVERTERS: dict[str, Converter] = {
    **conv.CONVERTERS,
    **pool.CONVERTERS,
    **elementwise.CONVERTERS,
    **matmul.CONVERTERS,
    **move.CONVERTERS,
    **resize.CONVERTERS,
    **skip.CONVERTERS,
}
