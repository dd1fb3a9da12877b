"""The layers of a network as a json blob in `NetParameter.tensor_loc`, the place for debug data about tensors.

Our own content: name, operator, commands and result of each layer, and inputs and outputs with scales in full precision (the
flatbuffer has 32-bit floats). Blobs in another format are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bmflow.errors import InputError
from bmflow.ir.types import DType
from bmflow.isa.program import LayerSpan, ProgramTensor

_FORMAT = "bmflow-layers-1"


def to_json(layers: Sequence[LayerSpan], ports: Sequence[ProgramTensor]) -> bytes:
    """Write layers, and inputs and outputs."""
    rows = [
        {"name": layer.name, "op": layer.op, "tiu": [layer.first_tiu, layer.last_tiu], "gdma": [layer.first_gdma, layer.last_gdma],
         "tensor": _tensor_row(layer.tensor)}
        for layer in layers
    ]  # fmt: skip
    return json.dumps({"format": _FORMAT, "ports": [_tensor_row(port) for port in ports], "layers": rows}, separators=(",", ":")).encode()


def _tensor_row(tensor: ProgramTensor) -> dict[str, object]:
    return {
        "name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype.value, "address": tensor.address,
        "scale": tensor.scale, "zero_point": tensor.zero_point,
    }  # fmt: skip


def from_json(blob: bytes, where: str) -> tuple[tuple[LayerSpan, ...], tuple[ProgramTensor, ...]]:
    """Read layers and ports; both empty when the blob is not ours.

    Raises:
        InputError: it is ours but cannot be understood.
    """
    try:
        content: Any = json.loads(blob)
    except (ValueError, RecursionError):
        return (), ()
    if not isinstance(content, dict) or content.get("format") != _FORMAT:  # pyright: ignore[reportUnknownMemberType]
        return (), ()
    try:
        return tuple(_layer(row) for row in content["layers"]), tuple(_tensor(row) for row in content["ports"])  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{where}: its table of layers is damaged ({type(error).__name__}: {error}); get the file again") from error


def _layer(row: Mapping[str, Any]) -> LayerSpan:
    first_tiu, last_tiu = row["tiu"]
    first_gdma, last_gdma = row["gdma"]
    spans = [int(number) for number in (first_tiu, last_tiu, first_gdma, last_gdma)]
    return LayerSpan(str(row["name"]), str(row["op"]), _tensor(row["tensor"]), *spans)


def _tensor(row: Mapping[str, Any]) -> ProgramTensor:
    return ProgramTensor(
        str(row["name"]), tuple(int(dim) for dim in row["shape"]), DType(row["dtype"]), int(row["address"]),
        float(row["scale"]), int(row["zero_point"]),
    )  # fmt: skip
