"""The top dialect: the network in float32, independent of any processor.

Operands that may be absent take the result of top.None. Optional attributes and their defaults are in each op's
`DEFAULTS`. `relu` attributes: `do_relu` clamps below at 0, `relu_limit` > 0 also clamps above.
"""

from xdsl.ir import Dialect

from bmflow.dialects.top import conv, elementwise, matmul, pool, shape
from bmflow.ir.structure import STRUCTURE_OPS

Top = Dialect("top", [*STRUCTURE_OPS, *conv.OPS, *matmul.OPS, *pool.OPS, *elementwise.OPS, *shape.OPS])
