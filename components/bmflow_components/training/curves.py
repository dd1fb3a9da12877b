"""Training curves as a picture."""

# pyright: reportMissingImports=false
# (PyTorch and matplotlib belong to the extra `train`)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bmflow import artifacts


def save_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw losses and accuracy by epoch into a PNG; `history` has one row of figures an epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for name, label in (("box_loss", "box"), ("objectness_loss", "objectness"), ("class_loss", "class")):
        losses.plot(epochs, [row[name] for row in history], label=label)
    for name, label in (("map50", "mAP50"), ("map", "mAP50-95")):
        accuracy.plot(epochs, [row[name] for row in history], label=label)
    best = max(history, key=lambda row: row["map"])
    accuracy.axvline(best["epoch"], color="0.6", linestyle=":", label=f"kept: epoch {best['epoch']:.0f}")
    losses.set(title="training loss", xlabel="epoch", yscale="log")
    accuracy.set(title="accuracy on held-out pictures", xlabel="epoch", ylim=(0, 1))
    for axes in (losses, accuracy):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    with artifacts.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
