"""What a bmodel file says, as values: nets, their stages, memory plan, weights and commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bmflow.ir.types import DType
from bmflow.isa.program import LayerSpan, ProgramTensor, WeightSpan

DATA_TYPES: Mapping[int, DType] = {
    0: DType.F32, 1: DType.F16, 2: DType.I8, 3: DType.U8, 4: DType.I16, 5: DType.U16, 6: DType.I32, 7: DType.U32, 8: DType.BF16,
}  # fmt: skip
"""`Tensor.data_type` codes (bmodel format notes, 2)."""


@dataclass(frozen=True)
class CommandGroup:
    """Two padded streams that run together; the counts include the end commands."""

    tiu: bytes
    gdma: bytes
    tiu_count: int
    gdma_count: int


@dataclass(frozen=True)
class Stage:
    """One compiled set of input shapes: memory plan, weight image and commands."""

    inputs: tuple[ProgramTensor, ...]
    outputs: tuple[ProgramTensor, ...]
    ctx_address: int
    ctx_bytes: int
    coeff: bytes
    coeff_address: int
    groups: tuple[CommandGroup, ...]
    layers: tuple[LayerSpan, ...] = ()
    weights: tuple[WeightSpan, ...] = ()


@dataclass(frozen=True)
class Net:
    """A network with its stages."""

    name: str
    stages: tuple[Stage, ...]
    addr_mode: int = 0


@dataclass(frozen=True)
class Bmodel:
    """A whole file. `chip` is the upper-case name; `time` ends with a newline, as C's ctime does."""

    version: str
    time: str
    chip: str
    nets: tuple[Net, ...]
