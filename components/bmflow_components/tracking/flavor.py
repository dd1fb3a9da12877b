"""The MLflow flavor `bmodel`: a compiled network with all it takes to feed it and to know where it came from.

    model/MLmodel           flavors `bmodel` and `python_function`, signature
    model/model.bmodel
    model/detector.json     family, classes, anchors (detectors only)
    model/calibration_table, quantize_table    as used, when there were any

`load_model` gives a `CompiledModel`; `mlflow.pyfunc.load_model` the same behind `predict`. Both run the bytes in the simulator, and both
refuse files whose digests are not those written down when they were saved.
"""

# pyright: reportMissingImports=false
# (MLflow and DVC belong to extras)

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import yaml
from bmflow import __version__, artifacts
from bmflow.container import bmodel as container
from bmflow.container.model import Bmodel
from bmflow.errors import InputError
from bmflow.evaluation import detector as detecting
from bmflow.evaluation.spec import DetectorSpec
from bmflow.isa.program import ProgramTensor
from bmflow.simulator import Simulator
from mlflow import pyfunc
from mlflow.models import Model, ModelInputExample, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME, ModelInfo
from mlflow.models.utils import _save_example
from mlflow.tracking.artifact_utils import _download_artifact_from_uri
from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv
from mlflow.utils.file_utils import get_total_file_size
from mlflow.utils.model_utils import _get_flavor_configuration, _validate_and_prepare_target_save_path

from bmflow_components.tracking.files import CALIBRATION_FILE, DETECTOR_FILE, DIGEST_TAG, MODEL_FILE, QUANTIZE_FILE, check_digest

FLAVOR_NAME = "bmodel"
COLUMNS = ("picture", "x1", "y1", "x2", "y2", "score", "class_id", "class_name")
_LARGEST_EXAMPLE = 100_000
"""Elements of an example input that is still written as JSON."""
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Origin:
    """Where a bmodel comes from, for its MLmodel file.

    Attributes:
        quantize: number type of most layers: F32, F16, BF16, INT8 or MIX.
        preprocess: what is recorded on the network's input (pixel format, mean, scale, ...).
        toolchain: versions of the tools that made it.
        digests: SHA-256 by name of what went in: onnx, mlir, calibration set, ...
    """

    quantize: str
    preprocess: Mapping[str, Any] = field(default_factory=dict[str, Any])
    toolchain: Mapping[str, str] = field(default_factory=lambda: {"bmflow": __version__})
    digests: Mapping[str, str] = field(default_factory=dict[str, str])


class CompiledModel:
    """A bmodel ready to run in the simulator.

    Attributes:
        detector: how to read the outputs as boxes; None for other networks.
        facts: the flavor's entry in MLmodel.
    """

    def __init__(self, bmodel: Bmodel, detector: DetectorSpec | None = None, facts: Mapping[str, Any] | None = None) -> None:
        self.detector = detector
        self.facts = dict(facts or {})
        self._simulator = Simulator(bmodel)
        if detector is not None:
            self._net_size = _net_size(self.inputs)
            self._family = detecting.family_of({t.name: np.empty(t.shape, np.bool_) for t in self.outputs}, self._net_size, detector)

    @property
    def inputs(self) -> tuple[ProgramTensor, ...]:
        """What `run` takes."""
        return self._simulator.inputs

    @property
    def outputs(self) -> tuple[ProgramTensor, ...]:
        """What `run` gives."""
        return self._simulator.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Network inputs (real values, float32, by name) to outputs (real values, float32, by name)."""
        raw = self._simulator.run(inputs, check=False).outputs
        return {tensor.name: tensor.to_real(raw[tensor.name]) for tensor in self.outputs}

    def detect(self, picture: np.ndarray, settings: detecting.Settings | None = None) -> detecting.Detections:
        """Boxes of one RGB picture (h, w, 3) uint8, in its own pixels, best first.

        Raises:
            InputError: not a detector, or not such a picture.
        """
        ready, outputs = self._feed(picture)
        return detecting.find(outputs, self._family, self._net_size, settings or detecting.Settings(), ready, self._spec)

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
        """What MLflow calls.

        Args:
            data: detectors: RGB pictures (n, h, w, 3) uint8; others: network inputs by name.
            params: of detectors: `raw` (outputs instead of boxes), `score_floor`, `iou`, `limit`.
        Returns:
            a table of boxes (`COLUMNS`), or outputs by name; with `raw`, outputs stacked over the pictures.
        """
        if self.detector is None:
            return self.run({name: np.asarray(array, np.float32) for name, array in self._named(data).items()})
        options = dict(params or {})
        pictures = np.asarray(data)
        pictures = pictures[None] if pictures.ndim == 3 else pictures
        if options.pop("raw", False):
            found = [self._feed(picture)[1] for picture in pictures]
            return {name: np.stack([outputs[name] for outputs in found]) for name in found[0]} if found else {}
        settings = detecting.Settings(options.get("score_floor", 0.25), options.get("iou", 0.6), options.get("limit", 300))
        if not 0 < settings.floor < 1:
            raise InputError(f"score_floor {settings.floor:g}: expected more than 0 and less than 1")
        rows = [row for number, picture in enumerate(pictures) for row in self._rows(number, self.detect(picture, settings))]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _feed(self, picture: np.ndarray) -> tuple[detecting.Letterboxed, dict[str, np.ndarray]]:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise InputError(f"expected an RGB picture (h, w, 3) of uint8, found {picture.shape} of {picture.dtype}")
        ready = detecting.letterbox(np.ascontiguousarray(picture[:, :, ::-1]), self._net_size, self._family, self._spec.pad_value)
        return ready, self.run({self.inputs[0].name: ready.data})

    def _rows(self, number: int, found: detecting.Detections) -> list[tuple[Any, ...]]:
        spec = self._spec
        return [
            (number, *map(float, box), float(score), spec.category_ids[int(kind)], spec.names[int(kind)])
            for box, score, kind in zip(found.boxes, found.scores, found.classes, strict=True)
        ]

    def _named(self, data: Any) -> dict[str, Any]:
        if isinstance(data, Mapping):
            return dict(data)
        if len(self.inputs) != 1:
            raise InputError(f"the network has the inputs {', '.join(t.name for t in self.inputs)}; give them by name")
        return {self.inputs[0].name: data}

    @property
    def _spec(self) -> DetectorSpec:
        if self.detector is None:
            raise InputError("this bmodel was saved without a detector description, so its outputs cannot be read as boxes; use run()")
        return self.detector


def save_model(
    bmodel: str | Path,
    path: str | Path,
    origin: Origin,
    detector: DetectorSpec | None = None,
    calibration_table: str | Path | None = None,
    quantize_table: str | Path | None = None,
    mlflow_model: Model | None = None,
    signature: ModelSignature | None = None,
    input_example: ModelInputExample | None = None,
    pip_requirements: list[str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Model:
    """Write the model folder `path`.

    Args:
        bmodel: the file; it is read and checked first.
        signature, input_example, pip_requirements: made from the bmodel unless given.
    Raises:
        InputError: a file cannot be used, or the bmodel and the detector do not fit.
    """
    data = _read(bmodel)
    parsed = container.read(data, str(bmodel))
    compiled = CompiledModel(parsed, detector)
    folder = Path(path).resolve()
    _validate_and_prepare_target_save_path(str(folder))
    model = mlflow_model or Model()
    example = example_of(compiled) if input_example is None else input_example
    model.signature = signature or signature_of(compiled)
    if example is not None:
        _save_example(model, example, str(folder))
    model.metadata = metadata or model.metadata
    files = _write_files(folder, data, detector, calibration_table, quantize_table)
    pyfunc.add_to_model(model, __name__, conda_env="conda.yaml", python_env="python_env.yaml")
    model.add_flavor(FLAVOR_NAME, **_facts(parsed, compiled, origin, files))
    model.model_size_bytes = get_total_file_size(str(folder))
    model.save(str(folder / MLMODEL_FILE_NAME))
    _write_environment(folder, pip_requirements or requirements())
    return model


def log_model(bmodel: str | Path, name: str, origin: Origin, registered_model_name: str | None = None, **named: Any) -> ModelInfo:
    """Log to the active run of the current MLflow store; `named` are further arguments of `save_model` and of `Model.log`."""
    import bmflow_components.tracking.flavor as this

    return Model.log(
        artifact_path=None, name=name, flavor=this, registered_model_name=registered_model_name, bmodel=bmodel, origin=origin, **named
    )


def load_model(model_uri: str, dst_path: str | None = None) -> CompiledModel:
    """Fetch and open a model: a folder, `runs:/...`, `models:/name@champion`, `models:/name/3`, ...

    Raises:
        InputError: a file was changed after it was saved, or is not the one that was registered.
    """
    local = _download_artifact_from_uri(artifact_uri=model_uri, output_path=dst_path)
    loaded = _load_pyfunc(local)
    if match := _REGISTERED.fullmatch(model_uri):
        client, name, alias = mlflow.MlflowClient(), match["name"], match["alias"]
        version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, match["version"])
        check_digest(loaded.facts["files"][MODEL_FILE], version.tags.get(DIGEST_TAG, ""), f"{model_uri} (version {version.version})")
    return loaded


def _load_pyfunc(path: str) -> CompiledModel:
    """Open a model folder; MLflow's name for it."""
    facts = _get_flavor_configuration(path, FLAVOR_NAME)
    for name, digest in facts["files"].items():
        file = Path(path) / name
        if not file.is_file():
            raise InputError(f"{file}: the file is missing; fetch the model again, or go back to a version that is whole")
        check_digest(artifacts.sha256_file(file), digest, str(file))
    file = Path(path) / MODEL_FILE
    detector = DetectorSpec.load(Path(path) / DETECTOR_FILE) if DETECTOR_FILE in facts["files"] else None
    return CompiledModel(container.read(file.read_bytes(), str(file)), detector, facts)


def signature_of(compiled: CompiledModel) -> ModelSignature:
    """Pictures to boxes for detectors, named float32 tensors otherwise."""
    if compiled.detector is None:
        inputs, outputs = (
            Schema([TensorSpec(np.dtype(np.float32), t.shape, t.name) for t in side]) for side in (compiled.inputs, compiled.outputs)
        )
        return ModelSignature(inputs, outputs)
    kinds = (DataType.long, *[DataType.double] * 5, DataType.long, DataType.string)
    params = [
        ParamSpec("raw", DataType.boolean, False), ParamSpec("score_floor", DataType.double, 0.25), ParamSpec("iou", DataType.double, 0.6),
        ParamSpec("limit", DataType.long, 300),
    ]  # fmt: skip
    return ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
        Schema([ColSpec(kind, name) for kind, name in zip(kinds, COLUMNS, strict=True)]),
        ParamSchema(params),  # pyright: ignore[reportArgumentType]  (MLflow's annotation says Schema)
    )


def example_of(compiled: CompiledModel) -> ModelInputExample | None:
    """A grey picture for detectors, zeros otherwise; None when they would fill megabytes of JSON."""
    if compiled.detector is not None:
        return np.full((1, 32, 32, 3), 114, np.uint8)
    if sum(int(np.prod(t.shape)) for t in compiled.inputs) > _LARGEST_EXAMPLE:
        return None
    return {t.name: np.zeros(t.shape, np.float32) for t in compiled.inputs}


def requirements() -> list[str]:
    """What an environment needs to run a model: the versions of this one."""
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "pandas")} | {
        "mlflow": mlflow.__version__,
        "bmflow": __version__,
    }
    return [f"{name}=={versions[name]}" for name in ("mlflow", "numpy", "pandas", "bmflow")]


def _net_size(inputs: Sequence[ProgramTensor]) -> tuple[int, int]:
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[:2] != (1, 3):
        raise InputError(f"a detector has one input 1x3xHxW, this bmodel has {', '.join(f'{t.name} {list(t.shape)}' for t in inputs)}")
    return shape[2], shape[3]


def _facts(parsed: Bmodel, compiled: CompiledModel, origin: Origin, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "data": MODEL_FILE, "chip": parsed.chip, "quantize": origin.quantize, "format_version": parsed.version, "created": parsed.time.strip(),
        "files": dict(files), "detector": DETECTOR_FILE if compiled.detector else None, "preprocess": dict(origin.preprocess),
        "toolchain": dict(origin.toolchain), "digests": dict(origin.digests), "inputs": [_tensor(t) for t in compiled.inputs],
        "outputs": [_tensor(t) for t in compiled.outputs],
    }  # fmt: skip


def _tensor(tensor: ProgramTensor) -> dict[str, Any]:
    return {
        "name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype.name, "scale": float(tensor.scale), "zero_point": tensor.zero_point,
    }  # fmt: skip


def _write_files(
    folder: Path, data: bytes, detector: DetectorSpec | None, calibration_table: str | Path | None, quantize_table: str | Path | None
) -> dict[str, str]:  # fmt: skip
    """Write everything that carries a digest; SHA-256 by file name."""
    artifacts.write_bytes(folder / MODEL_FILE, data)
    if detector is not None:
        artifacts.write_text(folder / DETECTOR_FILE, detector.text())
    for name, source in ((CALIBRATION_FILE, calibration_table), (QUANTIZE_FILE, quantize_table)):
        if source:
            artifacts.write_bytes(folder / name, _read(source))
    names = (MODEL_FILE, DETECTOR_FILE, CALIBRATION_FILE, QUANTIZE_FILE)
    return {name: artifacts.sha256_file(folder / name) for name in names if (folder / name).is_file()}


def _write_environment(folder: Path, pip_requirements: list[str]) -> None:
    conda = _mlflow_conda_env(additional_pip_deps=pip_requirements, install_mlflow=False)
    artifacts.write_text(folder / "conda.yaml", yaml.safe_dump(conda, default_flow_style=False))
    artifacts.write_text(folder / "requirements.txt", "\n".join(pip_requirements) + "\n")
    _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read this file ({error.strerror})") from error
