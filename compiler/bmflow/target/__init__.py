"""What is known of each processor, read from one toml file per processor.

Figures that no public source confirms are marked `assumed` in the toml files.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from bmflow.errors import InputError, nearest_names


@dataclass(frozen=True)
class Memory:
    """Sizes in bytes and base addresses of a tensor processor's memories."""

    lanes: int
    lmem_bytes: int
    banks: int
    eu_bytes: int
    ddr_alignment: int
    lmem_gdma_base: int
    smem_tiu_base: int
    coeff_base: int

    @property
    def bank_bytes(self) -> int:
        """Bytes of one local memory bank of one lane."""
        return self.lmem_bytes // self.banks


@dataclass(frozen=True)
class Rates:
    """Figures of the cycle estimate; every one of them is an assumption unless the toml file says otherwise."""

    freq_hz: float
    ddr_bytes_per_second: float
    tiu_start_cycles: int
    gdma_start_cycles: int
    gather_elements_per_cycle: int
    conv_efficiency: float


@dataclass(frozen=True)
class Target:
    """One processor. `modes` are the values of --quantize it has; `ic_parallel` is channels per cube step by DType value."""

    name: str
    chip: str
    file_kind: str
    modes: tuple[str, ...]
    asymmetric: bool
    float_types: tuple[str, ...]
    isa: str
    memory: Memory | None
    rates: Rates | None
    ic_parallel: Mapping[str, int]

    def require_mode(self, mode: str) -> None:
        """Refuse a --quantize value the processor lacks.

        Raises:
            InputError: naming the modes it has.
        """
        if mode not in self.modes:
            raise InputError(f"{self.name}: has no {mode}; choose --quantize from {', '.join(self.modes)}")

    def require_codegen(self) -> Memory:
        """Return the memory description needed to generate code.

        Raises:
            InputError: bmflow has no code generator for this processor yet.
        """
        if self.memory is None:
            ready = [name for name in names() if load(name).memory is not None]
            raise InputError(f"{self.name}: code generation is not supported yet; this version generates code for {', '.join(ready)}")
        return self.memory


def names() -> list[str]:
    """Names of all known processors, the reference chip first."""
    known = sorted(path.name.removesuffix(".toml") for path in files(__name__).iterdir() if path.name.endswith(".toml"))
    return sorted(known, key=lambda name: (name != "bm1684x", name))


@cache
def load(name: str) -> Target:
    """Describe a processor by name (any case).

    Raises:
        InputError: unknown name.
    """
    known = names()
    name = name.lower()
    if name not in known:
        raise InputError(f"--processor {name}: unknown; choose from {', '.join(known)}. {nearest_names(name, known)}".rstrip(" ."))
    data = tomllib.loads((files(__name__) / f"{name}.toml").read_text())
    memory, rates = data.get("memory"), data.get("rates")
    return Target(
        name=name, chip=data["chip"], file_kind=data["file_kind"], modes=tuple(data["modes"]), asymmetric=data["asymmetric"],
        float_types=tuple(data["float_types"]), isa=data.get("isa", ""), memory=Memory(**memory) if memory else None,
        rates=Rates(**rates) if rates else None, ic_parallel=data.get("ic_parallel", {}),
    )  # fmt: skip
