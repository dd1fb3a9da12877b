"""gen_rand_input: random inputs that a module accepts, for trying a network without data."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence

from bmflow.cli import common

_EXAMPLES = """examples:
  gen_rand_input --mlir yolov5n.mlir --ranges [[0,1]] --output input.npz
  gen_rand_input --mlir yolov5n.mlir --img --output noise.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parse = common.parser("gen_rand_input", __doc__ or "", _EXAMPLES)
    parse.add_argument("--mlir", required=True, help="the module whose inputs are wanted")
    parse.add_argument("--ranges", type=_ranges, default=[], help="[[low,high],...] per input, both ends included (default -1..1)")
    parse.add_argument("--input_types", type=common.comma_list, default=[], help="f32, f16, bf16, si32, ui8, ... per input (default f32)")
    parse.add_argument("--img", action="store_true", help="write an 8-bit picture of the input's size instead")
    parse.add_argument("--seed", type=int, default=1684, help="seed of the random numbers (default 1684)")
    parse.add_argument("--output", default="", help="file to write (default input.npz, with --img input.png)")
    return common.main(parse, _run, argv)


def _ranges(text: str) -> list[list[float]]:
    try:
        value = ast.literal_eval(text.strip())
        value = [value] if value and not isinstance(value[0], list | tuple) else value
        return [[float(number) for number in pair] for pair in value]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise argparse.ArgumentTypeError(f"expected ranges such as [[0,1],[-1,1]], found {text}") from error


def _run(options: argparse.Namespace) -> int:
    from bmflow.driver.rand_input import RandOptions, generate

    output = options.output or ("input.png" if options.img else "input.npz")
    arrays = generate(RandOptions(options.mlir, output, options.ranges, options.input_types, options.img, options.seed))
    for name, array in arrays.items():
        print(f"{name}\t{array.shape}\t{array.dtype}")
    print(f"saved {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
