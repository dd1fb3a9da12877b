"""Whether a table and a module belong together: a table that was made for other weights does not fit, and nothing else would tell."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bmflow.ir.module import Module

LOG = logging.getLogger("bmflow")


def warn_of_other_weights(table: str, made_for: str, mlir: str, module: Module) -> str:
    """Say so when a calibration or quantize table was made for other weights than the module has.

    Args:
        made_for: digest of the weights in the table, empty in tables that name none.
    Returns:
        What was said, empty when they belong together.
    """
    if not made_for or made_for == module.weights_digest():
        return ""
    text = (
        f"{table} WAS NOT MADE FOR {mlir}: its weights have the digest {made_for}, those of the module {module.weights_digest()}. "
        "What it says of layers does not fit; make it again for this module, or give the module that it was made for"
    )
    LOG.warning("%s", text)
    return text
