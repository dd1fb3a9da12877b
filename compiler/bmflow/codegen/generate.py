"""Code generation: a lowered module becomes a Program, layer by layer through DDR.

Every layer reads its inputs from DDR, computes them tile by tile in local memory and writes its result back, dense, in the
order n, c, h, w and in the storage type of the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bmflow.codegen.assembler import Assembler
from bmflow.codegen.coefficients import WeightImage
from bmflow.codegen.elementwise import EMITTERS
from bmflow.codegen.emit_channel_lookup import ChannelLookupLayer, has_table_per_channel
from bmflow.codegen.emit_conv import ConvLayer
from bmflow.codegen.emit_depthwise import DepthwiseLayer, is_depthwise
from bmflow.codegen.emit_elementwise import plan_elementwise, plan_relu_in_place
from bmflow.codegen.emit_matmul import MatMulLayer
from bmflow.codegen.emit_move import MOVES, plan_move
from bmflow.codegen.emit_pool import plan_pool
from bmflow.codegen.layer import Build, Layer, Sequel
from bmflow.dialects.tpu.compute import TpuConv2DOp, TpuLutOp, TpuPool2DOp
from bmflow.dialects.tpu.matmul import TpuMatMulOp
from bmflow.errors import CompileError
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp
from bmflow.ir.types import dtype_of, quantization_of, shape_of
from bmflow.ir.values import SSAValue
from bmflow.isa.program import LayerSpan, Program, ProgramTensor
from bmflow.passes.memory import plan_tensors
from bmflow.target import Target

Planner = Callable[[Build, LayerOp], Layer]


def generate(module: Module, target: Target) -> Program:
    """Compile a lowered module.

    Raises:
        InputError: the processor has no code generator yet.
        CompileError: a layer cannot be compiled (named, with the reason).
    """
    memory = target.require_codegen()
    build = Build(module, target, memory, WeightImage(memory), {})
    ops = [op for op in module.layers() if not isinstance(op, TopInputOp)]
    layers = [(op, _plan(build, op)) for op in ops]
    coeff = build.image.data
    tensors = plan_tensors(module, memory.ddr_alignment)
    ctx_address = memory.coeff_base + len(coeff)
    build.addresses.update({name: ctx_address + offset for name, offset in tensors.offsets.items()})
    asm = Assembler(target)
    spans = [_emit(build, asm, op, layer) for op, layer in layers]
    tiu, gdma = asm.finish()
    return Program(
        name=module.name, target=target, tiu=tiu, gdma=gdma, coeff=coeff, coeff_address=memory.coeff_base, ctx_address=ctx_address,
        ctx_bytes=tensors.total_bytes, inputs=[program_tensor(build, op.results[0]) for op in module.inputs],
        outputs=[program_tensor(build, value) for value in module.outputs], layers=spans, weights=build.image.spans,
    )  # fmt: skip


def program_tensor(build: Build, value: SSAValue) -> ProgramTensor:
    """Describe an activation in DDR."""
    quantization = quantization_of(value)
    scale, zero_point = (quantization.scale, quantization.zero_point) if quantization else (1.0, 0)
    name = layer_name(value)
    return ProgramTensor(name, shape_of(value), dtype_of(value), build.addresses[name], scale, zero_point)


def _plan(build: Build, op: LayerOp) -> Layer:
    planner = PLANNERS.get(op.name)
    if planner is None:
        known = ", ".join(sorted(PLANNERS))
        raise CompileError(f"{op.layer_name}: {op.name} has no code generator for {build.target.name}; there is one for {known}")
    return planner(build, op)


def _emit(build: Build, asm: Assembler, op: LayerOp, layer: Layer) -> LayerSpan:
    asm.begin_layer(op.layer_name, op.name)
    layer.emit(asm)
    first_tiu, last_tiu, first_gdma, last_gdma = asm.end_layer()
    tensor = program_tensor(build, op.results[0])
    return LayerSpan(op.layer_name, op.name, tensor, first_tiu, last_tiu, first_gdma, last_gdma)


def _plan_conv(build: Build, op: LayerOp) -> Layer:
    assert isinstance(op, TpuConv2DOp)
    return DepthwiseLayer(build, op) if is_depthwise(op) else ConvLayer(build, op)


def _plan_matmul(build: Build, op: LayerOp) -> Layer:
    assert isinstance(op, TpuMatMulOp)
    return MatMulLayer(build, op)


def _plan_pool(build: Build, op: LayerOp) -> Layer:
    assert isinstance(op, TpuPool2DOp)
    return plan_pool(build, op)


def _plan_lookup(build: Build, op: LayerOp) -> Layer:
    assert isinstance(op, TpuLutOp)
    return ChannelLookupLayer(build, op) if has_table_per_channel(op) else plan_elementwise(build, op)


def _plan_move(build: Build, op: LayerOp) -> Layer:
    layer = plan_move(build, op)
    return Sequel((layer, plan_relu_in_place(build, op))) if op.settings().get("do_relu") else layer


PLANNERS: Mapping[str, Planner] = {
    "tpu.Conv2D": _plan_conv,
    "tpu.MatMul": _plan_matmul,
    "tpu.Pool2D": _plan_pool,
    **dict.fromkeys(MOVES, _plan_move),
    **dict.fromkeys(EMITTERS, plan_elementwise),
    "tpu.Lut": _plan_lookup,
}
