"""bmflow: one command for all tools, e.g. `bmflow deploy --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

VERBS = {
    "transform": ("model_transform", "an ONNX model becomes a top module, checked layer by layer"),
    "calibrate": ("run_calibration", "find the range of every layer on sample pictures"),
    "explain": ("model_explain", "why a network loses in 8 bits, layer by layer, and what to do first"),
    "qtable": ("run_qtable", "which layers are worth running in float, and what that costs"),
    "deploy": ("model_deploy", "a top module becomes a bmodel for one processor, compared step by step"),
    "run": ("model_runner", "run a network of any kind once and save what comes out"),
    "eval": ("model_eval", "accuracy of a detector or classifier"),
    "detect": ("detect_yolov5", "draw what a YOLOv5 network finds in a picture"),
    "tool": ("model_tool", "look into bmodels, take them apart and join them"),
    "npz": ("npz_tool", "look into npz files, compare them, cut and convert them"),
    "rand-input": ("gen_rand_input", "random inputs for a module"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments after the verb to its tool; exit code 2 for an unknown verb."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb in VERBS:
        return import_module(f"bmflow.cli.{VERBS[verb][0]}").main(rest)
    if verb in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if verb in ("-V", "--version"):
        from bmflow import __version__

        print(f"bmflow {__version__}")
        return 0
    print(f"bmflow: {verb} is no verb; choose from {', '.join(VERBS)}", file=sys.stderr)
    return 2


def _usage() -> str:
    lines = [f"  {verb:<12}{tool:<18}{purpose}" for verb, (tool, purpose) in VERBS.items()]
    return "\n".join([__doc__ or "", "usage: bmflow <verb> [options]   bmflow <verb> --help", "", "verb        tool", *lines])


if __name__ == "__main__":
    raise SystemExit(main())
