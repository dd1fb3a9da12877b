"""Put a bmodel into the registry: its files as a logged model, a version with card and digests, the alias, and the promotion."""

# pyright: reportMissingImports=false
# (MLflow and DVC belong to extras)

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bmflow import artifacts
from bmflow.evaluation.spec import DetectorSpec

from bmflow_components.tracking import registry
from bmflow_components.tracking.card import Card
from bmflow_components.tracking.files import DIGEST_TAG
from bmflow_components.tracking.redact import redact_items
from bmflow_components.tracking.registry import METRIC_TAG, Version
from bmflow_components.tracking.runs import KEY_TAG
from bmflow_components.tracking.store import Store

if TYPE_CHECKING:
    from bmflow_components.tracking.flavor import Origin

MODEL_NAME = "bmodel"


@dataclass(frozen=True)
class Registration:
    """What is to be registered.

    Attributes:
        name: of the registered model; one a network and processor, so that each has its champion.
        key: identifies the work; the same key is the same version.
        metrics: the figures kept on the version, by name such as `int8/map`.
        tags: processor, number type, revision of the data, digests, ...
    """

    name: str
    key: str
    bmodel: Path
    origin: Origin
    card: Card
    detector: Path | None = None
    calibration_table: Path | None = None
    quantize_table: Path | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    tags: Mapping[str, object] = field(default_factory=dict[str, object])


def register(store: Store, run_id: str, what: Registration) -> Version:
    """Register a version below a run and let it wait as challenger, or find the one of the same key.

    Raises:
        InputError: the bmodel or the detector cannot be used.
        TrackingError: MLflow is gone or refused.
    """
    _registered_model(store, what)
    for version in registry.versions(store, what.name):
        if version.tags.get(KEY_TAG) == what.key:
            return version
    model_id = _logged_model(store, run_id, what)
    tags = {
        KEY_TAG: what.key, DIGEST_TAG: artifacts.sha256_file(what.bmodel), **{METRIC_TAG + name: repr(float(v)) for name, v in what.metrics.items()},
        **redact_items(what.tags),
    }  # fmt: skip
    made = store.call(
        "register the version", store.client.create_model_version, what.name, f"models:/{model_id}", run_id, tags=tags,
        description=what.card.markdown(), model_id=model_id, await_creation_for=60,
    )  # fmt: skip
    registry.set_challenger(store, what.name, str(made.version))
    return registry.get_version(store, what.name, str(made.version))


def _registered_model(store: Store, what: Registration) -> None:
    from mlflow.exceptions import MlflowException

    def make() -> None:
        try:
            store.client.create_registered_model(
                what.name, description=f"{what.card.model} for {what.card.chip}: {what.card.summary}"[:4000]
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    store.call("make the registered model", make)


def _logged_model(store: Store, run_id: str, what: Registration) -> str:
    """Upload the model folder; one of the same key that was uploaded whole is taken as it is."""
    from mlflow.entities import LoggedModelOutput

    found = store.call(
        "look for the model",
        store.client.search_logged_models,
        [store.experiment_id],
        f"tags.`{KEY_TAG}` = '{what.key}'",
    )
    whole = next((model.model_id for model in found if model.status == "READY"), None)  # a filter by status fails on PostgreSQL
    if whole:
        return whole
    made = store.call(
        "make the model", store.client.create_logged_model, store.experiment_id, MODEL_NAME, run_id,
        tags={KEY_TAG: what.key}, model_type="bmodel",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bmflow-model-") as temporary:
        folder = Path(temporary, "model")
        store.call("write the model", _save, folder, run_id, made.model_id, what)
        store.call("upload the model", store.client.log_model_artifacts, made.model_id, str(folder))
    store.call("link the model to the run", store.client.log_outputs, run_id, [LoggedModelOutput(made.model_id, 0)])
    store.call("finish the model", store.client.finalize_logged_model, made.model_id, "READY")
    return made.model_id


def _save(folder: Path, run_id: str, model_id: str, what: Registration) -> None:
    from mlflow.models import Model

    from bmflow_components.tracking import flavor

    flavor.save_model(
        what.bmodel, folder, what.origin, DetectorSpec.load(what.detector) if what.detector else None, what.calibration_table,
        what.quantize_table, Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
    )  # fmt: skip
    artifacts.write_text(folder / "model_card.json", what.card.json())
    artifacts.write_text(folder / "model_card.md", what.card.markdown())
