"""One way to run a network whatever file it is in: `.onnx`, `.mlir` of either dialect, `.bmodel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from bmflow.errors import InputError

Arrays = dict[str, np.ndarray]


class Session(Protocol):
    """A network ready to run many times."""

    input_shapes: dict[str, tuple[int, ...]]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run once; inputs as float32 by name; outputs by name, integers turned into real values (float32)."""
        ...


def open_session(path: str, threads: int = 2) -> Session:
    """Open a network by the suffix of its file.

    Raises:
        InputError: unknown suffix, missing or damaged file.
    """
    kinds = {".onnx": OnnxSession, ".mlir": MlirSession, ".bmodel": BmodelSession}
    kind = kinds.get(Path(path).suffix)
    if kind is None:
        raise InputError(f"{path}: cannot run this kind of file; expected one of {', '.join(kinds)}")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    return kind(path, threads)


def run_on_picture(session: Session, data: np.ndarray) -> Arrays:
    """Run a network with one input on one array, whatever the input is called."""
    if len(session.input_shapes) != 1:
        raise InputError(f"the network has {len(session.input_shapes)} inputs ({', '.join(session.input_shapes)}); expected one picture")
    return session.run({next(iter(session.input_shapes)): data})


class OnnxSession:
    """An ONNX file in onnxruntime."""

    def __init__(self, path: str, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise InputError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from error
        self.input_shapes = {node.name: tuple(d if isinstance(d, int) else 1 for d in node.shape) for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run once; outputs keep their raw names."""
        values = self._session.run(None, dict(inputs))
        return {name: np.asarray(value) for name, value in zip(self._outputs, values, strict=True)}


class MlirSession:
    """A top or tpu module, computed by the kernels."""

    def __init__(self, path: str, threads: int):
        from bmflow.ir.module import Module
        from bmflow.ir.types import shape_of
        from bmflow.kernels import Executable

        self.module = Module.load(path)
        self.input_shapes = {op.layer_name: shape_of(op.output) for op in self.module.inputs}
        self._executable = Executable(self.module, "outputs", threads)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run once; outputs by layer name."""
        from bmflow.kernels import to_real

        raw = self._executable.run(inputs)
        return {name: to_real(value, raw[name]) for name, value in zip(self.module.output_names, self.module.outputs, strict=True)}


class BmodelSession:
    """A bmodel in the simulator, checks off: they are model_deploy's business."""

    def __init__(self, path: str, threads: int):
        from bmflow.container import bmodel
        from bmflow.simulator import Simulator

        self._simulator = Simulator(bmodel.read(Path(path).read_bytes(), path), threads=threads)
        self.input_shapes = {tensor.name: tensor.shape for tensor in self._simulator.inputs}

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run once; integer outputs become (q - zero_point) * scale."""
        result = self._simulator.run(inputs, check=False)
        return {tensor.name: tensor.to_real(result.outputs[tensor.name]) for tensor in self._simulator.outputs}
