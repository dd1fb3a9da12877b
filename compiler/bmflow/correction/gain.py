"""What a correction won by each of its points, decided by the error of 8-bit products on samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gain:
    """Error power over power of 8-bit products, before and after."""

    before: float
    after: float

    @property
    def share(self) -> float:
        """Part of the error that is left."""
        return self.after / max(self.before, np.finfo(np.float64).tiny)
