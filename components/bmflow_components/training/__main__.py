"""Train the example's detector: `python -m bmflow_components.training`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bmflow.cli import common
from bmflow.errors import InputError

_EXAMPLES = """examples:
  python -m bmflow_components.example_data --output data
  python -m bmflow_components.training --dataset data --output run             about 40 minutes on one core
  python -m bmflow_components.training --dataset data --output run             the same again: goes on after the last finished epoch
  python -m bmflow_components.training --dataset data --output try --epochs 5  a first look

Writes model.onnx, detector.json (classes and anchors), curves.csv, curves.png, train.json and checkpoint.pt. A tenth of the
training pictures is held out to choose the best epoch; the evaluation split is never looked at. Needs the extra `train` (PyTorch).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parse = common.parser(
        "training", "Train a three-head anchor detector on images/train and annotations/train.json of a dataset.", _EXAMPLES
    )
    parse.add_argument("--dataset", required=True, help="folder with images/train and annotations/train.json (COCO format)")
    parse.add_argument("--output", required=True, help="folder of the results; training is taken up again from its checkpoint.pt")
    parse.add_argument("--epochs", type=int, help="most epochs (default 60)")
    parse.add_argument("--batch", type=int, help="pictures a step (default 16)")
    parse.add_argument("--size", type=int, help="side of the network input, a multiple of 32 (default 320)")
    parse.add_argument("--rate", type=float, help="highest learning rate (default 0.004)")
    parse.add_argument("--patience", type=int, help="stop after so many epochs without a better score (default 20)")
    parse.add_argument("--stop_after", type=int, help="finish after this epoch with the best so far; a later call can go on")
    parse.add_argument("--seed", type=int, help="of first weights, order and changes to pictures (default 0)")
    parse.add_argument("--threads", type=int, help="of PyTorch (default 1)")
    return common.main(parse, _run, argv)


def _run(options: argparse.Namespace) -> int:
    try:
        from bmflow_components.training.loop import TrainOptions, train
    except ModuleNotFoundError as error:
        raise InputError(f"training needs {error.name}, which is not installed; install the extra: pip install 'bmflow[train]'") from error
    names = ("epochs", "batch", "size", "rate", "patience", "seed", "threads")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    dataset = Path(options.dataset)
    result = train(
        dataset / "images/train", dataset / "annotations/train.json", Path(options.output), TrainOptions(**given),
        common.progress, lambda line: print(line, flush=True), options.stop_after,
    )  # fmt: skip
    print(f"kept epoch {result.best_epoch}: held-out mAP50 {result.map50:.4f}  mAP50-95 {result.map:.4f}; {result.parameters} parameters")
    print(f"saved {result.onnx}, {result.detector}, {result.curves}, {result.figure}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
