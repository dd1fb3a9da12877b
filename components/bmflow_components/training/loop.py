"""Train a detector on a COCO dataset: epochs that can be cut short at any moment and taken up again.

What an epoch does follows from the options and its number alone (order, changes to pictures, learning rate), and a checkpoint is
written whole after each: training killed at any moment and started again ends with the same weights as if it had not been.
"""

# pyright: reportMissingImports=false
# (PyTorch and matplotlib belong to the extra `train`)

from __future__ import annotations

import contextlib
import copy
import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bmflow import artifacts
from bmflow.errors import InputError
from bmflow.evaluation import coco, detector
from bmflow.evaluation.spec import DetectorSpec, Family

from bmflow_components.training import pictures as data
from bmflow_components.training.anchors import fit_anchors
from bmflow_components.training.curves import save_curves
from bmflow_components.training.export import export_onnx
from bmflow_components.training.loss import loss
from bmflow_components.training.network import STRIDES, Detector, NetworkOptions, build, parameter_count, to_cells

CHECKPOINT_VERSION = 1
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
Report = Callable[[str], None]


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        epochs, batch, seed: as the words say; `epochs` also spans the learning rate's cosine.
        size: side of the network input in pixels, a multiple of 32.
        rate, decay: AdamW's highest learning rate and weight decay.
        warm: epochs of rising learning rate.
        average: decay of the running mean of the weights, which is what is scored and kept.
        held_out: share of the training split that scores each epoch and is never learnt from.
        patience: epochs without a better score before training stops.
        threads: of PyTorch. Another number may change the last bits of the result.
    """

    epochs: int = 60
    batch: int = 16
    seed: int = 0
    size: int = 320
    rate: float = 4e-3
    decay: float = 0.02
    warm: int = 2
    average: float = 0.998
    held_out: float = 0.1
    patience: int = 20
    threads: int = 1
    change: data.Augmentation = field(default_factory=data.Augmentation)

    def check(self) -> None:
        """Refuse numbers that cannot train."""
        if self.size % 32 or not 64 <= self.size <= 2048:
            raise InputError(f"size {self.size}: expected a multiple of 32 from 64 to 2048, the coarsest stride is 32")
        if min(self.epochs, self.batch, self.patience, self.threads) < 1:
            raise InputError("epochs, batch, patience and threads: expected 1 or more")
        if not 0 < self.held_out < 1 or not self.rate > 0:
            raise InputError(f"held_out {self.held_out}, rate {self.rate}: expected a share between 0 and 1, and a positive rate")


@dataclass(frozen=True)
class TrainResult:
    """Files made, and the figures of the epoch that was kept (mAP on the held-out pictures)."""

    onnx: Path
    detector: Path
    curves: Path
    figure: Path
    parameters: int
    epochs: int
    best_epoch: int
    map: float
    map50: float
    seconds: float

    def metrics(self) -> dict[str, float]:
        """The figures by name."""
        names = ("parameters", "epochs", "best_epoch", "map", "map50", "seconds")
        return {name: getattr(self, name) for name in names}


@dataclass
class _State:
    """Everything that training remembers from epoch to epoch."""

    network: Detector
    mean: Detector
    optimizer: torch.optim.AdamW
    epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_row(self) -> dict[str, float]:
        return max(self.history, key=lambda row: (row["map"], -row["epoch"]))


def train(
    images: Path,
    annotation: Path,
    folder: Path,
    options: TrainOptions,
    progress: Progress | None = None,
    report: Report | None = None,
    stop_after: int | None = None,
) -> TrainResult:
    """Train on one COCO split and write model.onnx, detector.json, curves.csv, curves.png and train.json into `folder`.

    The folder also holds checkpoint.pt; with it, the same call goes on where the last one stopped.

    Args:
        images: folder of the pictures named in `annotation`.
        progress: wraps each epoch's batches, given their number and a text.
        report: takes one line an epoch.
        stop_after: finish after this epoch with the best so far, though `options.epochs` shapes the learning rate; training can go on later.
    Raises:
        InputError: unusable data or options, or a checkpoint of other data or options.
    """
    options.check()
    if stop_after is not None and stop_after < 1:
        raise InputError(f"stop_after {stop_after}: expected 1 or more epochs")
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    key = _key(images, annotation, options)
    every = data.load(images, annotation, options.size)
    learn, held_out = _split(every, options)
    ids, names = data.class_table(annotation)
    anchors = fit_anchors(learn.sizes, STRIDES)
    spec = DetectorSpec(Family.YOLOV5, names, ids, anchors, data.PAD_VALUE)
    state = _load_checkpoint(folder / "checkpoint.pt", key, _fresh(options, len(names)))
    truth = coco.Annotations.load(str(annotation))
    folder.mkdir(parents=True, exist_ok=True)
    while state.epoch < min(options.epochs, stop_after or options.epochs) and not _given_up(state, options):
        started = time.monotonic()
        losses = _epoch(state, learn, anchors, options, progress)
        accuracy = score(state.mean, held_out, truth, spec, options)
        state.epoch += 1
        state.seconds += time.monotonic() - started
        state.history.append({"epoch": state.epoch, **losses, "map": accuracy.map, "map50": accuracy.map50, "seconds": state.seconds})
        if state.best_row["epoch"] == state.epoch:
            state.best = copy.deepcopy(state.mean.state_dict())
        _save_checkpoint(folder / "checkpoint.pt", key, state)
        if report:
            report(_line(state.history[-1], options))
    return _finish(state, spec, folder, options)


def _key(images: Path, annotation: Path, options: TrainOptions) -> str:
    """Digest of what decides the result: options, annotations, and the pictures' bytes."""
    listed = coco.Annotations.load(str(annotation)).pictures
    whole = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode())
    whole.update(artifacts.sha256_file(annotation).encode())
    for number, name in sorted(listed.items()):
        path = images / name
        if not path.is_file():
            raise InputError(f"{path}: no such picture, though {annotation} names it as picture {number}")
        whole.update(artifacts.sha256_file(path).encode())
    return whole.hexdigest()


def _split(every: data.Pictures, options: TrainOptions) -> tuple[data.Pictures, data.Pictures]:
    order = np.random.default_rng([options.seed, 1]).permutation(len(every))
    held_out = max(1, round(len(every) * options.held_out))
    if len(every) - held_out < 1 or not any(len(every.boxes[k]) for k in order[held_out:]):
        raise InputError(f"{len(every)} pictures, {held_out} of them held out: too few boxes left to learn from")
    return every.take([int(k) for k in order[held_out:]]), every.take([int(k) for k in order[:held_out]])


def _fresh(options: TrainOptions, classes: int) -> _State:
    network = build(NetworkOptions(classes), options.size, options.seed)
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (its stub forgets this form)
    kernels = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]  # biases and normalisation are not decayed
    groups = [{"params": kernels, "weight_decay": options.decay}, {"params": rest, "weight_decay": 0.0}]
    return _State(network, copy.deepcopy(network).eval(), torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.99)))


def learning_rate(progress: float, options: TrainOptions) -> float:
    """Rate after `progress` epochs: a straight rise, then half a cosine down to a hundredth (arXiv 1608.03983)."""
    if progress < options.warm:
        return options.rate * max(progress / options.warm, 0.01)
    done = (progress - options.warm) / max(options.epochs - options.warm, 1)
    return options.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1.0))) / 2)


def _epoch(
    state: _State, learn: data.Pictures, anchors: Mapping[int, Any], options: TrainOptions, progress: Progress | None
) -> dict[str, float]:
    rng = np.random.default_rng([options.seed, 2, state.epoch])
    order = rng.permutation(len(learn))
    batches = [order[k : k + options.batch] for k in range(0, len(order), options.batch)]
    sizes = [torch.tensor(anchors[stride], dtype=torch.float32) for stride in STRIDES]
    gentle = replace(options.change, mosaic=0.0) if state.epoch >= options.epochs * 0.85 else options.change  # end on whole pictures
    total = np.zeros(3)
    state.network.train()
    text = f"epoch {state.epoch + 1}/{options.epochs}"
    for number, batch in enumerate(progress(batches, len(batches), text) if progress else batches):
        rate = learning_rate(state.epoch + number / len(batches), options)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        looks = [data.look(learn, int(k), gentle, rng) for k in batch]
        x = torch.from_numpy(np.stack([pixels for pixels, _ in looks])).permute(0, 3, 1, 2).float().div(255)
        parts = loss(to_cells(state.network(x)), torch.from_numpy(data.to_targets([boxes for _, boxes in looks])), sizes, STRIDES)
        state.optimizer.zero_grad()
        parts.total.backward()
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), 10.0)
        state.optimizer.step()
        state.steps += 1
        _follow(state, options)
        total += [float(parts.box.detach()), float(parts.objectness.detach()), float(parts.kind.detach())]
    names = ("box_loss", "objectness_loss", "class_loss")
    return dict(zip(names, (total / len(batches)).tolist(), strict=True))


def _follow(state: _State, options: TrainOptions) -> None:
    """Move the running mean of weights and statistics a little towards the network, faster in the beginning."""
    keep = options.average * (1 - math.exp(-state.steps / 500))
    with torch.no_grad():
        for mean, now in zip(state.mean.state_dict().values(), state.network.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.mul_(keep).add_(now, alpha=1 - keep)
            else:
                mean.copy_(now)


def score(
    network: Detector, held_out: data.Pictures, truth: coco.Annotations, spec: DetectorSpec, options: TrainOptions
) -> coco.CocoAccuracy:
    """COCO mAP of a network on pictures in memory; boxes below a score of 0.01 are left out, which model_eval counts."""
    settings = detector.Settings(floor=0.01)
    net_size = (options.size, options.size)
    found = {}
    network.eval()
    for start in range(0, len(held_out), options.batch):
        rows = range(start, min(start + options.batch, len(held_out)))
        with torch.no_grad():
            x = torch.from_numpy(held_out.pixels[list(rows)]).permute(0, 3, 1, 2).float().div(255)
            outputs = [out.numpy() for out in network(x)]
        for k in rows:
            heads = {str(stride): out[k - start : k - start + 1] for stride, out in zip(STRIDES, outputs, strict=True)}
            found[held_out.ids[k]] = detector.find(heads, Family.YOLOV5, net_size, settings, held_out.fitted[k], spec)
    with contextlib.redirect_stdout(io.StringIO()):
        return coco.measure(truth, found, settings.limit, spec)


def _given_up(state: _State, options: TrainOptions) -> bool:
    return bool(state.history) and state.epoch - state.best_row["epoch"] >= options.patience


def _line(row: Mapping[str, float], options: TrainOptions) -> str:
    losses = "  ".join(f"{name[:-5]} {row[name]:.3f}" for name in ("box_loss", "objectness_loss", "class_loss"))
    return (
        f"epoch {row['epoch']:.0f}/{options.epochs}  {losses}  mAP50 {row['map50']:.3f}  mAP50-95 {row['map']:.3f}  {row['seconds']:.0f} s"
    )


def _save_checkpoint(path: Path, key: str, state: _State) -> None:
    whole = {
        "version": CHECKPOINT_VERSION, "key": key, "epoch": state.epoch, "steps": state.steps, "seconds": state.seconds,
        "network": state.network.state_dict(), "mean": state.mean.state_dict(), "optimizer": state.optimizer.state_dict(),
        "best": state.best, "history": state.history,
    }  # fmt: skip
    with artifacts.atomic_path(path) as temporary:
        torch.save(whole, temporary)


def _load_checkpoint(path: Path, key: str, state: _State) -> _State:
    if not path.exists():
        return state
    try:
        whole = torch.load(path, weights_only=True)
        version, found = whole["version"], whole["key"]
    except Exception as error:  # torch raises classes of many libraries for a damaged file
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__}); remove it to train from the start") from error
    if (version, found) != (CHECKPOINT_VERSION, key):
        raise InputError(f"{path}: belongs to other data or options; use another folder, or remove it to train from the start")
    state.network.load_state_dict(whole["network"])
    state.mean.load_state_dict(whole["mean"])
    state.optimizer.load_state_dict(whole["optimizer"])
    state.best, state.history = whole["best"], whole["history"]
    state.epoch, state.steps, state.seconds = whole["epoch"], whole["steps"], whole["seconds"]
    return state


def _finish(state: _State, spec: DetectorSpec, folder: Path, options: TrainOptions) -> TrainResult:
    state.mean.load_state_dict(state.best)
    row = state.best_row
    result = TrainResult(
        folder / "model.onnx", folder / "detector.json", folder / "curves.csv", folder / "curves.png", parameter_count(state.mean),
        state.epoch, int(row["epoch"]), row["map"], row["map50"], round(state.seconds, 1),
    )  # fmt: skip
    export_onnx(state.mean, spec, options.size, result.onnx)
    artifacts.write_text(result.detector, spec.text())
    artifacts.write_text(result.curves, _table(state.history))
    save_curves(state.history, result.figure)
    artifacts.write_text(folder / "train.json", json.dumps({"options": asdict(options), "metrics": result.metrics()}, indent=1) + "\n")
    return result


def _table(history: list[dict[str, float]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in history)
    return stream.getvalue()
