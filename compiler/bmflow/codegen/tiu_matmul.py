"""Matrix products: MM2, rows across lanes and columns along w (BM1684X instruction notes, 3.4)."""

from __future__ import annotations

from bmflow.codegen.dependencies import Engine
from bmflow.codegen.fields import PRECISION, is_aligned, sign
from bmflow.codegen.operand import Local
from bmflow.codegen.stream import CommandStreams
from bmflow.ir.types import DType

NN, NT = 4, 5


class MatrixCommands(CommandStreams):
    """matmul."""

    def matmul(self, out: Local, left: Local, right: Local, *, right_transpose: bool = False, res_add: bool = False) -> None:
        """out = left @ right (+ old out if res_add); a matrix (rows, columns) is a tensor (1, rows, 1, columns).

        Args:
            out: (m, n); i32 for 8-bit operands, else f32 or the operands' type.
            left: (m, k).
            right: (k, n), or (n, k) with right_transpose. All three lie EU-aligned from lane 0 on.
            res_add: for 32-bit results, not with right_transpose.
        Source: BM1684X instruction notes, 3.4. Unconfirmed: opd1_c and opd1_w are both sizes of the right operand as it is stored; what
        fills up the last vector of a row does not count; float sums are kept in f32 and rounded once; two unsigned operands give the
        bits of a signed sum.
        """
        m, k, n = self._check_matrices(out, left, right, right_transpose)
        self.require(
            not res_add or (not right_transpose and out.dtype.itemsize == 4), f"a sum of matrix products of type {out.dtype.value}"
        )
        fields = {
            "cmd_short": 1, "tsk_typ": 2, "tsk_eu_typ": NT if right_transpose else NN, "opd0_sign": sign(left.dtype),
            "opd1_sign": sign(right.dtype), "res0_prec": PRECISION[out.dtype], "opd0_prec": PRECISION[left.dtype], "res0_c": m, "res0_w": n,
            "opd1_c": n if right_transpose else k, "opd1_w": k if right_transpose else n, "opd2_const": 1, "res_add": int(res_add),
            "res0_addr": self.tiu_address(out), "opd0_addr": self.tiu_address(left), "opd1_addr": self.tiu_address(right),
        }  # fmt: skip
        self.append(Engine.TIU, "sMM2", fields, [out], [left, right, *([out] if res_add else [])])

    def _check_matrices(self, out: Local, left: Local, right: Local, right_transpose: bool) -> tuple[int, int, int]:
        """The sizes m, k, n of a product that the command has."""
        matrices = (out, left, right)
        self.require_sizes(*(matrix.shape for matrix in matrices))
        (m, n), (rows, k), stored = ((matrix.shape[1], matrix.shape[3]) for matrix in matrices)
        plain = all(matrix.shape[0] == matrix.shape[2] == 1 for matrix in matrices)
        fits = rows == m and stored == ((n, k) if right_transpose else (k, n))
        self.require(plain and fits, f"a matrix product of {left.shape} and {right.shape} into {out.shape}")
        placed = all(matrix.lane == 0 and is_aligned(self.memory, matrix) for matrix in matrices)
        self.require(placed, "a matrix product of operands that are not aligned in lane 0")
        kinds = f"a matrix product of {left.dtype.value} and {right.dtype.value} into {out.dtype.value}"
        if left.dtype.is_float:
            self.require(right.dtype is left.dtype and out.dtype in (left.dtype, DType.F32), kinds)
        else:
            integers = all(not matrix.dtype.is_float and matrix.dtype.itemsize == 1 for matrix in (left, right))
            self.require(integers and out.dtype is DType.I32, kinds)
        return m, k, n
