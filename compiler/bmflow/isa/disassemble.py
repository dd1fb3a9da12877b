"""Commands as text, one line each, in the words of vendor listings.

    B10     wait D4     arith.adds                R8 [1, 32, 64, 320] i32 = R5.8972 si32 / [0, 1, 0, 0], R8 si32

`B10`, `D4`: tenth TIU, fourth GDMA command. `R5.8972.L6`: local memory, bank 5, byte 8972 of the bank, first lane 6 (lane 0 is left out);
`G4096`: DDR, counted from its base; `S1472`: static memory; `C3`: a constant (its bits). `[...]`: sizes n, c, h, w; `/ [...]`: strides
in elements. Fields that belong to no operand stand in braces; fields that are 0 are left out there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bmflow.isa.program import Command
from bmflow.isa.tables import InstructionSet, Layout
from bmflow.target import Memory

_DIMS = "nchw"
_TYPES = {0: "i8", 1: "f16", 2: "f32", 3: "i16", 4: "i32", 5: "bf16", 6: "i4"}
_LAYOUTS = {1: "compact", 2: "per channel", 4: "table"}
_EXPLICIT = 3
"""Layout codes of an operand: 0 is aligned, 3 has strides of its own (BM1684X instruction notes, 1.6)."""
_IMPLIED = {
    "cmd_short", "cmd_id", "cmd_id_dep", "cmd_id_en", "tsk_typ", "tsk_eu_typ", "tsk_opd_num", "cmd_type", "cmd_special_function",
    "stride_enable", "nchw_copy",
}  # fmt: skip
"""Fields that the rest of a line tells, or that are the same in every command."""
_ALL_LANES = {("localmem_mask_l32", 0xFFFFFFFF), ("localmem_mask_h32", 0xFFFFFFFF)}
_TIU_OPERANDS = ("res0", "res1", "opd0", "opd1", "opd2", "opd3")
_GDMA_OPERANDS = ("dst", "src", "index", "mask")
_STRIDED = ("res0", "opd0", "opd1")
"""TIU operands whose `_str` fields are strides; those of opd2 hold rounding modes and iteration counts."""


def disassemble(
    isa: InstructionSet, commands: Sequence[Command], memory: Memory | None = None, notes: Mapping[int, str] | None = None
) -> str:
    """Text of the commands of one stream.

    Args:
        memory: sizes and bases of the processor; without it addresses are plain numbers.
        notes: a line to put before the command of that id, e.g. the layer that begins there.
    """
    lines: list[str] = []
    for command in commands:
        note = notes.get(command.fields.get("cmd_id", 0)) if notes else None
        lines += [f"# {note}"] if note else []
        lines.append(command_text(isa, command, memory))
    return "\n".join(lines)


def command_text(isa: InstructionSet, command: Command, memory: Memory | None = None) -> str:
    """Text of one command."""
    layout = isa.layout(command.layout)
    view = _View(layout, command.fields, memory)
    tiu = layout.engine == "TIU"
    operation = command.fields.get("tsk_eu_typ" if tiu else "cmd_special_function", 0)
    mnemonic = layout.operations.get(operation) or f"{layout.name}.{operation}"
    wait = command.fields.get("cmd_id_dep", 0)
    waits = f"wait {'D' if tiu else 'B'}{wait}" if wait else ""
    name = f"{'B' if tiu else 'D'}{command.fields.get('cmd_id', 0)}"
    body = view.statement(_TIU_OPERANDS, view.tiu_operand) if tiu else view.statement(_GDMA_OPERANDS, view.gdma_operand)
    return f"{name:<8}{waits:<12}{mnemonic:<26}{body}".rstrip()


class _View:
    """The fields of a command, read operand by operand; remembers which it has shown."""

    def __init__(self, layout: Layout, fields: Mapping[str, int], memory: Memory | None) -> None:
        self._layout = layout
        self._fields = fields
        self._memory = memory
        self._shown: set[str] = set()

    def statement(self, names: Sequence[str], operand: Callable[[str], str]) -> str:
        """`results = operands {what is left}`."""
        texts = {name: operand(name) for name in names}
        results = [text for name, text in texts.items() if text and name in ("res0", "res1", "dst")]
        sources = [text for name, text in texts.items() if text and name not in ("res0", "res1", "dst")]
        left = {name: value for name, value in self._fields.items() if value and name not in self._shown | _IMPLIED}
        rest = [f"{name} = {value}" for name, value in left.items() if (name, value) not in _ALL_LANES]
        sides = " = ".join(", ".join(side) for side in (results, sources) if side)
        return sides + (f" {{{', '.join(rest)}}}" if rest else "")

    def tiu_operand(self, name: str) -> str:
        """Place, sizes, type and strides of an operand; empty when the command does not use it."""
        if not self._is_used(name):
            return ""
        place = self._take(f"{name}_addr")
        constant = self._take(f"{name}_const")
        sizes, dtype = self._list(f"{name}_%s"), self._type(f"{name}_prec", f"{name}_sign")
        if constant:
            return f"C{place}{dtype}"
        return f"{self._tiu_place(place)}{sizes}{dtype}{self._tiu_strides(name) if name in _STRIDED else ''}"

    def gdma_operand(self, name: str) -> str:
        """Place, sizes, type and strides of one side of a transfer; empty when the command has no such side."""
        low, high = ("h32", "l8") if f"{name}_start_addr_l8" in self._layout.fields else ("l32", "h8")  # DMA_matrix swaps the names
        if f"{name}_start_addr_{low}" not in self._layout.fields:
            return ""
        place = self._take(f"{name}_start_addr_{low}") | self._take(f"{name}_start_addr_{high}") << 32
        sizes, dtype = self._list(f"{name}_%ssize"), self._type(f"{name}_data_format", "")
        if name == "src" and self._take("fill_constant_en"):
            return f"C{self._take('constant_value')}{dtype}"
        strides = self._list(f"{name}_%sstride")
        return f"{self._gdma_place(place)}{sizes}{dtype}{' /' if strides else ''}{strides}"

    def _take(self, name: str) -> int:
        self._shown.add(name)
        return self._fields.get(name, 0)

    def _is_used(self, name: str) -> bool:
        """Whether an operand takes part: as many as the command says, else those that every command of the layout has or that are set."""
        if f"{name}_addr" not in self._layout.fields:
            return False
        if "tsk_opd_num" in self._layout.fields and name.startswith("opd"):
            return int(name[-1]) < self._fields.get("tsk_opd_num", 0)
        return name in _STRIDED or any(self._fields.get(f"{name}_{part}") for part in ("addr", "const"))

    def _list(self, pattern: str) -> str:
        """` [n, c, h, w]` of the fields that the layout has; dimensions without a field are `-`; empty when all are 0."""
        names = [pattern % dim for dim in _DIMS]
        values = [str(self._take(name)) if name in self._layout.fields else "-" for name in names]
        return f" [{', '.join(values)}]" if any(self._fields.get(name) for name in names) else ""

    def _type(self, code: str, sign: str) -> str:
        if code not in self._layout.fields:
            return (" signed" if self._take(sign) else " unsigned") if sign in self._layout.fields else ""
        text = _TYPES.get(self._take(code), "?")
        if sign in self._layout.fields and text.startswith("i"):
            text = f"{'s' if self._take(sign) else 'u'}{text}"
        return f" {text}"

    def _tiu_strides(self, name: str) -> str:
        code = self._take(f"{name}_str")
        strides = self._list(f"{name}_%s_str")
        return f" /{strides or ' [0, 0, 0, 0]'}" if code == _EXPLICIT else f" {_LAYOUTS.get(code, '')}".rstrip()

    def _tiu_place(self, address: int) -> str:
        memory = self._memory
        if memory is None:
            return hex(address)
        if address >= memory.smem_tiu_base:
            return f"S{address - memory.smem_tiu_base}"
        return _local_place(address, memory)

    def _gdma_place(self, address: int) -> str:
        memory = self._memory
        if memory is None:
            return hex(address)
        if address >= memory.coeff_base:
            return f"G{address - memory.coeff_base}"
        offset = address - memory.lmem_gdma_base
        return _local_place(offset, memory) if 0 <= offset < memory.lmem_bytes * memory.lanes else hex(address)


def _local_place(address: int, memory: Memory) -> str:
    lane, offset = divmod(address, memory.lmem_bytes)
    bank, byte = divmod(offset, memory.bank_bytes)
    return f"R{bank}" + (f".{byte}" if byte else "") + (f".L{lane}" if lane else "")
