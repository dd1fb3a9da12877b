"""Commands on single elements and between lanes: arithmetic, requantization, look-up, series, transposes (BM1684X instruction notes, 3.5-3.9)."""

from __future__ import annotations

from bmflow.codegen.dependencies import Engine
from bmflow.codegen.fields import DIMS, PRECISION, Arith, Layout, constant_bits, is_aligned, sign, sizes, strides_that_fit, touched
from bmflow.codegen.operand import Constant, Local, Shape
from bmflow.codegen.stream import CommandStreams
from bmflow.numerics.rounding import Rounding

Operand = Local | Constant
ARITH_STRIDES: Shape = (1 << 16, 1 << 16, 1 << 18, 1 << 18)
TABLE_ENTRIES = 256
TAYLOR, RSQRT = 13, 17
SUMS_AND_PRODUCTS = (Arith.MUL, Arith.ADD, Arith.SUB, Arith.ADDS, Arith.SUBS, Arith.MULS)


class VectorCommands(CommandStreams):
    """arith, requant, requant_const, gather, taylor, rsqrt, lane_broadcast, lane_copy."""

    def arith(
        self, op: Arith, out: Local, a: Operand, b: Operand | None = None, c: Constant | None = None, *,
        rounding: Rounding = Rounding.HALF_TO_EVEN, iterations: int = 3,
    ) -> None:  # fmt: skip
        """out = a op b, element by element; a stride 0 repeats an operand along a dimension.

        Args:
            c: shift applied to an integer sum or product before it is narrowed, negative = right; 8 bits.
            rounding: of that shift, or of a conversion.
            iterations: of a division.
        Source: BM1684X instruction notes, 3.5; unconfirmed: conversions to integers saturate.
        """
        operands = [x for x in (a, b, c) if x is not None]
        self._check_arith(op, out, a, b)
        fields = {"tsk_typ": 3, "tsk_eu_typ": int(op), "tsk_opd_num": len(operands), "cmd_short": 1, **sizes(out, "res0")}
        fields |= self._arith_operand("res0", out)
        for name, operand in zip(("opd0", "opd1"), (a, b), strict=True):
            if operand is not None:
                fields |= self._arith_operand(name, operand) | {f"{name}_sign": sign(operand.dtype)}
        if c is not None:
            fields |= {"opd2_const": 1, "opd2_addr": constant_bits(c), "opd2_prec": PRECISION[c.dtype]}
        if c is not None or op is Arith.CAST:
            fields |= {"opd2_n_str": rounding.value}
        if op is Arith.CAST:
            fields |= {"opd2_sign": sign(out.dtype)}
        if op is Arith.DIV:
            fields |= {"opd2_n_str": iterations - 1}
        self.append(Engine.TIU, "sAR", fields, [out], [x for x in (a, b) if isinstance(x, Local)])

    def requant(self, out: Local, x: Local, table: Local, *, rounding: Rounding = Rounding.HALF_UP) -> None:
        """out = sat(round_shift(x * multiplier[c], shift[c]) + zero point[c]) with a 64-bit product (unconfirmed).

        Args:
            table: (1, c, 1, 3) i32, rows (multiplier, minus right shift, zero point) one vector apart.
        """
        self.require(table.address % 8 == 0, f"a requantization table at {table.address}")
        self.append(Engine.TIU, "sRQ&sDQ", self._requant(out, x, rounding) | {"opd1_addr": self.tiu_address(table)}, [out], [x, table])

    def requant_const(
        self, out: Local, x: Local, multiplier: int, rshift: int, zero_point: int = 0, *, rounding: Rounding = Rounding.HALF_UP
    ) -> None:
        """`requant` with the same numbers for all channels; rshift -128..127, negative shifts left.

        Unconfirmed: the zero point in bits 8..23 of operand 2, as the chip's own decoder reads it.
        """
        self.require(-128 <= -rshift <= 127 and -(1 << 31) <= multiplier < 1 << 31, f"requantization by {multiplier} >> {rshift}")
        packed = (-rshift & 0xFF) | (zero_point & 0xFFFF) << 8
        constants = {"opd1_const": 1, "opd1_addr": multiplier & 0xFFFFFFFF, "opd2_addr": packed}
        self.append(Engine.TIU, "sRQ&sDQ", self._requant(out, x, rounding) | constants, [out], [x])

    def gather(self, out: Local, table: Local, index: Local, *, per_channel: bool = False) -> None:
        """out = table[index] for bytes; `index` is read as unsigned.

        Args:
            out, index: EU-aligned, one shape (n, c, 1, w).
            table: 256 bytes in every lane, one copy for all channels; or (1, c, 1, 256), EU-aligned, a table for every channel. out,
                table and index lie in different banks.
        Source: BM1684X instruction notes, 3.8; the form with a table per channel is in the kernel interface only.
        """
        self.require_sizes(out.shape)
        self.require(out.shape == index.shape and out.shape[2] == 1, "a look-up of another shape")
        self.require(is_aligned(self.memory, out) and is_aligned(self.memory, index), "a look-up of operands that are not aligned")
        self.require(table.address % self.memory.eu_bytes == 0, f"a look-up table at {table.address}")
        self.require(self._separate_banks(out, table, index), "a look-up within one bank")
        _, c, _, w = index.shape
        own = table.shape == (1, c, 1, TABLE_ENTRIES) and is_aligned(self.memory, table)
        self.require(own or not per_channel, f"a look-up of {c} channels in tables of shape {table.shape}")
        layout = Layout.ALIGNED if per_channel else Layout.TABLE
        fields = {
            "cmd_short": 1, "tsk_typ": 6, "tsk_eu_typ": 5, "opd0_str": layout, "opd0_h": 1, "opd0_w": TABLE_ENTRIES,
            "opd1_c": c, "opd1_w": w, "res0_prec": PRECISION[out.dtype], "opd0_prec": PRECISION[table.dtype],
            "opd1_prec": PRECISION[index.dtype], "res0_addr": self.tiu_address(out), "opd0_addr": self.tiu_address(table),
            "opd1_addr": self.tiu_address(index), **sizes(out, "res0"),
        }  # fmt: skip
        self.append(Engine.TIU, "sSG", fields, [out], [index, table])

    def taylor(self, out: Local, x: Local, coefficients: Local, terms: int) -> None:
        """out = sum over k < terms of coefficients[k] * x^k (unconfirmed: by Horner's rule in f32).

        Args:
            coefficients: `terms` values of the operand's type in every lane.
        """
        self.require_sizes((terms,))
        self.require(coefficients.dtype is x.dtype, "a series of mixed types")
        fields = {"opd1_n": terms, "opd1_addr": self.tiu_address(coefficients)}
        self.append(Engine.TIU, "sSFU", self._special_function(TAYLOR, out, x) | fields, [out], [x, coefficients])

    def rsqrt(self, out: Local, x: Local, iterations: int = 4) -> None:
        """out = 1 / sqrt(x) for x > 0.

        Args:
            iterations: 1..4 steps of refinement; unconfirmed: four reach the correctly rounded value in f32.
        """
        self.require(1 <= iterations <= 4, f"{iterations} iterations of a square root")
        fields = self._special_function(RSQRT, out, x) | {"opd2_n_str": iterations - 1}
        self.append(Engine.TIU, "sSFU", fields, [out], [x])

    def _special_function(self, kind: int, out: Local, x: Local) -> dict[str, int]:
        self.require_sizes(out.shape)
        self.require(out.shape == x.shape and out.lane == x.lane, "a function with a result of another shape")
        self.require(out.dtype is x.dtype and x.dtype.is_float, "a function of mixed types")
        self.require(is_aligned(self.memory, out) and is_aligned(self.memory, x), "a function of operands that are not aligned")
        return {
            "cmd_short": 1, "tsk_typ": 9, "tsk_eu_typ": kind, "res0_prec": PRECISION[out.dtype], "opd0_prec": PRECISION[x.dtype],
            "res0_addr": self.tiu_address(out), "opd0_addr": self.tiu_address(x), **sizes(out, "res0"),
        }  # fmt: skip

    def lane_broadcast(self, out: Local, x: Local) -> None:
        """Copy one channel, (n, 1, h, w), to the lanes of `out`, (n, c, h, w); in place is allowed."""
        self.require(x.shape[1] == 1 and out.lane + out.shape[1] <= self.memory.lanes, f"a broadcast of {x.shape} to {out.shape}")
        self._between_lanes(3, out, x)

    def lane_copy(self, out: Local, x: Local) -> None:
        """Copy a tensor to the same shape from another start lane on."""
        self.require(out.shape == x.shape and out.address != x.address, "a lane copy in place")
        self._between_lanes(2, out, x)

    def _between_lanes(self, kind: int, out: Local, x: Local) -> None:
        self.require_sizes(out.shape)
        self.require(is_aligned(self.memory, out) and is_aligned(self.memory, x), "a copy between lanes that is not aligned")
        fields = {
            "cmd_short": 1, "tsk_typ": 5, "tsk_eu_typ": kind, "res0_prec": PRECISION[out.dtype], "opd0_c": x.shape[1],
            "opd0_w": x.shape[3], "res0_addr": self.tiu_address(out), "opd0_addr": self.tiu_address(x), **sizes(out, "res0"),
        }  # fmt: skip
        self.append(Engine.TIU, "sTRANS&sBC", fields, [out], [x])

    def _arith_operand(self, name: str, operand: Operand) -> dict[str, int]:
        """Type, address and layout of one operand, or the constant."""
        fields = {f"{name}_prec": PRECISION[operand.dtype]}
        if isinstance(operand, Constant):
            return fields | {f"{name}_const": 1, f"{name}_addr": constant_bits(operand)}
        fields[f"{name}_addr"] = self.tiu_address(operand)
        if is_aligned(self.memory, operand):
            return fields | {f"{name}_str": Layout.ALIGNED}
        strides = strides_that_fit(self.memory, operand, ARITH_STRIDES)
        self.require(strides is not None, f"an operand with strides {operand.strides}")
        assert strides is not None
        self.require(operand.address % operand.dtype.itemsize == 0, f"an operand at {operand.address}")
        return fields | {f"{name}_str": Layout.EXPLICIT, **{f"{name}_{dim}_str": s for dim, s in zip(DIMS, strides, strict=True)}}

    def _check_arith(self, op: Arith, out: Local, a: Operand, b: Operand | None) -> None:
        self.require_sizes(out.shape)
        operands = [x for x in (a, b) if x is not None]
        self.require(len(operands) == (1 if op in (Arith.CAST, Arith.COPY, Arith.ABS) else 2), f"{op.name} of {len(operands)} operands")
        for local in operands:
            same = isinstance(local, Constant) or (local.shape == out.shape and local.lane == out.lane)
            self.require(same, f"{op.name} of another shape than {out.shape}")
        types = {x.dtype for x in operands}
        kinds = ", ".join(sorted(dtype.value for dtype in types))
        if op in SUMS_AND_PRODUCTS and not out.dtype.is_float:
            self.require(not any(dtype.is_float for dtype in types), f"integer {op.name} of {kinds}")
            signed = any(dtype.signed for dtype in types)
            self.require(out.dtype.signed == signed, f"{op.name} of {kinds} with a result of type {out.dtype.value}")
        elif op is not Arith.CAST:
            self.require(types == {out.dtype}, f"{op.name} of {kinds} with a result of type {out.dtype.value}")

    def _requant(self, out: Local, x: Local, rounding: Rounding) -> dict[str, int]:
        self.require_sizes(out.shape)
        self.require(out.shape == x.shape and out.lane == x.lane, "a requantization to another shape")
        self.require(is_aligned(self.memory, out) and is_aligned(self.memory, x), "a requantization of operands that are not aligned")
        return {
            "cmd_short": 1, "tsk_typ": 4, "tsk_eu_typ": 1, "opd0_sign": sign(x.dtype), "opd2_sign": sign(out.dtype),
            "opd0_prec": PRECISION[x.dtype], "res0_prec": PRECISION[out.dtype], "opd2_n_str": rounding.value,
            "res0_addr": self.tiu_address(out), "opd0_addr": self.tiu_address(x), **sizes(out, "res0"),
        }  # fmt: skip

    def _separate_banks(self, *operands: Local) -> bool:
        """Whether no two operands touch the same bank."""
        banks: list[int] = []
        for local in operands:
            access, size = touched(self.memory, local, False), self.memory.bank_bytes
            banks += range(access.begin // size, -(-access.end // size))
        return len(banks) == len(set(banks))
