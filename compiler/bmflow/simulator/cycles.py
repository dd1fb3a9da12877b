"""An estimate of the time a program takes.

Every figure is an assumption: rates come from the target (`Rates`), formulas from the performance notes, section 3. Each command
costs `start + work`; the engines run side by side as the waits allow; a layer's time is how much later the last of its commands
ends than everything before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bmflow.errors import CompileError
from bmflow.isa.program import LayerSpan
from bmflow.simulator.instruction import Instruction, Work
from bmflow.simulator.stream import Group
from bmflow.target import Rates, Target


@dataclass(frozen=True)
class LayerEstimate:
    """Commands, traffic and time of one layer; its own busy cycles by engine, and what it adds to the total."""

    name: str
    op: str
    tiu_commands: int
    gdma_commands: int
    ddr_bytes: int
    macs: int
    tiu_cycles: int
    gdma_cycles: int
    cycles: int


@dataclass(frozen=True)
class Estimate:
    """Estimated time of one inference."""

    total_cycles: int
    milliseconds: float
    tiu_cycles: int
    gdma_cycles: int
    layers: tuple[LayerEstimate, ...]

    def __str__(self) -> str:
        per_cycle = self.milliseconds / self.total_cycles if self.total_cycles else 0.0
        width = max([5, *(len(layer.name) for layer in self.layers)])
        ops = max([2, *(len(layer.op) for layer in self.layers)])
        lines = [
            f"Estimate (assumed rates): {self.total_cycles} cycles, {self.milliseconds:.3f} ms; "
            f"TIU busy {self.tiu_cycles} cycles, GDMA busy {self.gdma_cycles} cycles",
            "",
            f"{'layer':<{width}}  {'op':<{ops}}  {'TIU':>6}  {'GDMA':>6}  {'DDR bytes':>11}  {'MACs':>13}  {'cycles':>10}  {'ms':>8}  {'share':>6}",
        ]  # fmt: skip
        for layer in self.layers:
            share = layer.cycles / self.total_cycles if self.total_cycles else 0.0
            lines.append(
                f"{layer.name:<{width}}  {layer.op:<{ops}}  {layer.tiu_commands:>6}  {layer.gdma_commands:>6}  {layer.ddr_bytes:>11}  "
                f"{layer.macs:>13}  {layer.cycles:>10}  {layer.cycles * per_cycle:>8.4f}  {share:>6.1%}"
            )
        return "\n".join(lines) + "\n"


def estimate(groups: Sequence[Group], layers: Sequence[LayerSpan], target: Target) -> Estimate:
    """Estimate the time of one inference.

    Raises:
        CompileError: no rates are known for the processor.
    """
    if target.rates is None:
        raise CompileError(f"{target.name}: no rates are known, so no time can be estimated")
    clock = _Clock(target.rates)
    for group in groups:
        clock.run(group)
    cycles = round(clock.now)
    busy = {
        engine: round(sum(clock.costs[i.engine, id(i)] for g in groups for i in g.order if i.engine == engine))
        for engine in ("TIU", "GDMA")
    }
    return Estimate(cycles, cycles / target.rates.freq_hz * 1e3, busy["TIU"], busy["GDMA"], _layers(groups, layers, clock))


class _Clock:
    """When each command ends, in cycles from the start."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self.now = 0.0
        self.ends: dict[int, float] = {}
        self.costs: dict[tuple[str, int], float] = {}

    def run(self, group: Group) -> None:
        """Let a group run after everything before it."""
        start = self.now
        finished: dict[str, list[float]] = {"TIU": [start], "GDMA": [start]}
        for instruction in group.order:
            own, other = finished[instruction.engine], finished["GDMA" if instruction.engine == "TIU" else "TIU"]
            cost = command_cycles(instruction.work, self._rates)
            own.append(max(own[-1], other[instruction.wait]) + cost)
            self.costs[instruction.engine, id(instruction)] = cost
            self.ends[id(instruction)] = own[-1]
        self.now = max(finished["TIU"][-1], finished["GDMA"][-1])


def command_cycles(work: Work, rates: Rates) -> float:
    """Cycles of one command."""
    return _COSTS[work.unit](work, rates)


_COSTS: Mapping[str, Callable[[Work, Rates], float]] = {
    "cube": lambda work, rates: rates.tiu_start_cycles + work.steps / rates.conv_efficiency,
    "vector": lambda work, rates: rates.tiu_start_cycles + work.steps,
    "gather": lambda work, rates: rates.tiu_start_cycles + work.steps / rates.gather_elements_per_cycle,
    "dma": lambda work, rates: rates.gdma_start_cycles + max(work.steps, work.ddr_bytes * rates.freq_hz / rates.ddr_bytes_per_second),
    "system": lambda work, rates: 0.0,
}


def _layers(groups: Sequence[Group], layers: Sequence[LayerSpan], clock: _Clock) -> tuple[LayerEstimate, ...]:
    """Split the time by layer; programs of several groups have no ids that tell layers apart."""
    if len(groups) != 1:
        return ()
    [group] = groups
    rows: list[LayerEstimate] = []
    reached = 0.0
    for layer in layers:
        tiu, gdma = (
            group.tiu[max(layer.first_tiu - 1, 0) : max(layer.last_tiu, 0)],
            group.gdma[max(layer.first_gdma - 1, 0) : max(layer.last_gdma, 0)],
        )
        own = (*tiu, *gdma)
        end = max([reached, *(clock.ends[id(i)] for i in own)])
        rows.append(LayerEstimate(
            layer.name, layer.op, len(tiu), len(gdma), sum(i.work.ddr_bytes for i in own), sum(i.work.macs for i in own),
            _busy(tiu, clock), _busy(gdma, clock), round(end) - round(reached),
        ))  # fmt: skip
        reached = end
    return tuple(rows)


def _busy(commands: Sequence[Instruction], clock: _Clock) -> int:
    return round(sum(clock.costs[i.engine, id(i)] for i in commands))
