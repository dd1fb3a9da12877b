"""The assembler: one method per command, operands as local tensors, constants and DDR views.

A method asserts what the instruction can express (CompileError naming the layer), fills the registers as the vendor's
compiler does (short TIU forms, 96-byte GDMA form, unused fields 0) and records which bytes of local memory the command reads
and writes, so that waits between the engines follow by themselves.
"""

from __future__ import annotations

from bmflow.codegen.fields import Arith
from bmflow.codegen.gdma import DmaCommands
from bmflow.codegen.tiu_matmul import MatrixCommands
from bmflow.codegen.tiu_vector import VectorCommands
from bmflow.codegen.tiu_window import WindowCommands

__all__ = ["Arith", "Assembler"]


class Assembler(WindowCommands, MatrixCommands, VectorCommands, DmaCommands):
    """Builds the TIU and the GDMA stream of one network; see the four parts for its commands."""
