"""From the files of the stages to what MLflow keeps: the run of the pipeline, one below it for each candidate, and the chosen bmodel."""

# pyright: reportMissingImports=false
# (MLflow belongs to an extra)

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmflow.container import bmodel as container
from bmflow.container.model import Bmodel
from bmflow.errors import InputError
from bmflow.evaluation.spec import DetectorSpec
from bmflow.isa.program import ProgramTensor

from bmflow_components import bundle, documents
from bmflow_components.bundle import Bundle
from bmflow_components.job import Job
from bmflow_components.report.collect import training
from bmflow_components.result import Result
from bmflow_components.tracking.card import Card
from bmflow_components.tracking.registration import Registration
from bmflow_components.tracking.registry import registered_name
from bmflow_components.tracking.runs import DatasetUse, RunRecord, similarity_table

_PREPROCESS = ("pixel_format", "channel_format", "mean", "scale", "resize_dims", "keep_aspect_ratio", "pad_value", "pad_type")
_COMMON = ("dataset", "train", "transform", "calibrate")
"""Stages that run once for all candidates; their parameters belong to the run of the pipeline."""
_CONTEXTS: Mapping[str, str] = {"train": "training", "calibration": "calibration", "evaluation": "evaluation"}
_LIMITS = (
    "accuracy was measured in the simulator, on the pictures named above alone",
    "time, cycles and traffic are estimates from assumed rates; nothing was measured on a board",
)


@dataclass(frozen=True)
class PipelineRun:
    """Everything the stage register was given, read once."""

    job: Job
    decision: Mapping[str, Any]
    candidates: Sequence[Bundle]
    reference: Mapping[str, Any] | None
    split: Mapping[str, Any]
    results: Sequence[Result]

    @staticmethod
    def of(job: Job) -> PipelineRun:
        """Read the inputs.

        Raises:
            InputError: a file is not what it should be.
        """
        split = job.optional("split")
        return PipelineRun(
            job, documents.read(job.input("decision"), "a decision of the stage gate"), bundle.candidates(job),
            bundle.measured(job.optional("float")), documents.read(split, "the record of a dataset") if split else {}, bundle.results(job),
        )  # fmt: skip

    @property
    def model(self) -> str:
        """Name of the network."""
        return self.job.text("model_name")

    @property
    def processor(self) -> str:
        """What the candidates were compiled for."""
        return self.job.text("processor")

    @property
    def registered_name(self) -> str:
        """Name of the registered model."""
        return registered_name(self.model, self.processor)

    @property
    def chosen(self) -> Bundle | None:
        """The candidate that the gate chose.

        Raises:
            InputError: the decision names a bmodel that is not among the candidates.
        """
        named = self.decision.get("chosen")
        if not named:
            return None
        found = next((item for item in self.candidates if item.sha256 == named["sha256"]), None)
        if found is None:
            raise InputError(
                f"the decision takes {named['label']} (SHA-256 {named['sha256'][:16]}...), which is not among the candidates "
                f"{', '.join(item.label for item in self.candidates)}; give decision and candidates of the same run"
            )
        return found

    @property
    def key(self) -> str:
        """The run of the pipeline: the same for all its processors, and for a repetition that finds everything done."""
        ports = ("float", "split", "training", "report")
        return digest(self.model, *(f"{port}:{','.join(self.job.digests.get(port, ()))}" for port in ports))

    @property
    def promotion_key(self) -> str:
        """The decision to promote."""
        return digest(self.registered_name, *self.job.digests.get("decision", ()))

    def parent(self) -> RunRecord:
        """The run of the pipeline."""
        params = {f"{r.stage}.{name}": value for r in self.results if r.stage in _COMMON for name, value in r.params.items()}
        named = (("report.html", self.job.optional("report")), ("split.json", self.job.optional("split")))
        files = {name: path for name, path in named if path} | self._result_files()
        return RunRecord(
            name=self.job.text("run_name") or f"{self.model} {self._started()}".strip(),
            key=self.key,
            params={"model_name": self.model, **params},
            metrics=self._reference_figures() | self._training_figures(),
            curves=self._curves(),
            tags={"bmflow.kind": "pipeline", "bmflow.model": self.model, **self._data_tags(), **self._versions()},
            files=files,
            datasets=self._datasets(),
        )

    def child(self, candidate: Bundle) -> RunRecord:
        """The run of a candidate."""
        mode, entry = candidate.quantize.lower(), self._judged(candidate)
        made = bundle.made_by(self.results, "bmodel", candidate.sha256)
        figures = self._reference_figures() | _figures(mode, candidate.metrics) | self._differences(candidate)
        figures |= {f"cost/{name}": float(value) for name, value in candidate.cost.items() if value is not None}
        figures |= _similarity_figures(candidate)
        params = {f"deploy.{name}": value for name, value in made.params.items()} if made else {}
        gate = "not judged" if entry is None else "passed" if entry["passed"] else "failed"
        return RunRecord(
            name=f"{self.model} {candidate.label}",
            key=digest(self.key, candidate.processor, candidate.quantize, candidate.sha256),
            params={"processor": candidate.processor, "quantize": candidate.quantize, **params},
            metrics=figures,
            tags={"bmflow.kind": "candidate", "bmflow.gate": gate, **self.tags(candidate)},
            files=_candidate_files(candidate),
            tables={"similarity_by_layer.json": similarity_table(candidate.layers)} if candidate.layers else {},
            note="\n".join(f"- {reason}" for reason in entry["reasons"]) if entry else "",
        )  # fmt: skip

    def tags(self, candidate: Bundle) -> dict[str, str]:
        """Digests and origin, for the candidate's run and for its version."""
        return {
            "bmflow.processor": candidate.processor, "bmflow.quantize": candidate.quantize, "bmflow.bmodel.sha256": candidate.sha256,
            **self._data_tags(), **{f"bmflow.{name}.digest": value for name, value in self.digests(candidate).items()}, **self._versions(),
        }  # fmt: skip

    def registration(self, candidate: Bundle) -> Registration:
        """The version to register."""
        from bmflow_components.tracking.flavor import Origin

        file = self._bmodel(candidate)
        detector = self.job.optional("detector")
        return Registration(
            name=self.registered_name,
            key=digest(self.registered_name, candidate.sha256, *self.job.digests.get("detector", ())),
            bmodel=file,
            origin=Origin(
                candidate.quantize, self._preprocess(), self._toolchain(), {"bmodel": candidate.sha256, **self.digests(candidate)}
            ),
            card=self._card(candidate, container.read(file.read_bytes(), str(file)), detector),
            detector=detector,
            calibration_table=self.job.optional("table") if candidate.quantize in ("INT8", "MIXED") else None,
            quantize_table=self._qtable(candidate),
            metrics=self._reference_figures()
            | _figures(candidate.quantize.lower(), candidate.metrics, False)
            | self._differences(candidate),
            tags={"bmflow.gate": "passed", "bmflow.headline": self.decision["headline"], **self.tags(candidate)},
        )

    def digests(self, candidate: Bundle) -> dict[str, str]:
        """What went into a candidate, by what it is."""
        made = bundle.made_by(self.results, "bmodel", candidate.sha256)
        found = {name: items[0].digest for name, items in made.inputs.items() if items} if made else {}
        found = {{"mlir": "top module", "table": "calibration table", "qtable": "quantize table"}.get(k, k): v for k, v in found.items()}
        transform = next((result for result in self.results if result.stage == "transform" and result.inputs.get("model")), None)
        if transform:
            found["onnx"] = transform.inputs["model"][0].digest
        return {name.replace(" ", "_"): value for name, value in found.items()}

    def _bmodel(self, candidate: Bundle) -> Path:
        known = dict(zip(self.job.many("bmodels"), self.job.digests.get("bmodels", ()), strict=False))
        for path, value in known.items():
            if value == candidate.sha256:
                return path
        raise InputError(
            f"--in-bmodels: none of {len(known)} files is the chosen bmodel (SHA-256 {candidate.sha256}); give those of this run"
        )

    def _qtable(self, candidate: Bundle) -> Path | None:
        """The table of a mixed candidate: the one that its deploy stage read."""
        made = bundle.made_by(self.results, "bmodel", candidate.sha256)
        used = {item.digest for item in made.inputs.get("qtable", ())} if made else set()
        known = zip(self.job.many("qtables"), self.job.digests.get("qtables", ()), strict=False)
        return next((path for path, value in known if value in used), None)

    def _judged(self, candidate: Bundle) -> Mapping[str, Any] | None:
        return next((item for item in self.decision["candidates"] if item["sha256"] == candidate.sha256), None)

    def _reference_figures(self, classes: bool = True) -> dict[str, float]:
        return _figures("fp32", self.reference, classes) if self.reference else {}

    def _differences(self, candidate: Bundle) -> dict[str, float]:
        if self.reference is None:
            return {}
        before = self.reference["accuracy"]
        return {
            f"delta/{name}": float(candidate.accuracy[name]) - float(before[name]) for name in ("map", "map50", "map75") if name in before
        }

    def _training_figures(self) -> dict[str, float]:
        path = self.job.optional("training")
        known = documents.read(path, "metrics of the stage train").get("metrics", {}) if path else {}
        return {f"train/{name}": float(value) for name, value in known.items()}

    def _curves(self) -> dict[str, list[float]]:
        return {f"train/{name}": values for name, values in training(self.job.optional("curves")).items()}

    def _result_files(self) -> dict[str, Path]:
        """The results of the stages, by stage and number."""
        found = [(Result.parse(path.read_text(encoding="utf-8")), path) for path in self.job.many("results")]
        return {f"results/{number:02d}-{result.stage}.json": path for number, (result, path) in enumerate(found, 1) if result}

    def _data_tags(self) -> dict[str, str]:
        if not self.split:
            return {}
        source = self.split.get("source", {})
        tags = {f"bmflow.data.{name}": str(source[name]) for name in ("kind", "repo", "rev", "path", "commit", "md5") if source.get(name)}
        tags |= {f"bmflow.data.{name}.digest": str(found["digest"]) for name, found in self.split["sets"].items()}
        return {"bmflow.data.digest": str(self.split["digest"]), **tags}

    def _datasets(self) -> list[DatasetUse]:
        sets = self.split.get("sets", {})
        return [
            DatasetUse(f"{self.model}-{name}", str(found["digest"]), _CONTEXTS.get(name, name), self._source())
            for name, found in sets.items()
        ]

    def _source(self) -> Any:
        from mlflow.data.code_dataset_source import CodeDatasetSource  # before ours, which it looks for as a plugin

        from bmflow_components.tracking.dataset_source import DvcDatasetSource

        source = self.split.get("source", {})
        if source.get("kind") == "dvc":
            rev = str(source.get("commit") or source.get("rev") or "")
            return DvcDatasetSource(str(source["path"]), str(source.get("repo", "")), rev, str(source.get("md5", "")))
        return CodeDatasetSource({f"bmflow.{name}": str(value) for name, value in source.items()})

    def _versions(self) -> dict[str, str]:
        return {f"bmflow.version.{name}": value for name, value in self._toolchain().items()}

    def _toolchain(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for result in self.results:
            found |= result.versions
        return found

    def _preprocess(self) -> dict[str, Any]:
        made = next((result for result in self.results if result.stage == "transform"), None)
        return {name: made.params[name] for name in _PREPROCESS if name in made.params} if made else {}

    def _started(self) -> str:
        return min((result.started for result in self.results), default="")[:16].replace("T", " ")

    def _card(self, candidate: Bundle, compiled: Bmodel, detector: Path | None) -> Card:
        stage = compiled.nets[0].stages[0]
        before = self.reference["accuracy"] if self.reference else {}
        figures = [
            (title, before.get(name), candidate.accuracy.get(name))
            for title, name in (("mAP50-95", "map"), ("mAP50", "map50"), ("mAP75", "map75"))
        ]
        made = bundle.made_by(self.results, "bmodel", candidate.sha256)
        facts = bundle.data_facts(self.split) if self.split else {}
        return Card(
            model=self.model,
            chip=compiled.chip,
            quantize=candidate.quantize,
            summary=self.decision["headline"],
            inputs=[_shown(tensor) for tensor in stage.inputs],
            outputs=[_shown(tensor) for tensor in stage.outputs],
            classes=DetectorSpec.load(detector).names if detector else (),
            preprocess=self._preprocess(),
            accuracy=figures,
            size_bytes=int(candidate.cost.get("size_bytes") or 0),
            estimate_ms=candidate.cost.get("milliseconds"),
            data={**facts, **{f"{name} set": str(found["digest"]) for name, found in self.split.get("sets", {}).items()}},
            digests={"bmodel": candidate.sha256, **self.digests(candidate)},
            toolchain=self._toolchain(),
            limits=_LIMITS,
            command=shlex.join(made.command) if made else "",
        )  # fmt: skip


def digest(*parts: str) -> str:
    """A name for what follows from these texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _figures(prefix: str, metrics: Mapping[str, Any], classes: bool = True) -> dict[str, float]:
    accuracy = metrics["accuracy"]
    found = {f"{prefix}/{name}": float(accuracy[name]) for name in ("map", "map50", "map75") if name in accuracy}
    if classes:
        found |= {f"{prefix}/class/{_metric_name(name)}": float(value) for name, value in accuracy["per_class"].items()}
    return found


def _metric_name(text: str) -> str:
    """A class name in the characters that MLflow takes."""
    return re.sub(r"[^\w .:/-]", "_", text)


def _similarity_figures(candidate: Bundle) -> dict[str, float]:
    comparisons = candidate.similarity["comparisons"] if candidate.similarity else ()
    names = ("lowered", "compiled")
    return {
        f"similarity/{name}_{figure}": float(found[f"lowest_{figure}"])
        for name, found in zip(names, comparisons, strict=False)
        for figure in ("cosine", "euclid")
    }


def _candidate_files(candidate: Bundle) -> dict[str, Path]:
    files = {"metrics.json": candidate.metrics_file}
    if candidate.worst:
        files |= {f"worst/{file.name}": file for file in sorted(candidate.worst.iterdir()) if file.is_file()}
    return files


def _shown(tensor: ProgramTensor) -> str:
    return f"{tensor.name} {'x'.join(map(str, tensor.shape))} {tensor.dtype.name}"
