"""What lowering is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable
from bmflow.target import Target


@dataclass(frozen=True)
class LoweringOptions:
    """The processor, the number types wanted, and the tables.

    mode: F32, F16, BF16 or INT8, for every layer that `precision` does not name. asymmetric: integers with zero points.
    table: ranges of all tensors, needed as soon as one layer is INT8. quant_input, quant_output: leave out the casts at the
    network's ends, so that inputs and outputs are of the type computed in. high_precision: AvgPool and Softmax in F32.
    matmul_perchannel is refused where there is a matrix product: its right operand has one scale.
    """

    target: Target
    mode: str
    asymmetric: bool = False
    table: CalibrationTable | None = None
    precision: PrecisionTable | None = None
    quant_input: bool = False
    quant_output: bool = False
    high_precision: bool = False
    matmul_perchannel: bool = False

    @property
    def float_mode(self) -> str:
        """The float type a layer gets whose integer form would lose too much, or does not exist."""
        return self.target.float_types[0]
