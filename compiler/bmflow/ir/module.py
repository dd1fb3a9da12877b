"""A network in memory: the SSA module with its attributes, and the weights that live in the npz file beside its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
from xdsl.dialects import func
from xdsl.dialects.builtin import FunctionType, ModuleOp, StringAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from bmflow import artifacts
from bmflow.errors import InputError
from bmflow.ir import text
from bmflow.ir.attributes import Python, to_attribute, to_python
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.structure import TopInputOp, TopNoneOp, TopWeightOp
from bmflow.ir.types import DType, dtype_of, tensor_type


@dataclass
class Module:
    """One network: `op` is the MLIR module, `weights` the arrays that its top.Weight ops name.

    Weight arrays are float32, float16, uint16 (the bits of a bf16) or integers, shaped as the top.Weight result.
    """

    op: ModuleOp
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a `.mlir` file and the weight npz that its `module.weight_file` names, in the same folder.

        Raises:
            InputError: a file is missing or not what it should be; the message carries line and column.
        """
        module = cls(text.parse(_read_text(path), str(path)))
        weight_file = module.get("module.weight_file")
        used = [op for op in module.block.ops if isinstance(op, TopWeightOp)]
        if weight_file and used:
            module.weights = artifacts.load_npz(Path(path).parent / str(weight_file))
        for op in used:
            if op.layer_name not in module.weights:
                raise InputError(f"{path}: weight {op.layer_name} is not in {weight_file}; transform the model again")
        return module

    def save(self, path: str | Path, weight_file: str) -> None:
        """Write the text to `path` and the weights it uses to `weight_file` (a bare file name) beside it."""
        self.set("module.weight_file", weight_file)
        used = {op.layer_name: self.weights[op.layer_name] for op in self.block.ops if isinstance(op, TopWeightOp)}
        artifacts.save_npz(Path(path).parent / weight_file, used)
        artifacts.write_text(path, str(self))

    def __str__(self) -> str:
        return text.print_module(self.op)

    @property
    def name(self) -> str:
        """Module name, the stem of implicit files."""
        assert self.op.sym_name is not None
        return self.op.sym_name.data

    def get(self, attribute: str, default: Python | None = None) -> Python | None:
        """Read a module attribute such as `module.chip` as a Python value."""
        value = self.op.attributes.get(attribute)
        return default if value is None else to_python(value)

    def set(self, attribute: str, value: Python) -> None:
        """Write a module attribute."""
        self.op.attributes[attribute] = to_attribute(value)

    @property
    def function(self) -> func.FuncOp:
        """The function `@main`."""
        return next(op for op in self.op.ops if isinstance(op, func.FuncOp))

    @property
    def block(self) -> Block:
        """The one block of `@main`, ops in program order."""
        return self.function.body.block

    def layers(self) -> Iterator[LayerOp]:
        """Every op with a layer name, in program order: inputs included, top.None and top.Weight left out."""
        for op in self.block.ops:
            if isinstance(op, LayerOp) and not isinstance(op, TopNoneOp | TopWeightOp):
                yield op

    @property
    def inputs(self) -> list[TopInputOp]:
        """Network inputs in argument order."""
        return [op for op in self.block.ops if isinstance(op, TopInputOp)]

    @property
    def outputs(self) -> list[SSAValue]:
        """Network outputs in order."""
        assert self.block.last_op is not None
        return list(self.block.last_op.operands)

    @property
    def output_names(self) -> list[str]:
        """Layer names of the network outputs."""
        return [layer_name(value) for value in self.outputs]

    def weight(self, value: SSAValue) -> np.ndarray:
        """Array of a top.Weight result; F16 and BF16 are widened to float32.

        Raises:
            KeyError: the value is not a weight of this module.
        """
        array = self.weights[layer_name(value)]
        if dtype_of(value) is DType.BF16 and array.dtype == np.uint16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32) if dtype_of(value).is_float else array

    def weights_digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over the names and bytes of all weights in use, by which tables know their module."""
        digest = sha256()
        for op in self.block.ops:
            if isinstance(op, TopWeightOp):
                digest.update(op.layer_name.encode() + b"\0")
                digest.update(np.ascontiguousarray(self.weights[op.layer_name]).tobytes())
        return digest.hexdigest()[:16]

    def clone(self) -> Self:
        """A copy whose ops may be rewritten; weight arrays are shared, the dictionary is not."""
        return type(self)(_clone_with_locations(self.op), dict(self.weights))

    def refresh_signature(self) -> None:
        """Make the function type follow the block arguments and the returned values after a rewrite."""
        inputs = [argument.type for argument in self.block.args]
        outputs = [value.type for value in self.outputs]
        self.function.function_type = FunctionType.from_lists(inputs, outputs)

    def new_weight(self, name: str, array: np.ndarray, dtype: DType, before: Operation) -> SSAValue:
        """Insert a top.Weight before an op and store its array; a taken name gets `_1`, `_2`, ... before its suffix.

        The array's dtype must be the stored form (float32, float16, uint16 bits of bf16, or integers).
        """
        op = TopWeightOp.make(self._free_weight_name(name), [], tensor_type(array.shape, dtype))
        self.weights[op.layer_name] = array
        block = before.parent_block()
        assert block is not None
        block.insert_op_before(op, before)
        return op.output

    def _free_weight_name(self, name: str) -> str:
        if name not in self.weights:
            return name
        stem, _, suffix = name.rpartition("_")
        return next(f"{stem}_{i}_{suffix}" for i in range(1, 1 << 20) if f"{stem}_{i}_{suffix}" not in self.weights)


class ModuleBuilder:
    """Builds a top module from front to back: inputs, weights, layers, then `finish`."""

    def __init__(self, name: str, platform: str):
        """Start an empty TOP_F32 module; `platform` is ONNX, TORCH, CAFFE or TFLITE."""
        self.block = Block()
        function = func.FuncOp("main", ([], []), Region(self.block))
        attributes: dict[str, Attribute] = {
            key: StringAttr(value)
            for key, value in {
                "module.chip": "ALL", "module.platform": platform, "module.state": "TOP_F32", "module.top_run_mode": "STATIC",
            }.items()
        }  # fmt: skip
        self.module = Module(ModuleOp([function], attributes, StringAttr(name)))
        self.none = self.append(TopNoneOp.create(result_types=[TopNoneOp.RESULT])).results[0]

    def append(self, op: Operation) -> Operation:
        """Add an op at the end."""
        self.block.add_op(op)
        return op

    def input(self, name: str, shape: Sequence[int], attributes: dict[str, Python] | None = None) -> SSAValue:
        """Add a float32 network input with its preprocessing attributes; returns its value."""
        kind = tensor_type(shape)
        argument = self.block.insert_arg(kind, len(self.block.args))
        return self.append(TopInputOp.make(name, [argument], kind, attributes)).results[0]

    def weight(self, name: str, array: np.ndarray) -> SSAValue:
        """Add (or find) a float32 weight by name."""
        for op in self.block.ops:
            if isinstance(op, TopWeightOp) and op.layer_name == name:
                return op.output
        self.module.weights[name] = np.ascontiguousarray(array, np.float32)
        return self.append(TopWeightOp.make(name, [], tensor_type(array.shape))).results[0]

    def finish(self, outputs: Sequence[SSAValue]) -> Module:
        """Return the module with these network outputs."""
        self.append(func.ReturnOp(*outputs))
        self.module.refresh_signature()
        self.module.op.verify()
        return self.module


def _clone_with_locations(op: ModuleOp) -> ModuleOp:
    copy = op.clone()
    for old, new in zip(op.walk(), copy.walk(), strict=True):
        new.location = old.location
    return copy


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as an .mlir text ({error}); give the file model_transform wrote") from error
