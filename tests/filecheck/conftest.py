"""Small top modules as text, a rewrite, and the text expected afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import top_numpy
from bmflow.ir import text
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import shape_of
from bmflow.passes.rewrite import Rewrite, Trace, apply_rewrites


@dataclass(frozen=True)
class Rewritten:
    """A module after a rewrite."""

    module: Module
    trace: Trace

    @property
    def text(self) -> str:
        """Printed form."""
        return str(self.module)

    def layers(self) -> list[str]:
        """`op name` of every layer but inputs, e.g. `top.Conv y_Relu`."""
        return [f"{op.name} {op.layer_name}" for op in self.module.layers() if op.name != "top.Input"]


Apply = Callable[..., Rewritten]


def build(lines: str, weights: Mapping[str, np.ndarray]) -> Module:
    """Parse the body of @main; the last line names the returned values and their types."""
    body = "\n".join(lines.strip().splitlines()[:-1])
    returned, types = lines.strip().splitlines()[-1].removeprefix("return ").split(" : ")
    argument = re.search(r'"top.Input"\(%arg0\).*?: \((tensor<.*?>)\)', body)
    assert argument is not None
    source = f"""module @net attributes {{module.state = "TOP_F32"}} {{
  func.func @main(%arg0: {argument.group(1)}) -> ({types}) {{
    %none = "top.None"() : () -> none
    {body}
    return {returned} : {types}
  }}
}}"""
    return Module(text.parse(source), dict(weights))


@pytest.fixture
def apply(rng: np.random.Generator) -> Apply:
    """Apply rewrites to module text; every tensor that is an output before and after must keep its values."""

    def run(lines: str, *rewrites: Rewrite, weights: Mapping[str, np.ndarray] | None = None) -> Rewritten:
        module = build(lines, weights or {})
        for op in module.block.ops:
            if isinstance(op, TopWeightOp) and op.layer_name not in module.weights:
                module.weights[op.layer_name] = rng.uniform(0.5, 1.5, shape_of(op.output)).astype(np.float32)
        inputs = {op.layer_name: rng.normal(size=shape_of(op.output)).astype(np.float32) for op in module.inputs}
        before = top_numpy.run(module, inputs)
        names, trace = module.output_names, Trace()
        apply_rewrites(module, rewrites, trace)
        module.op.verify()
        after = top_numpy.run(module, inputs)
        assert module.output_names == names
        for name in names:
            np.testing.assert_allclose(after[name], before[name], rtol=2e-6, atol=2e-6)
        return Rewritten(module, trace)

    return run
