"""The two comparisons of model_deploy: top against tpu module, tpu module against bmodel; and what to say when one fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bmflow import artifacts
from bmflow.errors import BelowBarError, CompileError
from bmflow.numerics import similarity

if TYPE_CHECKING:
    from bmflow.driver.deploy import Job, Show, Step
    from bmflow.ir.module import Module
    from bmflow.ir.values import SSAValue
    from bmflow.numerics.similarity import Report
    from bmflow.simulator import Simulation, Simulator

LOG = logging.getLogger("bmflow")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sample:
    """One input and what the float network makes of it, by layer name, with the files they lie in."""

    inputs: Arrays
    inputs_file: str
    references: Arrays
    reference_file: str


def load_test(job: Job, step: Step) -> Sample:
    """Read or make the test input, saved as `<module>_in_f32.npz`, and the reference, `<module>_top_outputs.npz` when none was given."""
    from bmflow.driver.transform import run_top
    from bmflow.preprocess.inputs import load_inputs

    name, options = job.module.name, job.options
    inputs_file = f"{name}_in_f32.npz"
    inputs = load_inputs(job.module, list(options.test_input))
    artifacts.save_npz(inputs_file, inputs)
    if options.test_reference:
        return Sample(inputs, inputs_file, artifacts.load_npz(options.test_reference), options.test_reference)
    reference_file = f"{name}_top_outputs.npz"
    LOG.info("[CMD]: %s", runner_command(inputs_file, options.mlir, reference_file, True))
    with step("run the float module"):
        references = run_top(job.module, inputs)
    artifacts.save_npz(reference_file, references)
    return Sample(inputs, inputs_file, references, reference_file)


def runner_command(inputs: str, model: str, output: str, everything: bool) -> str:
    """The command that repeats an inference, as users copy it from the log."""
    return f"model_runner.py --input {inputs} --model {model} --output {output} {'--dump_all_tensors' if everything else ''} "


def observed(module: Module) -> dict[str, SSAValue]:
    """Network outputs and, where one comes out of a Cast, the value before it, whose name the float network knows too."""
    from bmflow.dialects.tpu.convert import TpuCastOp
    from bmflow.ir.layer import layer_name

    values: dict[str, SSAValue] = {}
    for output in module.outputs:
        if isinstance(output.owner, TpuCastOp):
            values[layer_name(output.owner.input)] = output.owner.input
        values[layer_name(output)] = output
    return values


def real_values(module: Module, inputs: Mapping[str, np.ndarray], everything: bool) -> Arrays:
    """Run a module of either dialect; every layer, or `observed` ones, as real float32 values by layer name."""
    from bmflow.kernels import Executable, to_real

    values = {op.layer_name: op.results[0] for op in module.layers()} if everything else observed(module)
    raw = Executable(module, "all" if everything else list(values)).run(inputs)
    return {name: to_real(value, raw[name]) for name, value in values.items() if name in raw}


def check_lowered(job: Job, lowered: Module, test: Sample, show: Show, step: Step) -> tuple[Arrays, Report]:
    """Run the lowered module and compare it with the reference; returns its values and the comparison.

    Raises:
        BelowBarError: naming the first diverging layer, and for INT8 the line of a quantization table that helps.
    """
    outputs_file = f"{job.stem}_tpu_outputs.npz"
    LOG.info("[CMD]: %s", runner_command(test.inputs_file, job.lowered_file, outputs_file, job.options.compare_all))
    with step(f"run {job.lowered_file}"):
        values = real_values(lowered, test.inputs, job.options.compare_all)
    report = _compare(job, (values, outputs_file), (test.references, test.reference_file), job.tolerance, show)
    if not report.passed:
        with step("look for the first diverging layer"):
            raise BelowBarError(_diagnosis(job, lowered, test, report))
    return values, report


def _compare(job: Job, target: tuple[Arrays, str], reference: tuple[Arrays, str], bounds: tuple[float, float], show: Show) -> Report:
    excepts = ",".join(job.options.excepts) or "-"
    command = f"npz_tool.py compare {target[1]} {reference[1]} --tolerance {bounds[0]},{bounds[1]} --except {excepts} -vv"
    LOG.info("[Running]: %s", command)
    report = similarity.compare(target[0], reference[0], bounds, job.options.excepts)
    show(report.text(2, target[1], reference[1]))
    if job.options.debug or not report.passed:
        artifacts.save_npz(target[1], target[0])
    if report.passed:
        LOG.info("[Success]: %s", command)
    else:
        LOG.error("[!Error]: %s", command)
    return report


def _diagnosis(job: Job, lowered: Module, test: Sample, report: Report) -> str:
    if not report.tensors:
        return f"{job.lowered_file}: {report.nothing_in_common()}"
    every_layer = similarity.compare(real_values(lowered, test.inputs, True), test.references, job.tolerance, job.options.excepts)
    cosine, euclid, _ = report.minimum()
    head = (
        f"{job.lowered_file}: {len(report.failures)} of {len(report.tensors)} compared tensors are below cosine {job.tolerance[0]}, "
        f"euclid {job.tolerance[1]} (lowest {cosine:.4f}, {euclid:.4f}); {every_layer.diverging() or report.diverging()}"
    )
    suspects = [t.name for t in (*every_layer.failures, *report.failures)]
    return f"{head}. {_remedy(job, lowered, test, suspects)}"


def _remedy(job: Job, lowered: Module, test: Sample, suspects: list[str]) -> str:
    """The quantization table line for the first suspect that has fewer bits than it could have, and what it was measured to bring."""
    from bmflow.ir.types import DType, dtype_of

    computed = {op.layer_name for op in job.module.layers()} - {op.layer_name for op in job.module.inputs}
    types = {op.layer_name: dtype_of(op.results[0]) for op in lowered.layers() if op.layer_name in computed}
    layer = next((name for name in suspects if name in types and types[name] is not DType.F32), "")
    if not layer:
        return "Every layer that differs is computed in F32, so this is a defect of bmflow; please report it"
    better = "F32" if types[layer].is_float else job.target.float_types[0]
    loosen = "or accept the loss with a lower --tolerance"
    try:
        report = _with_layer(job, test, layer, better)
    except CompileError:
        return f"Try the line `{layer} {better}` in a --quantize_table, {loosen}"
    cosine, euclid, _ = report.minimum()
    reached = f"{cosine:.4f}, {euclid:.4f}{'' if report.passed else ' (still below, so more layers need it)'}"
    return f"The line `{layer} {better}` in a --quantize_table brings the lowest figures to {reached}; {loosen}"


def _with_layer(job: Job, test: Sample, layer: str, mode: str) -> Report:
    from bmflow.passes.lowering import lower
    from bmflow.tables.precision import PrecisionTable

    old = job.lowering.precision
    precision = PrecisionTable({**(old.modes if old else {}), layer: mode})
    values = real_values(lower(job.module, replace(job.lowering, precision=precision)), test.inputs, job.options.compare_all)
    return similarity.compare(values, test.references, job.tolerance, job.options.excepts)


def require_sound(job: Job, simulator: Simulator, step: Step) -> None:
    """Refuse a program with faults that need no input to be found: hazards, stray accesses, reads of what nothing wrote.

    Raises:
        CompileError: naming the first ones.
    """
    with step("check every access of the bmodel"):
        problems = simulator.problems
    if problems:
        listed = "; ".join(str(problem) for problem in problems[:3])
        raise CompileError(
            f"{job.options.model}: the simulator found faults ({len(problems)}): {listed}. This is a defect of bmflow; report it"
        )


def check_compiled(
    job: Job, lowered: Module, simulator: Simulator, test: Sample, values: Arrays, show: Show, step: Step
) -> tuple[Simulation, Report]:
    """Run the bmodel in the simulator and compare it with the lowered module.

    Args:
        values: what the lowered module computed.
    Raises:
        BelowBarError: a tensor differs; names the first diverging layer.
    """
    outputs_file = f"{job.stem}_model_outputs.npz"
    everything = job.options.compare_all
    LOG.info("[CMD]: %s", runner_command(test.inputs_file, job.options.model, outputs_file, everything))
    with step("run the bmodel in the simulator"):
        simulation, results = simulate_real(simulator, _stored_inputs(lowered, test.inputs), everything)
    report = _compare(job, (results, outputs_file), (values, f"{job.stem}_tpu_outputs.npz"), job.correctness, show)
    if not report.passed:
        with step("look for the first diverging layer"):
            raise BelowBarError(_compiled_diagnosis(job, lowered, simulator, test, report))
    return simulation, report


def _stored_inputs(lowered: Module, inputs: Arrays) -> Arrays:
    """Inputs in the type the network takes, so that module and bmodel are fed the same numbers."""
    from bmflow.kernels import Executable

    return Executable(lowered, [op.layer_name for op in lowered.inputs]).run(inputs)


def simulate_real(simulator: Simulator, inputs: Mapping[str, np.ndarray], everything: bool) -> tuple[Simulation, Arrays]:
    """Run a bmodel on memory full of rubbish; outputs (or every layer) as real float32 values by name."""
    simulation = simulator.run(inputs, check=True, layers="all" if everything else None)
    tensors = {tensor.name: tensor for tensor in simulator.outputs} | {span.name: span.tensor for span in simulator.stage.layers}
    return simulation, {name: tensors[name].to_real(raw) for name, raw in (simulation.tensors | simulation.outputs).items()}


def _compiled_diagnosis(job: Job, lowered: Module, simulator: Simulator, test: Sample, report: Report) -> str:
    if not report.tensors:
        return f"{job.options.model}: {report.nothing_in_common()}"
    _, results = simulate_real(simulator, _stored_inputs(lowered, test.inputs), True)
    every_layer = similarity.compare(results, real_values(lowered, test.inputs, True), job.correctness, job.options.excepts)
    return (
        f"{job.options.model}: {len(report.failures)} of {len(report.tensors)} tensors differ from {job.lowered_file} beyond cosine "
        f"{job.correctness[0]}, euclid {job.correctness[1]}; {every_layer.diverging() or report.diverging()}. The model was not written; "
        "look at the values in the two output files, or loosen --correctness; a layer computed in integers that differs is a defect of bmflow"
    )
