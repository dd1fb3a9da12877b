"""Take a registered bmodel from MLflow, its digest checked; or say that there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bmflow.errors import InputError

from bmflow_components import documents
from bmflow_components.job import Job, Outcome
from bmflow_components.tracking import registry
from bmflow_components.tracking.store import Store


def run(job: Job) -> Outcome:
    """Fetch into the output's folder."""
    name, which = registry.registered_name(job.text("model_name"), job.text("processor")), job.text("which")
    store = Store.open(job.text("tracking_uri"), job.origin / "mlflow")
    folder = job.output("champion")
    folder.mkdir()
    if registry.find_version(store, name, which) is None:
        if job.flag("required"):
            registry.get_version(store, name, which)  # says what there is
        documents.write(folder / "champion.json", {"found": False, "name": name})
        return Outcome({}, {"name": name, "version": "none"})
    fetched = registry.fetch(store, name, which, Path("fetched").absolute())
    shutil.copyfile(fetched.bmodel, folder / "model.bmodel")
    if fetched.detector:
        shutil.copyfile(fetched.detector, folder / "detector.json")
    documents.write(folder / "champion.json", _content(store, fetched.version))
    return Outcome({}, {"name": name, "version": fetched.version.number, "sha256": fetched.version.sha256})


def _content(store: Store, version: registry.Version) -> dict[str, Any]:
    promoted = [event.time for event in registry.history(store, version.name) if event.new == version.number]
    quantize = version.tags.get("bmflow.quantize", "")
    if not version.sha256:
        raise InputError(f"{version.uri}: was not registered by bmflow, so nothing is known of its bmodel")
    return {
        "found": True, "name": version.name, "version": version.number, "sha256": version.sha256, "quantize": quantize, "run_id": version.run_id,
        "since": promoted[-1] if promoted else "", "metrics": version.metrics,
    }  # fmt: skip
