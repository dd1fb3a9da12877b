"""Names of the files of a registered bmodel, and the check that they are what was registered."""

from __future__ import annotations

from bmflow.errors import InputError

MODEL_FILE, DETECTOR_FILE, CALIBRATION_FILE, QUANTIZE_FILE = "model.bmodel", "detector.json", "calibration_table", "quantize_table"
DIGEST_TAG = "bmflow.bmodel.sha256"
"""Tag of a model version that holds the SHA-256 of its bmodel."""


def check_digest(found: str, expected: str, where: str) -> None:
    """Refuse a file that is not the registered one.

    Raises:
        InputError: the digests differ.
    """
    if expected and found != expected:
        raise InputError(
            f"{where}: was altered after it was registered: expected SHA-256 {expected[:16]}..., found {found[:16]}...; do not ship it. "
            "Go back to a version that is whole (python -m bmflow_components.tracking rollback) and find out who wrote to the store"
        )
