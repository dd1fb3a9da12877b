"""model_runner: run a network (.onnx, .mlir of either dialect, .bmodel) once and save what comes out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bmflow.cli import common

_EXAMPLES = """examples:
  model_runner --input yolov5n_in_f32.npz --model yolov5n.onnx --output onnx_outputs.npz
  model_runner --input yolov5n_in_f32.npz --model yolov5n_bm1684x_int8_sym_tpu.mlir --dump_all_tensors --output tpu_layers.npz
  model_runner --input yolov5n_in_f32.npz --model yolov5n_1684x_int8_sym.bmodel --output model_outputs.npz

Layers of .onnx are called <tensor>_<OpType>, as in the modules made from it. Beside the outputs, an .mlir also gives the values
before their final Cast. Integer outputs of a .bmodel become real numbers, (q - zero_point) * scale, unless --out_fixed.
"""
_LATER = (("weight", ""), ("decrypt_lib", ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parse = common.parser("model_runner", __doc__ or "", _EXAMPLES)
    parse.add_argument("--input", required=True, help="npz with one array per input (a lone array serves a lone input)")
    parse.add_argument("--model", required=True, help="the network: .onnx, .mlir or .bmodel")
    parse.add_argument("--output", default="_output.npz", help="npz to write (default _output.npz)")
    parse.add_argument("--dump_all_tensors", action="store_true", help="save every layer, not only the outputs")
    parse.add_argument("--out_fixed", action="store_true", help="keep integers of a .bmodel as they are")
    for name, default in _LATER:
        parse.add_argument(f"--{name}", default=default, help=argparse.SUPPRESS)
    parse.add_argument("--cuda", action="store_true", help=argparse.SUPPRESS)
    return common.main(parse, _run, argv)


def _run(options: argparse.Namespace) -> int:
    from bmflow.errors import InputError

    given = [f"--{name}" for name, default in _LATER if getattr(options, name) != default] + ["--cuda"] * options.cuda
    if given:
        raise InputError(f"{', '.join(given)}: not supported yet; leave it out")
    from bmflow.driver.run import RunOptions, run

    with common.status(f"run {options.model}"):
        run(RunOptions(options.input, options.model, options.output, options.dump_all_tensors, options.out_fixed))
    print(f"Result saved to:{options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
