"""One network with a known worst layer, its samples and its table."""

from __future__ import annotations

import numpy as np
import pytest
import search_net as net


@pytest.fixture
def case(rng: np.random.Generator) -> net.Case:
    """The network of `search_net`."""
    module = net.network(rng)
    inputs = net.samples(rng)
    return net.Case(module, inputs, net.table(module, inputs))
