"""Running a module or a part of it: what is exposed, what is fed, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopAddOp, TopReluOp, TopSigmoidOp
from bmflow.dialects.tpu.convert import TpuCastOp, TpuMulShiftOp
from bmflow.errors import CompileError, InputError
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.structure import TopInputOp
from bmflow.ir.types import DType, UniformType, tensor_type
from bmflow.kernels import Executable, to_real
from bmflow.kernels.held import Held
from xdsl.irdl import irdl_op_definition, operand_def, result_def

SHAPE = (1, 2, 3, 4)
F32 = tensor_type(SHAPE)


@pytest.fixture
def diamond() -> Module:
    """x -> left = relu(x), right = sigmoid(x); sum = left + right; last = relu(sum)."""
    builder = ModuleBuilder("diamond", "ONNX")
    x = builder.input("x", SHAPE)
    left = builder.append(TopReluOp.make("left", [x], F32)).results[0]
    right = builder.append(TopSigmoidOp.make("right", [x], F32)).results[0]
    total = builder.append(TopAddOp.make("sum", [left, right], F32)).results[0]
    return builder.finish([builder.append(TopReluOp.make("last", [total], F32)).results[0]])


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    """A network input."""
    return rng.normal(size=SHAPE).astype(np.float32)


def test_outputs_alone_are_returned_unless_asked_for_more(diamond: Module, x: np.ndarray) -> None:
    assert list(Executable(diamond).run({"x": x})) == ["last"]
    assert list(Executable(diamond, ["sum", "left"]).run({"x": x})) == ["sum", "left"]


def test_all_gives_every_layer_in_program_order_with_the_inputs(diamond: Module, x: np.ndarray) -> None:
    values = Executable(diamond, "all").run({"x": x})
    assert list(values) == ["x", "left", "right", "sum", "last"]
    np.testing.assert_array_equal(values["x"], x)
    np.testing.assert_allclose(values["sum"], np.maximum(x, 0) + 1 / (1 + np.exp(-x)), rtol=1e-5)


def test_exposed_values_do_not_depend_on_what_else_is_exposed(diamond: Module, x: np.ndarray) -> None:
    every = Executable(diamond, "all").run({"x": x})
    for name in every:
        np.testing.assert_array_equal(Executable(diamond, [name]).run({"x": x})[name], every[name])


def test_a_given_layer_is_not_computed_and_needs_no_input(diamond: Module) -> None:
    total = np.full(SHAPE, -3, np.float32)
    assert (Executable(diamond, given=["sum"]).run({"sum": total})["last"] == 0).all()


def test_one_given_branch_leaves_the_other_to_be_computed(diamond: Module, x: np.ndarray) -> None:
    values = Executable(diamond, ["left", "sum", "last"], given=["left"]).run({"x": x, "left": np.full(SHAPE, 7, np.float32)})
    assert (values["left"] == 7).all()
    np.testing.assert_allclose(values["last"], 7 + 1 / (1 + np.exp(-x)), rtol=1e-5)


def test_what_is_fed_and_exposed_comes_back_as_it_is(diamond: Module, x: np.ndarray) -> None:
    np.testing.assert_array_equal(Executable(diamond, ["x"]).run({"x": x})["x"], x)


def test_running_twice_gives_the_same_and_arrays_that_are_not_needed_are_ignored(diamond: Module, x: np.ndarray) -> None:
    executable = Executable(diamond)
    first = executable.run({"x": x, "other": x})["last"]
    np.testing.assert_array_equal(executable.run({"x": x})["last"], first)


def test_a_missing_array_is_named(diamond: Module, x: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"no array for x, expected \(1, 2, 3, 4\); found y"):
        Executable(diamond).run({"y": x})


def test_another_shape_is_refused(diamond: Module) -> None:
    with pytest.raises(InputError, match=r"x: expected an array of shape \(1, 2, 3, 4\), found \(2, 3\)"):
        Executable(diamond).run({"x": np.zeros((2, 3), np.float32)})


def test_unknown_layer_names_are_refused_with_the_nearest(diamond: Module) -> None:
    with pytest.raises(InputError, match=r"no layer is called rigth in this module; did you mean right"):
        Executable(diamond, ["rigth"])
    with pytest.raises(InputError, match=r"no layer is called nothing in this module"):
        Executable(diamond, given=["nothing"])


def test_integers_are_fed_in_their_storage_type(rng: np.random.Generator) -> None:
    builder = ModuleBuilder("integers", "ONNX")
    q = tensor_type(SHAPE, UniformType.get(DType.I8, 0.5, 3))
    source = builder.append(TpuCastOp.make("q", [builder.input("x", SHAPE)], q)).results[0]
    y = builder.append(TpuMulShiftOp.make("y", [source], q, {"multiplier": 1, "rshift": 0})).results[0]
    executable = Executable(builder.finish([y]), given=["q"])
    raw = rng.integers(-128, 128, SHAPE).astype(np.int8)
    np.testing.assert_array_equal(executable.run({"q": raw})["y"], raw)
    np.testing.assert_array_equal(to_real(y, raw), (raw.astype(np.float32) - 3) * np.float32(0.5))
    with pytest.raises(InputError, match="q: expected an array of type int8, found float32"):
        executable.run({"q": raw.astype(np.float32)})


def test_an_integer_network_input_takes_real_or_stored_numbers(rng: np.random.Generator) -> None:
    builder = ModuleBuilder("quantized_input", "ONNX")
    x = builder.input("x", SHAPE)
    assert isinstance(x.owner, TopInputOp)
    q = tensor_type(SHAPE, UniformType.get(DType.U8, 1 / 255))
    source = builder.append(TopInputOp.make("pixels", [x.owner.operands[0]], q)).results[0]
    y = builder.append(TpuCastOp.make("y", [source], F32)).results[0]
    executable = Executable(builder.finish([y]))
    raw = rng.integers(0, 256, SHAPE).astype(np.uint8)
    expected = raw.astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(executable.run({"pixels": raw})["y"], expected)
    np.testing.assert_array_equal(executable.run({"pixels": raw / 255})["y"], expected)


@pytest.mark.parametrize("dtype", [DType.I8, DType.U8, DType.I16, DType.U16], ids=lambda dtype: dtype.value)
def test_held_form_keeps_order_and_comes_back(dtype: DType) -> None:
    raw = np.arange(dtype.limits[0], dtype.limits[1] + 1).astype(dtype.numpy)
    held = Held(dtype)
    np.testing.assert_array_equal(held.hold(raw), np.arange(raw.size))
    np.testing.assert_array_equal(held.store(held.hold(raw)), raw)
    np.testing.assert_array_equal(held.stored(), raw)


def test_an_op_without_a_kernel_is_named() -> None:
    @irdl_op_definition
    class TopFooOp(LayerOp):
        name = "top.Foo"
        input = operand_def()
        output = result_def()

    builder = ModuleBuilder("foo", "ONNX")
    module = builder.finish([builder.append(TopFooOp.make("strange", [builder.input("x", SHAPE)], F32)).results[0]])
    with pytest.raises(CompileError, match=r"strange: top.Foo has no kernel"):
        Executable(module)


def test_a_weight_that_is_not_there_is_named() -> None:
    builder = ModuleBuilder("weights", "ONNX")
    w = builder.weight("w", np.zeros((2, 2, 1, 1), np.float32))
    attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]}
    conv = builder.append(TopConvOp.make("conv", [builder.input("x", SHAPE), w, builder.none], F32, attributes))
    module = builder.finish([conv.results[0]])
    del module.weights["w"]
    with pytest.raises(CompileError, match=r"conv: the array of its weight w is missing"):
        Executable(module)
