"""The verb of model_deploy: lower a top module, generate code, and check every step against the one before it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bmflow import __version__, artifacts, target
from bmflow.errors import InputError, nearest_names

if TYPE_CHECKING:
    from bmflow.ir.module import Module
    from bmflow.isa.program import Program
    from bmflow.numerics.similarity import Report
    from bmflow.passes.lowering import LoweringOptions
    from bmflow.simulator import Simulator
    from bmflow.target import Target

LOG = logging.getLogger("bmflow")
Show = Callable[[str], None]
Step = Callable[[str], AbstractContextManager[object]]
TOLERANCES = {"F32": (0.99, 0.99), "F16": (0.99, 0.90), "BF16": (0.99, 0.90), "INT8": (0.90, 0.80)}
CORRECTNESS, MIXED_CORRECTNESS = (0.99, 0.90), (0.98, 0.80)


@dataclass(frozen=True)
class DeployOptions:
    """What model_deploy was asked to do.

    quantize_table is a file or inline text `layer:F16,layer:INT8`. tolerance (top against tpu) and correctness (tpu against bmodel)
    are (cosine, euclid) lower bounds, None for the defaults of the mode. With `model` empty the work ends after the lowered module.
    """

    mlir: str
    processor: str
    model: str
    quantize: str = "F32"
    asymmetric: bool = False
    calibration_table: str = ""
    quantize_table: str = ""
    test_input: Sequence[str] = ()
    test_reference: str = ""
    tolerance: tuple[float, float] | None = None
    correctness: tuple[float, float] | None = None
    excepts: Sequence[str] = ()
    compare_all: bool = False
    skip_validation: bool = False
    quant_input: bool = False
    quant_output: bool = False
    high_precision: bool = False
    matmul_perchannel: bool = False
    num_core: int = 1
    debug: bool = False


@dataclass(frozen=True)
class Deployed:
    """What came out: the lowered module as saved, the program (None without a model), and the comparisons that were made."""

    module: Module
    program: Program | None
    lowered: Report | None
    compiled: Report | None


@dataclass(frozen=True)
class Job:
    """The options after every check that needs no work; `stem` begins the names of the files in the current folder."""

    options: DeployOptions
    target: Target
    module: Module
    lowering: LoweringOptions
    stem: str

    @property
    def lowered_file(self) -> str:
        """Name of the lowered module."""
        return f"{self.stem}_tpu.mlir"

    @property
    def weight_file(self) -> str:
        """Name of its weights."""
        return f"{self.stem}_tpu{'_qtable' if self.options.quantize_table else ''}_weights.npz"

    @property
    def tolerance(self) -> tuple[float, float]:
        """Bounds of the lowered module against the reference."""
        return self.options.tolerance or TOLERANCES[self.lowering.mode]

    @property
    def correctness(self) -> tuple[float, float]:
        """Bounds of the bmodel against the lowered module."""
        return self.options.correctness or (MIXED_CORRECTNESS if self.options.quantize_table else CORRECTNESS)


def _silent(what: str) -> AbstractContextManager[object]:
    return nullcontext(what)


def deploy(options: DeployOptions, show: Show = print, step: Step = _silent) -> Deployed:
    """Lower, compare, generate, compare, save.

    The model and the files beside it are written last, when every comparison has passed.

    Args:
        show: receives the printed comparisons.
        step: makes the context manager that tells the user which long step is running.
    Raises:
        InputError: options, tables or files that cannot be used; nothing has been written.
        CompileError: a layer cannot be compiled, or the simulator found a fault in the program.
        BelowBarError: a comparison missed its bounds; the message names the first diverging layer.
    """
    from bmflow.container import bmodel
    from bmflow.driver import companions, validate
    from bmflow.passes.lowering import lower
    from bmflow.simulator import Simulator

    job = prepare(options)
    LOG.info("bmflow %s", __version__)
    with step(f"lower {job.module.name} to {job.lowering.mode}"):
        lowered = lower(job.module, job.lowering)
    test = validate.load_test(job, step) if options.test_input else None
    lowered.save(job.lowered_file, job.weight_file)
    LOG.info("Mlir file generated:%s", job.lowered_file)
    outputs, report = validate.check_lowered(job, lowered, test, show, step) if test else ({}, None)
    if not options.model:
        return Deployed(lowered, None, report, None)
    program, data = _generate(job, lowered, step)
    simulator = Simulator(bmodel.read(data, options.model))
    simulation, compiled = None, None
    if not options.skip_validation:
        validate.require_sound(job, simulator, step)
        if test:
            simulation, compiled = validate.check_compiled(job, lowered, simulator, test, outputs, show, step)
    _save(job, lowered, program, data, simulator)
    if test and simulation:
        companions.write_references(Path(options.model).with_suffix(""), simulator, test.inputs, simulation.outputs)
    return Deployed(lowered, program, report, compiled)


def _generate(job: Job, lowered: Module, step: Step) -> tuple[Program, bytes]:
    from bmflow.codegen.generate import generate
    from bmflow.container import bmodel

    with step(f"generate code for {job.target.name}"):
        program = generate(lowered, job.target)
        data = bmodel.write(program)
    LOG.info("%d layers became %d TIU and %d GDMA commands", len(program.layers), len(program.tiu), len(program.gdma))
    return program, data


def _save(job: Job, lowered: Module, program: Program, data: bytes, simulator: Simulator) -> None:
    from bmflow.driver import companions

    model, estimate = Path(job.options.model), simulator.estimate()
    artifacts.write_text(f"{job.stem}_final.mlir", companions.addressed(lowered, program))
    artifacts.write_bytes(model, data)
    companions.write(model, data, program, str(estimate))
    LOG.info("%s: %.1f MiB for %s; estimated %.3f ms an inference", model, len(data) / 2**20, job.target.chip, estimate.milliseconds)


def prepare(options: DeployOptions) -> Job:
    """Read the module and the tables and check everything that can be checked before any work.

    Raises:
        InputError: with what is wrong and what to do.
    """
    processor = target.load(options.processor)
    mode = options.quantize.upper()
    processor.require_mode(mode)
    _check_processor(options, processor, mode)
    _check_files(options, processor)
    module = _load_top(options.mlir)
    lowering = _lowering(options, processor, mode)
    _warn_of_other_weights(options, module, lowering)
    if options.test_reference:
        _check_reference(options, module)
    return Job(options, processor, module, lowering, _stem(module.name, processor.name, mode, options.asymmetric))


def _stem(name: str, processor: str, mode: str, asymmetric: bool) -> str:
    suffix = ("_asym" if asymmetric else "_sym") if mode == "INT8" else ""
    return f"{name}_{processor}_{mode.lower()}{suffix}"


def _check_processor(options: DeployOptions, processor: Target, mode: str) -> None:
    if options.asymmetric and mode == "INT8" and not processor.asymmetric:
        raise InputError(f"--asymmetric: {processor.name} computes INT8 symmetrically only; leave the option out")
    if options.num_core != 1:
        raise InputError(f"--num_core {options.num_core}: {processor.name} runs a network on 1 core; leave the option out")
    processor.require_codegen()


def _check_files(options: DeployOptions, processor: Target) -> None:
    for path in options.test_input:
        if not Path(path).is_file():
            raise InputError(f"--test_input {path}: no such file")
    if options.test_reference and not options.test_input:
        raise InputError("--test_reference needs --test_input, the input that it was computed from")
    if not options.model:
        return
    model = Path(options.model)
    if model.suffix != f".{processor.file_kind}":
        raise InputError(f"--model {model}: {processor.name} runs .{processor.file_kind} files; end the name in .{processor.file_kind}")
    if not model.parent.is_dir() or not os.access(model.parent, os.W_OK):
        raise InputError(f"--model {model}: the folder {model.parent} is missing or not writable; choose another")
    beside = model.with_suffix("")
    if beside.exists() and not beside.is_dir():
        raise InputError(f"--model {model}: a folder {beside} is written beside it, but a file of that name is there; move it away")


def _load_top(path: str) -> Module:
    from bmflow.ir.module import Module

    if not Path(path).is_file():
        raise InputError(f"--mlir {path}: no such file; give the .mlir that model_transform wrote")
    module = Module.load(path)
    state = module.get("module.state")
    if state not in ("TOP_F32", "TOP_CALIBRATED"):
        raise InputError(f"--mlir {path}: expected a top module as model_transform writes it, found the state {state}")
    return module


def _lowering(options: DeployOptions, processor: Target, mode: str) -> LoweringOptions:
    from bmflow.passes.lowering import LoweringOptions
    from bmflow.tables.calibration import CalibrationTable
    from bmflow.tables.precision import PrecisionTable

    calibration = CalibrationTable.load(options.calibration_table) if options.calibration_table else None
    precision = PrecisionTable.load(options.quantize_table) if options.quantize_table else None
    integer = mode == "INT8" or (precision is not None and "INT8" in precision.modes.values())
    if integer and calibration is None:
        raise InputError("INT8 needs --calibration_table, the file that run_calibration writes for this module")
    return LoweringOptions(
        target=processor, mode=mode, asymmetric=options.asymmetric, table=calibration, precision=precision, quant_input=options.quant_input,
        quant_output=options.quant_output, high_precision=options.high_precision, matmul_perchannel=options.matmul_perchannel,
    )  # fmt: skip


def _warn_of_other_weights(options: DeployOptions, module: Module, lowering: LoweringOptions) -> None:
    from bmflow.driver.weights import warn_of_other_weights

    if lowering.table:
        warn_of_other_weights(options.calibration_table, lowering.table.weights, options.mlir, module)
    if lowering.precision:
        warn_of_other_weights(options.quantize_table, lowering.precision.weights, options.mlir, module)


def _check_reference(options: DeployOptions, module: Module) -> None:
    names = artifacts.load_npz(options.test_reference)
    wanted = [op.layer_name for op in module.layers()] if options.compare_all else module.output_names
    if not any(name in names for name in wanted):
        hint = nearest_names(wanted[0], names) or "give the --test_result of model_transform"
        raise InputError(
            f"--test_reference {options.test_reference}: holds none of {', '.join(wanted[:4])}, so nothing could be compared; {hint}"
        )
