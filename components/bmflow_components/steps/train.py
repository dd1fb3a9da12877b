"""Train the example's detector, or pass a given network on."""

from __future__ import annotations

import shutil
from pathlib import Path

from bmflow import artifacts
from bmflow.driver.evaluate import detector_spec
from bmflow.errors import InputError

from bmflow_components import documents
from bmflow_components.job import Job, Outcome
from bmflow_components.split import Split

_HEADING = "epoch\n"


def run(job: Job) -> Outcome:
    """Train, resuming from the scratch folder, or copy."""
    given = job.optional("given_model")
    return _pass_on(job, given) if given else _train(job)


def _pass_on(job: Job, model: Path) -> Outcome:
    detector = job.optional("given_detector")
    spec = detector_spec(str(model), str(detector) if detector else "")
    shutil.copyfile(model, job.output("model"))
    artifacts.write_text(job.output("detector"), spec.text())
    artifacts.write_text(job.output("curves"), _HEADING)
    documents.write(job.output("metrics"), {"trained": False, "metrics": {}})
    return Outcome({}, {"trained": "no, a network was given"})


def _train(job: Job) -> Outcome:
    try:
        from bmflow_components.training.loop import TrainOptions, train
    except ModuleNotFoundError as error:
        raise InputError(
            f"training needs {error.name}, which is not installed; install the extra `train`, or give a trained network with --in-given_model"
        ) from error
    from bmflow.cli.common import progress

    data = Split.load(job.input("dataset"))
    options = TrainOptions(
        epochs=job.whole("epochs"), batch=job.whole("batch"), size=job.whole("size"), rate=job.real("rate"), patience=job.whole("patience"),
        seed=job.whole("seed"), threads=job.whole("threads"),
    )  # fmt: skip
    result = train(data.images("train"), data.annotations("train"), job.scratch, options, progress, lambda line: print(line, flush=True))
    for source, name in ((result.onnx, "model"), (result.detector, "detector"), (result.curves, "curves")):
        shutil.copyfile(source, job.output(name))
    figures = {name: float(value) for name, value in result.metrics().items() if name != "seconds"}
    documents.write(job.output("metrics"), {"trained": True, "metrics": figures})
    return Outcome(figures, {"trained": "yes"})
