"""The table of all emitters, by op name."""

from bmflow.kernels import emit_conv, emit_convert, emit_elementwise, emit_matmul, emit_move, emit_pool, emit_softmax
from bmflow.kernels.emission import Emitter

EMITTERS: dict[str, Emitter] = {
    **emit_conv.EMITTERS,
    **emit_matmul.EMITTERS,
    **emit_pool.EMITTERS,
    **emit_elementwise.EMITTERS,
    **emit_softmax.EMITTERS,
    **emit_convert.EMITTERS,
    **emit_move.EMITTERS,
}
