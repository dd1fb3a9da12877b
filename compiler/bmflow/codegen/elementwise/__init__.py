"""The arithmetic of element-by-element ops on one tile in local memory; loading, storing and tiling are the caller's."""

from bmflow.codegen.elementwise.activation import ActiveEmitter, ScaledActiveEmitter
from bmflow.codegen.elementwise.base import ElementwiseEmitter, Resident
from bmflow.codegen.elementwise.cast import CastEmitter
from bmflow.codegen.elementwise.combine import AddEmitter, MulEmitter
from bmflow.codegen.elementwise.layer_norm import LayerNormEmitter
from bmflow.codegen.elementwise.lookup import LutEmitter
from bmflow.codegen.elementwise.relu import ReluEmitter
from bmflow.codegen.elementwise.rescale import RescaleEmitter
from bmflow.codegen.elementwise.softmax import SoftmaxEmitter
from bmflow.numerics.rounding import Rounding

__all__ = ["EMITTERS", "ElementwiseEmitter", "Resident"]

EMITTERS: dict[str, ElementwiseEmitter] = {
    "tpu.Active": ActiveEmitter(),
    "tpu.Add": AddEmitter(),
    "tpu.Cast": CastEmitter(),
    "tpu.LayerNorm": LayerNormEmitter(),
    "tpu.Lut": LutEmitter(),
    "tpu.Mul": MulEmitter(),
    "tpu.MulShift": RescaleEmitter(Rounding.HALF_UP),
    "tpu.Relu": ReluEmitter(),
    "tpu.RequantInt": RescaleEmitter(Rounding.HALF_AWAY),
    "tpu.ScaledActive": ScaledActiveEmitter(),
    "tpu.Softmax": SoftmaxEmitter(),
}
