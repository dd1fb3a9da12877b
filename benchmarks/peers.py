"""Quantize an ONNX network with another tool, on the same pictures and the same preprocessing: one process, so that its memory counts.

python benchmarks/peers.py METHOD model.onnx model.mlir pictures out.onnx; METHOD: minmax, percentile, nncf, nncf_mixed
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from bmflow.ir.module import Module
from bmflow.preprocess import Preprocess
from onnx import version_converter


def inputs(mlir: str, pictures: str) -> Iterator[np.ndarray]:
    """Network inputs of all pictures of a folder, by name."""
    preprocess = Preprocess.of(Module.load(mlir).inputs[0])
    assert preprocess is not None
    return (preprocess.load(str(path)) for path in sorted(Path(pictures).iterdir()))


def by_onnxruntime(method: str, model: str, mlir: str, pictures: str, out: str) -> None:
    """Static quantization as its guide recommends: QDQ, uint8 activations, int8 weights by channel."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name, ready = onnx.load(model).graph.input[0].name, out.replace(".onnx", "_ready.onnx")
    quant_pre_process(model, ready, skip_symbolic_shape=True)

    class Reader:
        def __init__(self) -> None:
            self.rest = inputs(mlir, pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.rest, None)
            return None if found is None else {name: found}

    # a number that divides that of the pictures ends in "No data is collected"
    kinds = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    quantize_static(
        ready, out, Reader(), QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,  # pyright: ignore
        calibrate_method=kinds[method], extra_options={"CalibMaxIntermediateOutputs": 7},
    )  # fmt: skip


def by_nncf(method: str, model: str, mlir: str, pictures: str, out: str) -> None:
    """Post-training quantization on all pictures."""
    import nncf  # pyright: ignore[reportMissingImports]

    network = onnx.load(model)
    name = network.graph.input[0].name
    samples = list(inputs(mlir, pictures))
    preset = nncf.QuantizationPreset.MIXED if method == "nncf_mixed" else None
    dataset = nncf.Dataset(samples, lambda x: {name: x})
    onnx.save(nncf.quantize(network, dataset, preset=preset, subset_size=len(samples)), out)


def main() -> int:
    """Quantize."""
    method, model, mlir, pictures, out = sys.argv[1:]
    newer = out.replace(".onnx", "_opset13.onnx")  # older networks have no scales by channel
    network = onnx.load(model)
    if max(item.version for item in network.opset_import if not item.domain) < 13:
        network = version_converter.convert_version(network, 13)
    onnx.save(network, newer)
    (by_nncf if method.startswith("nncf") else by_onnxruntime)(method, newer, mlir, pictures, out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
