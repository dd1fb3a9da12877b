"""Which number type each layer is asked to have, and which it gets (quantization notes, 6.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp, TopSoftmaxOp
from bmflow.dialects.top.matmul import TopLayerNormOp
from bmflow.dialects.top.pool import TopAvgPoolOp
from bmflow.errors import CompileError, InputError, nearest_names
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp
from bmflow.passes.lowering.base import INT8, Analysis, Choice, Lowerings, choose
from bmflow.passes.lowering.options import LoweringOptions
from bmflow.passes.lowering.propagate import activations
from bmflow.passes.lowering.ranges import Interval, Ranges, require_known
from bmflow.passes.rewrite import producer
from bmflow.tables.precision import PrecisionTable

MAX_THRESHOLD_RATIO = 64
"""Beyond it the smaller operand of an integer Add would keep less than two bits."""
_SMALLEST_THRESHOLD = 1e-8


@dataclass(frozen=True)
class Request:
    """The mode a layer is asked for, and where that comes from."""

    mode: str
    why: str


def choose_all(analysis: Analysis, imported: Ranges, table: Lowerings) -> dict[str, Choice]:
    """Decide how every layer but the inputs is lowered, by layer name.

    Args:
        imported: ranges as calibration gave them, before they were made to agree.
    Raises:
        InputError: an INT8 layer lacks a range; all layers concerned are named.
        CompileError: ops without a lowering; all of them are named.
    """
    choices: dict[str, Choice] = {}
    refused: list[str] = []
    layers = [op for op in analysis.module.layers() if not isinstance(op, TopInputOp)]
    for op in layers:
        request = _request(op, analysis.options, imported)
        choice = choose(op, request.mode, request.why, analysis, table)
        if isinstance(choice, Choice):
            choices[op.layer_name] = choice
        else:
            refused.append(f"{op.layer_name} ({op.name}): {choice}")
    if refused:
        raise CompileError(f"{analysis.module.name}: this version cannot lower {len(refused)} of its layers: {'; '.join(refused)}")
    _require_ranges(layers, choices, analysis)
    return choices


def check_precision(module: Module, options: LoweringOptions, table: PrecisionTable) -> None:
    """Refuse a quantize table that speaks of unknown layers or of types the processor lacks.

    Raises:
        InputError: naming them.
    """
    require_known(table.modes, [op.layer_name for op in module.layers()], "the quantize table", "correct the names")
    for name, mode in table.modes.items():
        if mode not in options.target.modes:
            has = ", ".join(options.target.modes)
            raise InputError(f"the quantize table: {name} is to run in {mode}, which {options.target.name} lacks; it has {has}")


def _request(op: LayerOp, options: LoweringOptions, imported: Ranges) -> Request:
    table = options.precision
    if table is not None and op.layer_name in table.modes:
        reason = table.reasons.get(op.layer_name)
        return Request(table.modes[op.layer_name], "quantize table" + (f" ({reason})" if reason else ""))
    if options.high_precision and isinstance(op, TopAvgPoolOp | TopSoftmaxOp):
        return Request("F32", "high precision")
    if options.mode == INT8 and isinstance(op, TopAddOp) and (reason := _far_apart(op, imported)):
        return Request(options.float_mode, reason)
    if options.mode == INT8 and isinstance(op, TopMulOp) and (source := _float_source(op)):
        return Request(options.float_mode, f"scales the float result of {source} before it is rounded to 8 bits")
    return Request(options.mode, "mode of the module")


def _float_source(op: TopMulOp) -> str:
    """The LayerNorm or Softmax whose result the constants of a Mul scale; empty for other products, and for a Softmax that has integers."""
    sources = [producer(value) for value in activations(op)]
    source = sources[0] if len(sources) == 1 else None
    is_float = isinstance(source, TopLayerNormOp) or (isinstance(source, TopSoftmaxOp) and source["axis"] != 1)
    return source.layer_name if isinstance(source, TopLayerNormOp | TopSoftmaxOp) and is_float else ""


def _far_apart(op: LayerOp, imported: Mapping[str, Interval]) -> str:
    thresholds = [imported[name].threshold for name in map(layer_name, activations(op)) if name in imported]
    if len(thresholds) < len(op.operands) or len(thresholds) < 2 or min(thresholds) < _SMALLEST_THRESHOLD:
        return ""
    low, high = min(thresholds), max(thresholds)
    return (
        f"its inputs reach {low:.4g} and {high:.4g}, more than {MAX_THRESHOLD_RATIO} times apart"
        if high > MAX_THRESHOLD_RATIO * low
        else ""
    )


def _require_ranges(layers: list[LayerOp], choices: Mapping[str, Choice], analysis: Analysis) -> None:
    """Every INT8 layer needs a range for what it reads and what it makes."""
    integers = [op for op in layers if choices[op.layer_name].compute == INT8]
    needed = [name for op in integers for name in (*map(layer_name, activations(op)), op.layer_name)]
    missing = [name for name in dict.fromkeys(needed) if name not in analysis.ranges]
    if not missing:
        return
    table = analysis.options.table
    if table is None:
        first = integers[0].layer_name
        raise InputError(
            f"{first}: is to run in INT8, which needs the ranges of a calibration table; run run_calibration and give its file"
        )
    listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    unused = [name for name in table.ranges if name not in needed]
    hint = nearest_names(missing[0], unused)
    raise InputError(
        f"the calibration table: no range above 0 for {listed}, which INT8 needs; calibrate {analysis.module.name} again"
        + (f", or correct the table: {hint}" if hint else "")
    )
