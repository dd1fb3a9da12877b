"""One network with a known worst layer, its samples and its table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import search_net as net
from bmflow.ir.module import Module
from bmflow.search.journal import Scorer
from bmflow.tables.calibration import CalibrationTable


@dataclass(frozen=True)
class Case:
    """Everything a search is given."""

    module: Module
    inputs: list[dict[str, np.ndarray]]
    table: CalibrationTable

    def scorer(self, path: str = "", digest: str = "") -> Scorer:
        """A fresh scorer."""
        return net.scorer(self.module, self.inputs, path, digest)


@pytest.fixture
def case(rng: np.random.Generator) -> Case:
    """The network of `search_net`."""
    module = net.network(rng)
    inputs = net.samples(rng)
    return Case(module, inputs, net.table(module, inputs))
