"""From the top dialect to the tpu dialect of one processor."""

from __future__ import annotations

from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.errors import CompileError, InputError
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp, TopWeightOp
from bmflow.passes.lowering import activation, combine, conv, matmul, move, pool
from bmflow.passes.lowering.base import INT8, Analysis, Choice, Lowerings
from bmflow.passes.lowering.boundary import calibrate_inputs, cast_outputs, strip_input_casts
from bmflow.passes.lowering.heads import Heads
from bmflow.passes.lowering.modes import check_precision, choose_all
from bmflow.passes.lowering.options import LoweringOptions
from bmflow.passes.lowering.propagate import propagate
from bmflow.passes.lowering.ranges import asymmetric_names, import_ranges
from bmflow.passes.lowering.writer import Writer
from bmflow.passes.rewrite import replace, users

LOWERINGS: Lowerings = (
    *conv.LOWERINGS, *matmul.LOWERINGS, *pool.LOWERINGS, *combine.LOWERINGS, *activation.LOWERINGS, *move.LOWERINGS
)  # fmt: skip
"""All lowerings; of those for one kind of op, the first one without an objection is taken."""


def lower(module: Module, options: LoweringOptions) -> Module:
    """Lower a top module; it stays as it is.

    Requires: an optimized top module. Ensures: every op but inputs and constants is of the tpu dialect, every layer keeps its name,
    inputs and outputs are F32 unless asked otherwise, `module.state` is TPU_LOWERED.

    Raises:
        InputError: a mode, table or range that does not fit the processor or the module.
        CompileError: ops without a lowering, all of them named.
    """
    analysis, choices = decide(module, options)
    writer = Writer(module.clone(), analysis)
    calibrate_inputs(writer)
    for op in [op for op in writer.module.layers() if not isinstance(op, TopInputOp)]:
        choice = choices[op.layer_name]
        replace(op, choice.lowering.lower(op, writer, choice.compute))
    return _finish(writer, options)


def explain_modes(module: Module, options: LoweringOptions) -> dict[str, str]:
    """Say for every layer but the inputs which type it computes in and why, e.g. `F16: quantize table`.

    Raises:
        as `lower`.
    """
    return {name: str(choice) for name, choice in decide(module, options)[1].items()}


def decide(module: Module, options: LoweringOptions) -> tuple[Analysis, dict[str, Choice]]:
    """Settle the ranges of all layers and how every layer but the inputs is lowered, by layer name; nothing is written yet.

    Raises:
        as `lower`.
    """
    _check(module, options)
    imported = import_ranges(module, options.table, options.asymmetric) if options.table else {}
    ranges = propagate(module, imported)
    heads, modes = Heads(module), options.precision.modes if options.precision else {}
    analysis = Analysis(
        module=module, options=options, ranges=ranges,
        asymmetric=asymmetric_names(module, options.table, options.asymmetric),
        weight_readers={
            op.layer_name: len(set(users(op.output))) for op in module.block.ops if isinstance(op, TopWeightOp)
        },
        wide=heads.wide(modes),
        narrow=heads.narrow(modes) & ranges.keys() if options.mode == INT8 else frozenset(),
    )  # fmt: skip
    return analysis, choose_all(analysis, imported, LOWERINGS)


def _check(module: Module, options: LoweringOptions) -> None:
    target = options.target
    target.require_mode(options.mode)
    if target.memory is None:
        raise CompileError(f"{target.name}: lowering is not supported yet; this version lowers for bm1684x")
    if options.asymmetric and not target.asymmetric:
        raise InputError(f"--asymmetric: {target.name} computes INT8 symmetrically only; leave the option out")
    if options.matmul_perchannel and any(isinstance(op, TopMatMulOp) for op in module.layers()):
        raise InputError("--matmul_perchannel: this version gives a matrix one scale for all of its columns; leave the option out")
    if options.precision is not None:
        check_precision(module, options, options.precision)
    if options.mode == INT8 and options.table is None:
        raise InputError("INT8 needs a calibration table; run run_calibration on this module and give its file")
    state = module.get("module.state")
    if state not in (None, "TOP_F32", "TOP_CALIBRATED"):
        raise InputError(
            f"{module.name}: expected a top module to lower, found the state {state}; give the .mlir that model_transform wrote"
        )


def _finish(writer: Writer, options: LoweringOptions) -> Module:
    module = writer.module
    if not options.quant_output:
        cast_outputs(writer)
    if options.quant_input:
        strip_input_casts(module)
    used = {op.layer_name for op in module.block.ops if isinstance(op, TopWeightOp)}
    module.weights = {name: array for name, array in module.weights.items() if name in used}
    module.op.attributes.pop("module.weight_file", None)
    for key, value in (("state", "TPU_LOWERED"), ("chip", options.target.name), ("mode", options.mode), ("asymmetric", options.asymmetric)):
        module.set(f"module.{key}", value)
    if options.high_precision:
        module.set("module.high_precision", True)
    module.refresh_signature()
    module.op.verify()
    return module
