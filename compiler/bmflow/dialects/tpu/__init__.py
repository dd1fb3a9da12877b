"""The tpu dialect: a network whose every value has the number type that a processor computes it in.

Types say all about scales: `!quant.uniform<...>` for integers, f32/f16/bf16 (possibly calibrated) for floats. Weights are
top.Weight values of storage type (si8, ui8, i32, f32, f16, bf16). Shapes stay those of top.
"""

from xdsl.ir import Dialect

from bmflow.dialects.tpu import compute, convert, matmul, shape
from bmflow.ir.attributes import TPU_ENUMS

Tpu = Dialect("tpu", [*compute.OPS, *matmul.OPS, *convert.OPS, *shape.OPS], [*TPU_ENUMS])
