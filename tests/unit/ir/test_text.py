"""The .mlir text: what is written, what LLVM reads, what comes back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.tpu.compute import TpuPool2DOp
from bmflow.dialects.tpu.convert import TpuCastOp
from bmflow.errors import InputError
from bmflow.ir import text
from bmflow.ir.attributes import PoolMode, enum_attribute, si32
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import CalibratedType, DType, Quantization, UniformType, dtype_of, quantization_of, range_of, tensor_type


@pytest.fixture
def toy() -> Module:
    build = ModuleBuilder("toy", "ONNX")
    x = build.input("data", [1, 3, 8, 8], {"pixel_format": "rgb", "mean": [0.0, 0.0, 0.0], "scale": [0.0039216] * 3})
    w = build.weight("w", np.ones((4, 3, 3, 3), np.float32))
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    calibrated = tensor_type([1, 4, 8, 8], CalibratedType.get(0, 6.4))
    y = build.append(TopConvOp.make("y_Relu", [x, w, build.none], calibrated, window | {"do_relu": True})).results[0]
    integer = tensor_type([1, 4, 8, 8], UniformType.get(DType.U8, 1e-7, 3))
    q = build.append(TpuCastOp.make("y_Relup_ui8", [y], integer)).results[0]
    pool = window | {"pool_mode": enum_attribute(PoolMode, "Max"), "multiplier": si32(57)}
    p = build.append(TpuPool2DOp.make("p", [q], integer, pool)).results[0]
    return build.finish([y, p])


def test_text_survives_a_round_trip_with_names_types_and_numbers(toy: Module) -> None:
    again = Module(text.parse(str(toy)), toy.weights)
    assert str(again) == str(toy)
    conv, cast, pool = list(again.layers())[1:]
    assert [op.layer_name for op in again.layers()] == ["data", "y_Relu", "y_Relup_ui8", "p"]
    assert (conv["do_relu"], conv["relu_limit"], conv["kernel_shape"]) == (True, -1.0, [3, 3])
    assert range_of(conv.results[0]) == (0.0, 6.4)
    assert quantization_of(cast.results[0]) == Quantization(DType.U8, 1e-7, 3)
    assert (pool["pool_mode"], pool["multiplier"]) == ("Max", 57)


def test_text_has_the_form_of_existing_files(toy: Module) -> None:
    lines = str(toy).splitlines()
    assert lines[0].startswith('module @toy attributes {module.chip = "ALL", module.platform = "ONNX", module.state = "TOP_F32"')
    assert "{kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1], do_relu = true}" in str(toy)
    assert 'tensor<1x4x8x8x!quant.calibrated<f32<0.0:6.4>>> loc("y_Relu")' in str(toy)
    assert "pool_mode = #tpu<pool_mode Max>, multiplier = 57 : si32" in str(toy)


@pytest.mark.skipif(shutil.which("mlir-opt-22") is None, reason="LLVM's mlir-opt-22 (Debian: mlir-22-tools) is not installed")
def test_llvm_reads_our_text_and_we_read_llvms(toy: Module, tmp_path: Path) -> None:
    source = tmp_path / "toy.mlir"
    source.write_text(str(toy))
    command = ["mlir-opt-22", "--allow-unregistered-dialect", "--mlir-print-debuginfo", str(source)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "#loc" in printed.strip().splitlines()[-1]  # location aliases stand after their uses there
    again = Module(text.parse(printed), toy.weights)
    assert [(op.name, op.layer_name, op.settings()) for op in again.layers()] == [
        (op.name, op.layer_name, op.settings()) for op in toy.layers()
    ]
    assert [dtype_of(op.results[0]) for op in again.layers()] == [dtype_of(op.results[0]) for op in toy.layers()]


def test_saved_module_loads_with_its_weights(toy: Module, tmp_path: Path) -> None:
    toy.save(tmp_path / "toy.mlir", "toy_weight.npz")
    loaded = Module.load(tmp_path / "toy.mlir")
    assert str(loaded) == str(toy)
    np.testing.assert_array_equal(loaded.weights["w"], np.ones((4, 3, 3, 3), np.float32))


def test_bf16_weights_are_widened_from_their_bits(toy: Module) -> None:
    value = toy.new_weight("w_bf16", np.array([0x3F80, 0xC000], np.uint16), DType.BF16, next(toy.layers()))
    np.testing.assert_array_equal(toy.weight(value), np.array([1.0, -2.0], np.float32))


def test_a_taken_weight_name_gets_a_number_before_its_suffix(toy: Module) -> None:
    first = next(toy.layers())
    names = [toy.new_weight("y_filter_i8", np.zeros(1, np.int8), DType.I8, first) for _ in range(3)]
    assert list(toy.weights)[-3:] == ["y_filter_i8", "y_filter_1_i8", "y_filter_2_i8"]
    assert len(names) == 3


def test_a_clone_can_be_renamed_without_touching_the_original(toy: Module) -> None:
    copy = toy.clone()
    copy.set("module.state", "TPU_LOWERED")
    assert toy.get("module.state") == "TOP_F32"
    assert [op.layer_name for op in copy.layers()] == [op.layer_name for op in toy.layers()]


@pytest.mark.parametrize(
    "source",
    [
        "", "module {", "not mlir at all", 'module { "top.Conv"() : () -> none }', "module { func.func @main( }",
        '#loc1 = loc(#loc2)\n#loc2 = loc(#loc1)\nmodule {} loc(#loc1)', "\x00\x01", "module @a attributes {x = #tpu<pool_mode>} {}",
    ],
)  # fmt: skip
def test_damaged_text_is_bad_input_in_one_paragraph(source: str) -> None:
    with pytest.raises(InputError) as caught:
        Module(text.parse(source, "net.mlir")).block  # noqa: B018
    assert "\n" not in str(caught.value)


def test_a_missing_weight_file_is_named(toy: Module, tmp_path: Path) -> None:
    toy.save(tmp_path / "toy.mlir", "toy_weight.npz")
    (tmp_path / "toy_weight.npz").unlink()
    with pytest.raises(InputError, match=r"toy_weight.npz"):
        Module.load(tmp_path / "toy.mlir")


@pytest.mark.parametrize("damage", ['"top.None', '"' + "a" * 200, r'"\q"'], ids=["open", "long and open", "escape"])
def test_a_string_that_does_not_end_is_refused_at_once(toy: Module, damage: str) -> None:
    source = str(toy).replace("func.func @main", f"func.func @m{damage}\n ain", 1)
    with pytest.raises(InputError, match="line 2: a string is not closed"):
        text.parse(source)
