"""Cut and join bmodel files at the level of their tables, so that nothing a file holds is lost, whatever its processor.

Joining follows the runtime's rules for stages (bmodel format notes, 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bmflow.container.flat import Table
from bmflow.errors import InputError

_STAGE_FLAGS = ("is_dynamic", "n_dynamic", "h_w_dynamic")
_PORT_FIELDS = ("name", "data_type", "scale", "zero_point")


@dataclass(frozen=True)
class Part:
    """One stage cut out of a file: a model of its own, and where it came from."""

    net: int
    stage: int
    model: Table

    @property
    def file_name(self) -> str:
        """The name users know from `--extract`."""
        return f"bm_net{self.net}_stage{self.stage}.bmodel"


def extract(model: Table) -> list[Part]:
    """Every stage of every net as a model of its own."""
    return [
        Part(i, j, _with_nets(model, [{**net, "parameter": [stage]}]))
        for i, net in enumerate(model["net"])
        for j, stage in enumerate(net.get("parameter", []))
    ]


def combine(models: Sequence[tuple[str, Table]], time: str) -> Table:
    """One model with all nets of several; nets of one name become stages of one net.

    Args:
        models: where each comes from, and its table. Processor, version and modules are those of the first.
    Raises:
        InputError: different processors, or nets of one name that cannot be stages of one net.
    """
    chips = {where: table["chip"] for where, table in models}
    if len(set(chips.values())) > 1:
        raise InputError(
            f"files for different processors cannot be combined: {', '.join(f'{where} is for {chip}' for where, chip in chips.items())}"
        )
    nets: dict[str, Table] = {}
    for where, table in models:
        for net in table["net"]:
            known = nets.get(net["name"])
            nets[net["name"]] = net if known is None else _joined(known, net, where)
    return {**_with_nets(models[0][1], list(nets.values())), "time": time}


def _with_nets(model: Table, nets: list[Table]) -> Table:
    sizes = [stage["ctx_size"] for net in nets for stage in net.get("parameter", [])]
    return {**model, "net": nets, "neuron_size": max(sizes, default=0)}


def _joined(known: Table, net: Table, where: str) -> Table:
    """`known` with the stages of `net` behind its own."""
    name = f"{where}: net {net['name']} cannot become a stage of the net of that name"
    if known["addr_mode"] != net["addr_mode"] or known.get("cascade") or net.get("cascade"):
        raise InputError(f"{name}: they place inputs and outputs in different ways; compile both with the same options")
    stages: list[Table] = list(known["parameter"])
    for stage in net["parameter"]:
        for other in stages:
            _check_stages(other, stage, name)
        stages.append(stage)
    return {**known, "parameter": stages}


def _check_stages(a: Table, b: Table, name: str) -> None:
    for ports in ("input_tensor", "output_tensor"):
        ours, theirs = _ports(a, ports), _ports(b, ports)
        if ours != theirs:
            kind = ports.replace("_tensor", "s")
            raise InputError(
                f"{name}: their {kind} differ: {_port_text(ours)} and {_port_text(theirs)}; stages differ in shapes alone, rename one net"
            )
    if any(a[flag] != b[flag] for flag in _STAGE_FLAGS):
        raise InputError(f"{name}: one has dynamic shapes; compile both the same way, or rename one net")
    if (len(a.get("sub_net", [])) > 1) != (len(b.get("sub_net", [])) > 1):
        raise InputError(f"{name}: one consists of several subnets, the other of one; rename one net")
    if _shapes(a) == _shapes(b):
        raise InputError(
            f"{name}: both have inputs of shape {_shapes(a)}, so no input would choose between them; rename one net or leave one out"
        )


def _ports(stage: Table, ports: str) -> list[tuple[Any, ...]]:
    return [tuple(tensor[field] for field in _PORT_FIELDS) for tensor in stage[ports]]


def _port_text(ports: Sequence[tuple[Any, ...]]) -> str:
    return "; ".join(f"{name} (type {kind}, scale {scale:g}, zero point {zero})" for name, kind, scale, zero in ports)


def _shapes(stage: Table) -> list[list[int]]:
    return [shape_of(tensor) for tensor in stage["input_tensor"]]


def shape_of(tensor: Table) -> list[int]:
    """Sizes of a `Tensor` table; [] when it has none."""
    shapes: Sequence[Table] = tensor.get("shape", [])
    return shapes[0].get("dim", []) if shapes else []
