"""Lowering: a top module and its tables become a tpu module, every value in the number type the processor computes it in.

Ranges come from the calibration table (`ranges`), are made to agree along the network (`propagate`), modes are settled layer by
layer (`modes`), and each op is written by the first of its lowerings that takes it (`conv`, `matmul`, `pool`, `combine`, `activation`, `move`;
the whole table is `LOWERINGS`). Casts appear where types meet (`writer`) and at the network's ends (`boundary`).

Left out: 16-bit results of detection heads whose tail is float (quantization notes, 7.2 output_int16), because no kernel or
emitter holds 16-bit activations.
"""

from bmflow.passes.lowering.lower import LOWERINGS, decide, explain_modes, lower
from bmflow.passes.lowering.options import LoweringOptions

__all__ = ["LOWERINGS", "LoweringOptions", "decide", "explain_modes", "lower"]
