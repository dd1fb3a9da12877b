"""What every decoded command tells: when it may start, which bytes it reads and writes, what it costs, how it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple, Protocol

from bmflow.errors import InputError
from bmflow.ir.types import DType
from bmflow.isa.program import Command
from bmflow.isa.tables import Engine
from bmflow.numerics.rounding import Rounding
from bmflow.simulator.memory import Block, Machine, Plane
from bmflow.simulator.operand import Ddr, Local, Shape, aligned_strides, compact_strides, constant, element_type
from bmflow.target import Target

Run = Callable[[], None]


class Operation(Protocol):
    """What a command does."""

    def bind(self, machine: Machine) -> Run:
        """Prepare it on a machine; the result does it once."""
        ...


class Work(NamedTuple):
    """What the cycle estimate needs: `unit` does `steps` steps; multiplications; bytes to or from DDR."""

    unit: str
    steps: float
    macs: int = 0
    ddr_bytes: int = 0


_NO_WORK = Work("system", 0)


@dataclass
class Instruction:
    """A decoded command. `complaints` are rules of the hardware that it breaks."""

    engine: Engine
    number: int
    wait: int
    name: str
    layer: str
    reads: list[Block] = field(default_factory=list[Block])
    writes: list[Block] = field(default_factory=list[Block])
    operation: Operation | None = None
    work: Work = _NO_WORK
    complaints: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        layer = f" of layer {self.layer}" if self.layer else ""
        return f"{self.engine} command {self.number} ({self.name}){layer}"


@dataclass(frozen=True)
class Place:
    """Where DDR memories lie."""

    ctx_address: int
    ctx_bytes: int
    coeff_address: int
    coeff_bytes: int


class Fields:
    """The register values of one command, operands made from them, and refusals that name it."""

    def __init__(self, command: Command, instruction: Instruction, target: Target, place: Place, where: str) -> None:
        self._fields = command.fields
        self.instruction = instruction
        self.target = target
        self.memory = target.require_codegen()
        self._place = place
        self._where = where

    def __getitem__(self, name: str) -> int:
        return self._fields.get(name, 0)

    def error(self, text: str) -> InputError:
        """The refusal of this command."""
        return InputError(f"{self._where}: {self.instruction}: {text}")

    def require(self, condition: bool, text: str) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: `text`, and that the file is damaged.
        """
        if not condition:
            raise self.error(f"{text}; the file is damaged")

    def support(self, condition: bool, text: str) -> None:
        """Refuse what the processor may do but this version cannot simulate.

        Raises:
            InputError: naming it.
        """
        if not condition:
            raise self.error(f"{text} is something this version cannot simulate")

    def expect(self, condition: bool, text: str) -> None:
        """Note a broken rule of the hardware that does not keep the command from being run."""
        if not condition:
            self.instruction.complaints.append(text)

    def shape(self, prefix: str) -> Shape:
        """The four sizes of an operand."""
        sizes = (self[f"{prefix}_n"], self[f"{prefix}_c"], self[f"{prefix}_h"], self[f"{prefix}_w"])
        self.require_sizes(prefix, sizes)
        return sizes

    def require_sizes(self, what: str, sizes: Sequence[int]) -> None:
        """Refuse sizes of 0."""
        self.require(all(sizes), f"{what} has the sizes {tuple(sizes)}, none may be 0")

    def dtype(self, prec: str, sign: int = 0) -> DType:
        """The element type in a precision field."""
        found = element_type(self[prec], sign)
        if found is None:
            raise self.error(f"{prec} {self[prec]} (4-bit integers or unknown) is something this version cannot simulate")
        return found

    def rounding(self, name: str, code: int | None = None) -> Rounding:
        """A rounding mode."""
        code = self[name] if code is None else code
        self.require(code in list(Rounding), f"{name} {code} is no rounding mode")
        return Rounding(code)

    def constant(self, address: str, dtype: DType) -> float | int:
        """A constant in an address field."""
        return constant(self[address], dtype)

    def local(self, address: str, shape: Shape, dtype: DType, strides: Shape | None = None, *, layout: int = 0) -> Local:
        """An operand in local memory as TIU sees it.

        Args:
            strides: explicit ones; None takes the layout: 0 EU-aligned, 1 compact, 2 one value per channel.
        Raises:
            InputError: it leaves local memory.
        """
        lane, offset = divmod(self[address], self.memory.lmem_bytes)
        free = strides is not None or layout in (1, 2)
        grain = dtype.itemsize if free else self.memory.eu_bytes
        self.expect(offset % grain == 0, f"{address} {self[address]:#x} is no multiple of {grain} bytes")
        if strides is None:
            strides = self._layout_strides(address, lane, shape, dtype, layout)
        return self.checked(address, Local(offset, lane, shape, strides, dtype))

    def checked(self, what: str, local: Local) -> Local:
        """The operand itself.

        Raises:
            InputError: it leaves local memory.
        """
        memory = self.memory
        self.require(0 <= local.lane < memory.lanes, f"{what}: starts in lane {local.lane}, there are {memory.lanes}")
        end = local.end(memory)
        self.require(end <= memory.lmem_bytes, f"{what}: reaches byte {end} of a lane of {memory.lmem_bytes}")
        self._require_elements(what, local.shape, memory.lanes * memory.lmem_bytes)
        return local

    def _require_elements(self, what: str, shape: Shape, limit: int) -> None:
        """Refuse more elements than a memory has bytes, which strides of 0 would allow."""
        self.require(prod(shape) <= limit, f"{what}: {prod(shape)} elements, the memory has {limit} bytes")

    def _layout_strides(self, address: str, lane: int, shape: Shape, dtype: DType, layout: int) -> Shape:
        match layout:
            case 0:
                return aligned_strides(self.memory, lane, shape, dtype)
            case 1:
                return compact_strides(self.memory, lane, shape, dtype)
            case 2:
                return 0, 1, 0, 0
            case _:
                raise self.error(f"layout code {layout} of {address} is something this version cannot simulate")

    def ddr(self, what: str, address: int, shape: Shape, strides: Shape, itemsize: int) -> Ddr:
        """A view of DDR.

        Raises:
            InputError: it lies outside of weights and activations.
        """
        place = self._place
        spans = ((Plane.COEFF, place.coeff_address, place.coeff_bytes), (Plane.CTX, place.ctx_address, place.ctx_bytes))
        for plane, start, size in spans:
            if start <= address < start + size:
                found = Ddr(plane, address - start, shape, strides, itemsize)
                end = found.blocks()[0].end
                self.require(end <= size, f"{what}: reaches {end - size} bytes past the end of the {plane.value}")
                self._require_elements(what, shape, max(size, self.memory.lanes * self.memory.lmem_bytes))
                return found
        raise self.error(f"{what}: address {address:#x} is neither in the weights nor in the activations; the file is damaged")

    def reads(self, *operands: Local) -> None:
        """Note which local operands are read."""
        for operand in operands:
            self.instruction.reads += operand.blocks(self.memory)

    def writes(self, *operands: Local) -> None:
        """Note which local operands are written."""
        for operand in operands:
            self.instruction.writes += operand.blocks(self.memory)

    def vector_steps(self, shape: Shape, itemsize: int) -> float:
        """Steps of one vector per lane to go over a tensor once."""
        n, c, h, w = shape
        return n * -(-c // self.memory.lanes) * -(-h * w * itemsize // self.memory.eu_bytes)
