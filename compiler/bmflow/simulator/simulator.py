"""One stage of a bmodel, decoded once and run any number of times."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bmflow import target as targets
from bmflow.container import bmodel as container
from bmflow.container.model import Bmodel
from bmflow.errors import InputError, nearest_names
from bmflow.isa.program import ProgramTensor
from bmflow.simulator.checks import Problem, broken_rules, shortened, undefined_reads
from bmflow.simulator.cycles import Estimate, estimate
from bmflow.simulator.fusion import bind_all
from bmflow.simulator.hazards import find_hazards
from bmflow.simulator.instruction import Run
from bmflow.simulator.memory import Machine, Plane
from bmflow.simulator.operand import load, storage, store
from bmflow.simulator.stream import decode_stage


@dataclass(frozen=True)
class Simulation:
    """What one run gave: raw tensors by name (floats as float32), faults of the program, and the estimated time."""

    outputs: dict[str, np.ndarray]
    problems: list[Problem]
    tensors: dict[str, np.ndarray]
    estimate: Estimate = field(repr=False)

    @property
    def profile(self) -> str:
        """The estimate as a table, layer by layer."""
        return str(self.estimate)


class Simulator:
    """Runs the commands of one stage; what it knows of the network is what the file says."""

    def __init__(self, bmodel: Bmodel, net: int = 0, stage: int = 0, threads: int = 2) -> None:
        """Decode the commands.

        Raises:
            InputError: no such net or stage, a processor that cannot be simulated, or damaged commands.
        """
        self._where = f"net {net}, stage {stage}"
        if not (0 <= net < len(bmodel.nets) and 0 <= stage < len(bmodel.nets[net].stages)):
            raise InputError(f"net {net}, stage {stage}: the bmodel has no such part; it has {len(bmodel.nets)} nets")
        self.target = _target_of(bmodel.chip)
        self.stage = bmodel.nets[net].stages[stage]
        self._where = f"net {bmodel.nets[net].name}"
        self._groups = decode_stage(self.stage, self.target, self._where)
        self._machine = Machine(self.target.require_codegen(), self.stage.ctx_bytes, self.stage.coeff, threads)
        self._snapshots = self._snapshot_points()

    @property
    def inputs(self) -> tuple[ProgramTensor, ...]:
        """The tensors a run needs."""
        return self.stage.inputs

    @property
    def outputs(self) -> tuple[ProgramTensor, ...]:
        """The tensors a run gives."""
        return self.stage.outputs

    def run(self, inputs: Mapping[str, np.ndarray], check: bool = True, layers: Collection[str] | str | None = None) -> Simulation:
        """Run once.

        Args:
            inputs: by name, real values (float32), or raw ones in the tensor's own integer type.
            check: find faults of the program too; they do not depend on the inputs and are looked for once.
            layers: names of layers whose results are wanted, or "all".
        Raises:
            InputError: an input is missing or misshapen, or a layer is unknown.
        """
        wanted = self._wanted(layers)
        if check:
            self._machine.spoil()
        for tensor in self.inputs:
            store(self._tensor(tensor), tensor.dtype, _raw(tensor, _given(tensor, inputs)))
        with np.errstate(all="ignore"):
            tensors = self._execute(wanted)
        outputs = {tensor.name: self._read(tensor) for tensor in self.outputs}
        return Simulation(outputs, self.problems if check else [], tensors, self.estimate())

    @cached_property
    def problems(self) -> list[Problem]:
        """Faults of the program: broken rules, undefined reads, missing results, unordered conflicts."""
        stage = self.stage
        found = broken_rules(instruction for group in self._groups for instruction in group.order)
        found += undefined_reads(
            self._groups, self.target.require_codegen(), stage.ctx_address, stage.ctx_bytes, stage.inputs, stage.outputs
        )  # fmt: skip
        found += [hazard for group in self._groups for hazard in find_hazards(group)]
        return shortened(found)

    def estimate(self) -> Estimate:
        """The estimated time of one inference; needs no run."""
        return self._estimate

    @cached_property
    def _estimate(self) -> Estimate:
        return estimate(self._groups, self.stage.layers, self.target)

    @cached_property
    def _runs(self) -> list[list[Run]]:
        """The prepared commands of each group."""
        return [bind_all(group.order, self._machine) for group in self._groups]

    def _execute(self, wanted: Sequence[str]) -> dict[str, np.ndarray]:
        tensors: dict[str, np.ndarray] = {}
        spans = {span.name: span.tensor for span in self.stage.layers}
        due: dict[int, list[str]] = {}
        for name in wanted:
            due.setdefault(self._snapshots[name], []).append(name)
        done = 0
        runs = [run for group in self._runs for run in group]
        for point in sorted({*due, len(runs)}):
            for run in runs[done:point]:
                run()
            done = point
            for name in due.get(point, []):
                tensors[name] = self._read(spans[name])
        return tensors

    def _snapshot_points(self) -> dict[str, int]:
        """After how many commands the result of each layer is complete: when the last command of it and of every layer before has run."""
        if len(self._groups) != 1:
            return {}
        position = {(i.engine, i.number): index + 1 for index, i in enumerate(self._groups[0].order)}
        points: dict[str, int] = {}
        reached = 0
        for span in self.stage.layers:
            reached = max(reached, position.get(("GDMA", span.last_gdma), 0))
            points[span.name] = reached
        return points

    def _wanted(self, layers: Collection[str] | str | None) -> list[str]:
        if layers is None:
            return []
        if layers == "all":
            return list(self._snapshots)
        names = [layers] if isinstance(layers, str) else list(layers)
        for name in names:
            if name not in self._snapshots:
                hint = nearest_names(name, self._snapshots) or "the bmodel lists no layers"
                raise InputError(f"{self._where}: has no layer {name}; {hint}")
        return names

    def _tensor(self, tensor: ProgramTensor) -> np.ndarray:
        start, stage = tensor.address - self.stage.ctx_address, self.stage
        if not 0 <= start <= stage.ctx_bytes - tensor.size_bytes:
            raise InputError(f"{self._where}: tensor {tensor.name} lies outside of the activation memory; the file is damaged")
        dtype = storage(tensor.dtype)
        strides = [dtype.itemsize * int(np.prod(tensor.shape[k + 1 :])) for k in range(len(tensor.shape))]
        return self._machine.view(Plane.CTX, dtype, 0, start, tensor.shape, strides)

    def _read(self, tensor: ProgramTensor) -> np.ndarray:
        """A copy of a tensor, floats as float32."""
        view = self._tensor(tensor)
        return load(view, tensor.dtype) if tensor.dtype.is_float else view.copy()


def simulate(data: bytes, inputs: Mapping[str, np.ndarray], **options: object) -> Simulation:
    """Run a bmodel file once; `options` are those of `Simulator.run`."""
    return Simulator(container.read(data)).run(inputs, **options)  # type: ignore[arg-type]


def _target_of(chip: str) -> targets.Target:
    for name in targets.names():
        found = targets.load(name)
        if found.chip == chip and found.isa and found.memory is not None:
            return found
    raise InputError(f"the bmodel was made for {chip}, which this version cannot simulate")


def _given(tensor: ProgramTensor, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    if tensor.name not in inputs:
        raise InputError(f"input {tensor.name}: no array was given; there are {', '.join(inputs) or 'none'}")
    array = np.asarray(inputs[tensor.name])
    if array.shape != tensor.shape:
        raise InputError(f"input {tensor.name}: expected shape {list(tensor.shape)}, found {list(array.shape)}")
    return array


def _raw(tensor: ProgramTensor, array: np.ndarray) -> np.ndarray:
    """Raw elements from real values; integers of the tensor's own type are taken as they are."""
    if tensor.dtype.is_float or array.dtype != tensor.dtype.numpy:
        return np.asarray(tensor.from_real(array))
    return array
