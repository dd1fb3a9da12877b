"""Any network that can be described comes back from its file unchanged."""

from __future__ import annotations

import math

from bmflow.container import bmodel, image, report
from bmflow.container.bmodel import Bmodel, CommandGroup, Net, Stage
from bmflow.ir.types import DType
from bmflow.isa.program import LayerSpan, ProgramTensor, WeightSpan
from hypothesis import given, settings
from hypothesis import strategies as st

CONTEXT = 0x1_0010_0000
CONTEXT_BYTES = 1 << 20
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALES = st.floats(2.0**-60, 2.0**60, allow_nan=False)


@st.composite
def tensors(draw: st.DrawFn, name: str | None = None) -> ProgramTensor:
    dtype = draw(st.sampled_from(DType))
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=5)))
    size = math.prod(shape) * dtype.itemsize
    address = CONTEXT + draw(st.integers(0, CONTEXT_BYTES - size))
    scale, zero = (1.0, 0) if dtype.is_float else (draw(SCALES), draw(st.integers(-(2**31), 2**31 - 1)))
    return ProgramTensor(draw(NAMES) if name is None else name, shape, dtype, address, scale, zero)


@st.composite
def layers(draw: st.DrawFn) -> LayerSpan:
    numbers = [draw(st.integers(-1, 1 << 20)) for _ in range(4)]
    return LayerSpan(draw(NAMES), draw(NAMES), draw(tensors()), *numbers)


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    coeff = draw(st.binary(max_size=300))
    spans = [draw(st.integers(0, len(coeff))) for _ in range(draw(st.integers(0, 3)) if coeff else 0)]
    streams = st.binary(max_size=200)
    groups = [
        CommandGroup(draw(streams), draw(streams), draw(st.integers(0, 99)), draw(st.integers(0, 99)))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return Stage(
        inputs=tuple(draw(tensors(f"in{i}")) for i in range(draw(st.integers(1, 3)))),
        outputs=tuple(draw(tensors(f"out{i}")) for i in range(draw(st.integers(1, 3)))),
        ctx_address=CONTEXT, ctx_bytes=CONTEXT_BYTES, coeff=coeff, coeff_address=draw(st.integers(0, 2**40)) if coeff else CONTEXT,
        groups=tuple(groups), layers=tuple(draw(st.lists(layers(), min_size=1, max_size=3))),
        weights=tuple(WeightSpan(draw(NAMES), at, len(coeff) - at) for at in spans),
    )  # fmt: skip


@st.composite
def models(draw: st.DrawFn) -> Bmodel:
    nets = [Net(draw(NAMES), tuple(draw(st.lists(stages(), min_size=1, max_size=2)))) for _ in range(draw(st.integers(1, 2)))]
    return Bmodel("2.2+bmflow", draw(NAMES), draw(NAMES), tuple(nets))


@settings(max_examples=60, deadline=None)
@given(model=models())
def test_model_comes_back_unchanged(model: Bmodel) -> None:
    data = bmodel.write_model(model)
    assert bmodel.read(data) == model
    assert bmodel.write_model(bmodel.read(data)) == data


@settings(max_examples=20, deadline=None)
@given(model=models())
def test_every_blob_is_aligned_and_every_model_has_an_info_text(model: Bmodel) -> None:
    data = bmodel.write_model(model)
    description, _ = image.sections(data, "")
    assert (64 + len(description)) % 4096 == 0
    starts: list[int] = []
    image.flat.parse(description, "Model", lambda start, size: starts.append(start), "")
    assert all(start % 4096 == 0 for start in starts)
    assert report.info(image.load(data)).count("stage ") == sum(len(net.stages) for net in model.nets)
