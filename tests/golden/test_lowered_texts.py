"""Lowered modules as text: the published example of one convolution, a small detector, and attention, with an operator of every kind."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bmflow import target
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopAddOp, TopGELUOp, TopMulOp, TopSigmoidOp, TopSiLUOp, TopSoftmaxOp
from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopDepth2SpaceOp, TopPermuteOp, TopReshapeOp, TopSliceOp, TopUpsampleOp
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.text import parse
from bmflow.ir.types import shape_of, tensor_type
from bmflow.ir.values import SSAValue
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.tables.calibration import CalibrationTable, Range
from bmflow.tables.precision import PrecisionTable

MODES = {"int8_sym": ("INT8", False), "int8_asym": ("INT8", True), "f16": ("F16", False), "bf16": ("BF16", False), "f32": ("F32", False)}
MLIR_OPT = shutil.which("mlir-opt-22")


class Builder(ModuleBuilder):
    """A module builder with weights that count up, so that nothing in the text depends on a generator of random numbers."""

    def op(self, kind: type[LayerOp], name: str, operands: list[SSAValue], shape: tuple[int, ...], **settings: Python) -> SSAValue:
        return self.append(kind.make(name, operands, tensor_type(shape), settings)).results[0]

    def conv(self, name: str, x: SSAValue, channels: int, kernel: int = 1, stride: int = 1, relu: bool = False) -> SSAValue:
        n, c, h, w = shape_of(x)
        weights = np.arange(channels * c * kernel**2).reshape(channels, c, kernel, kernel) % 7 / 10 - 0.25
        window: dict[str, Python] = {
            "dilations": [1, 1], "do_relu": relu, "group": 1, "kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "relu_limit": -1.0,
            "strides": [stride] * 2, "weight_is_coeff": 1,
        }  # fmt: skip
        operands = [x, self.weight(f"{name}_w", weights), self.weight(f"{name}_b", np.arange(channels) / 8)]
        return self.append(TopConvOp.make(name, operands, tensor_type((n, channels, h // stride, w // stride)), window)).results[0]

    def linear(self, name: str, x: SSAValue, columns: int, relu: bool = False, bias: bool = True) -> SSAValue:
        rows = shape_of(x)[-1]
        weights = np.arange(rows * columns).reshape(rows, columns) % 7 / 10 - 0.25
        operands = [x, self.weight(f"{name}_w", weights), self.weight(f"{name}_b", np.arange(columns) / 8) if bias else self.none]
        return self.op(TopMatMulOp, name, operands, (*shape_of(x)[:-1], columns), **({"do_relu": True} if relu else {}))

    def norm(self, name: str, x: SSAValue) -> SSAValue:
        size = shape_of(x)[-1]
        operands = [x, self.weight(f"{name}_g", 1 + np.arange(size) / 16), self.weight(f"{name}_b", np.arange(size) / 32)]
        return self.op(TopLayerNormOp, name, operands, shape_of(x), axis=len(shape_of(x)) - 1, normalized_shape=[size], eps=1e-5)


def toy() -> tuple[Module, CalibrationTable]:
    """One 3x3 convolution with relu, its ranges those of the published example."""
    build = Builder("toy", "ONNX")
    picture: dict[str, Python] = {
        "channel_format": "nchw", "do_preprocess": True, "keep_aspect_ratio": False, "keep_ratio_mode": "letterbox",
        "mean": [0.0, 0.0, 0.0], "pad_type": "center", "pad_value": 0, "pixel_format": "rgb", "resize_dims": [8, 8],
        "scale": [0.0039216, 0.0039216, 0.0039216],
    }  # fmt: skip
    x = build.input("data", (1, 3, 8, 8), picture)
    module = build.finish([build.conv("y_Relu", x, 4, 3, relu=True)])
    return module, CalibrationTable({"data": Range(1.0, 0.0, 1.0), "y_Relu": Range(6.4, 0.0, 6.4)})


def detector() -> tuple[Module, CalibrationTable]:
    """A backbone with a residual, a pyramid of two levels, a box head, a score head and a classifier."""
    build = Builder("detector", "ONNX")
    x = build.input("images", (1, 3, 16, 16))
    x = build.op(TopDepth2SpaceOp, "focus", [x], (1, 12, 8, 8), block_h=2, block_w=2, is_inversed=True)
    x = build.op(TopSiLUOp, "stem_Mul", [build.conv("stem_Conv", x, 8, 3)], (1, 8, 8, 8))
    x = build.op(TopAddOp, "residual_Add", [x, build.conv("branch_Relu", x, 8, 1, relu=True)], (1, 8, 8, 8))
    low = build.op(TopMaxPoolOp, "low_MaxPool", [x], (1, 8, 4, 4), kernel_shape=[3, 3], pads=[0, 0, 0, 0], strides=[2, 2], ceil_mode=True)
    up = build.op(TopUpsampleOp, "up_Resize", [build.conv("low_Conv", low, 8)], (1, 8, 8, 8), scale_h=2, scale_w=2)
    x = build.op(TopConcatOp, "join_Concat", [up, x], (1, 16, 8, 8), axis=1)
    boxes = build.op(TopPermuteOp, "boxes_Transpose", [build.conv("boxes_Conv", x, 4)], (1, 8, 8, 4), order=[0, 2, 3, 1])
    scores = build.op(TopSigmoidOp, "scores_Sigmoid", [build.conv("scores_Conv", x, 2)], (1, 2, 8, 8))
    pooled = build.op(TopAvgPoolOp, "pool_GlobalAveragePool", [x], (1, 16, 1, 1), kernel_shape=[8, 8], pads=[0, 0, 0, 0], strides=[1, 1])
    flat = build.append(TopReshapeOp.make("flat_Flatten", [pooled], tensor_type((1, 16)), {"shape": [1, 16]})).results[0]
    classes = build.op(TopSoftmaxOp, "classes_Softmax", [flat], (1, 16), axis=1)
    module = build.finish([boxes, scores, classes])
    positive = ("images", "focus", "branch_Relu")
    rows = {op.layer_name: 1.0 + i / 2 for i, op in enumerate(module.layers())}
    return module, CalibrationTable({name: Range(t, 0.0 if name in positive else -t / 2, t) for name, t in rows.items()})


def attention() -> tuple[Module, CalibrationTable]:
    """One head over four tokens, keys read transposed, and a perceptron behind a residual."""
    build, tokens = Builder("attention", "ONNX"), (1, 4, 8)
    x = build.input("tokens", tokens)
    y = build.norm("before_LayerNormalization", x)
    q, k, v = (build.linear(f"{name}_Add", y, 8) for name in "qkv")
    scores = build.op(TopMatMulOp, "scores_MatMul", [q, k, build.none], (1, 4, 4), right_transpose=True)
    scaled = build.op(TopMulOp, "scaled_Mul", [scores, build.weight("scale", np.array([0.25]))], (1, 4, 4))
    weights = build.op(TopSoftmaxOp, "weights_Softmax", [scaled], (1, 4, 4), axis=2)
    mixed = build.op(TopMatMulOp, "mixed_MatMul", [weights, v, build.none], tokens)
    x = build.op(TopAddOp, "residual_Add", [x, mixed], tokens)
    hidden = build.op(TopGELUOp, "hidden_Gelu", [build.linear("hidden_Add", build.norm("after_LayerNormalization", x), 12)], (1, 4, 12))
    y = build.linear("out_Relu", hidden, 8, relu=True)
    first = build.op(TopSliceOp, "first_Gather", [y, *[build.none] * 3], (1, 1, 8), offset=[0, 0, 0], ends=[1, 1, 8], steps=[1, 1, 1])
    module = build.finish([build.linear("classes_MatMul", first, 3, bias=False)])
    rows = {op.layer_name: 1.0 + i / 4 for i, op in enumerate(module.layers())}
    return module, CalibrationTable({name: Range(t, 0.0 if name == "out_Relu" else -t / 2, t) for name, t in rows.items()})


NETS = {"toy": toy, "detector": detector, "attention": attention}


def lowered(net: str, mode: str, **options) -> Module:
    module, table = NETS[net]()
    kind, asymmetric = MODES[mode]
    return lower(module, LoweringOptions(target.load("bm1684x"), kind, asymmetric, table if kind == "INT8" else None, **options))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("net", NETS)
def test_lowered_text(net: str, mode: str, golden: Callable[[str, str], None]) -> None:
    golden(f"{net}_{mode}.mlir", str(lowered(net, mode)))


def test_mixed_types_text(golden: Callable[[str, str], None]) -> None:
    precision = PrecisionTable({"stem_Mul": "F16", "boxes_Conv": "F16", "boxes_Transpose": "F16", "classes_Softmax": "F32"})
    golden("detector_mixed.mlir", str(lowered("detector", "int8_sym", precision=precision)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("net", NETS)
def test_lowered_text_survives_our_parser_and_llvms(net: str, mode: str, tmp_path: Path) -> None:
    module = lowered(net, mode)
    assert str(Module(parse(str(module)))) == str(module)
    if MLIR_OPT is None:
        pytest.skip("LLVM's mlir-opt-22 (Debian: mlir-22-tools) is not installed")
    printed = llvm(str(module), tmp_path)
    assert llvm(str(Module(parse(printed))), tmp_path) == printed


def llvm(text: str, folder: Path) -> str:
    """What LLVM's mlir-opt prints after reading a text."""
    source = folder / "net.mlir"
    source.write_text(text)
    command = [str(MLIR_OPT), "--allow-unregistered-dialect", "--mlir-print-debuginfo", str(source)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_published_example_has_the_published_types_and_names() -> None:
    text = str(lowered("toy", "int8_sym"))
    for piece in (
        'tensor<1x3x8x8x!quant.uniform<u8:f32, 0.00392156862745098>> loc("datay_Relu_ui8")',
        'tensor<4x3x3x3xsi8> loc("y_Relu_filter_i8")',
        'tensor<1x4x1x1xi32> loc("y_Relu_bias_int32")',
        "quant_mode = #tpu<rq_mode MultiplierShift>, multiplier = [",
        'tensor<1x4x8x8x!quant.uniform<u8:f32, 0.025098039215686277>> loc("y_Relu")',
        'tensor<1x4x8x8xf32> loc("y_Relu_f32")',
    ):
        assert piece in text
