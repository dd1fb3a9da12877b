"""An ONNX graph under construction, and the onnxruntime session that runs it.

Tensors are named after the layer they belong to, so that onnxruntime's own messages and profiles name layers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, helper

OPSET = 21
IR_VERSION = 10
_SMALL_BYTES = 64
_MEMORY = Lock()
FLOAT, DOUBLE, INT32, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64
UINT8, FLOAT16, BFLOAT16 = TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.BFLOAT16


class Graph:
    """Collects nodes front to back; only those that an output needs reach the session.

    `scope` is the layer being emitted. `wide` names, for a uint8 tensor, the int32 tensor it was cut from: the index of a look-up.
    """

    def __init__(self) -> None:
        self.scope = ""
        self.wide: dict[str, str] = {}
        self._nodes: list[NodeProto] = []
        self._computed: set[str] = set()
        self._inputs: list[ValueInfoProto] = []
        self._constants: dict[str, np.ndarray] = {}
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def input(self, name: str, dtype: np.dtype, shape: Sequence[int]) -> str:
        """Declare a tensor that is fed."""
        self._inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape))
        return name

    def constant(self, array: np.ndarray | np.generic) -> str:
        """A constant tensor; small equal ones are shared."""
        values = np.asarray(array)
        if values.nbytes > _SMALL_BYTES:
            return self._add(values)
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._small:
            self._small[key] = self._add(values)
        return self._small[key]

    def _add(self, values: np.ndarray) -> str:
        name = f"{self.scope}/constant_{len(self._constants)}"
        self._constants[name] = values
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one result and name that after the layer."""
        output = f"{self.scope}/{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], output, **attributes))
        self._computed.add(output)
        return output

    def is_computed(self, tensor: str) -> bool:
        """Whether a node gives this tensor."""
        return tensor in self._computed

    def session(self, outputs: Collection[str], threads: int) -> onnxruntime.InferenceSession:
        """Build the session that computes `outputs`, in this order."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # many idle sessions must not keep the cores busy
        with _MEMORY:
            _share_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        return onnxruntime.InferenceSession(self._model(outputs).SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _model(self, outputs: Collection[str]) -> ModelProto:
        nodes, used = self._needed(outputs)
        graph = GraphProto(
            name="bmflow", node=nodes, input=self._inputs, output=[ValueInfoProto(name=name) for name in outputs],
            initializer=[_tensor(name, array) for name, array in self._constants.items() if name in used],
        )  # fmt: skip
        return ModelProto(ir_version=IR_VERSION, opset_import=[OperatorSetIdProto(version=OPSET)], graph=graph)

    def _needed(self, outputs: Collection[str]) -> tuple[list[NodeProto], set[str]]:
        """The nodes that lead to `outputs`, in order, and the tensors they use."""
        used, nodes = set(outputs), list[NodeProto]()
        for node in reversed(self._nodes):
            if node.output[0] in used:
                used.update(node.input)
                nodes.append(node)
        return nodes[::-1], used


@cache
def _share_memory() -> None:
    """Let all sessions draw on one arena: each would keep the most it ever needed, and a search has hundreds of them."""
    place = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(0, -1, -1, -1))


def _tensor(name: str, array: np.ndarray) -> TensorProto:
    return TensorProto(
        name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), raw_data=np.ascontiguousarray(array).tobytes()
    )
