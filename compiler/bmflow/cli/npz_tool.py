"""npz_tool: look into npz files, compare them, cut and convert them."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Sequence
from typing import Any

from bmflow.cli import common

_EXAMPLES = """examples:
  npz_tool dump yolov5n_top_outputs.npz
  npz_tool dump yolov5n_top_outputs.npz 122_Conv 10
  npz_tool compare yolov5n_bm1684x_int8_sym_tpu_outputs.npz yolov5n_top_outputs.npz --tolerance 0.9,0.8 -vv
  npz_tool extract in.npz out.npz 122_Conv,124_Mul
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; exit code 3 when a comparison fails or check_nan_inf finds something."""
    parse = common.parser("npz_tool", __doc__ or "", _EXAMPLES)
    functions = parse.add_subparsers(dest="function", metavar="function", required=True)
    for add in _FUNCTIONS:
        add(functions)
    return common.main(parse, lambda options: options.run(options), argv)


def _int_list(text: str) -> list[int]:
    value = ast.literal_eval(f"[{text.strip('[]()')}]")
    if not all(isinstance(item, int) for item in value):
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 1,3,4, found {text}")
    return value


def _add_compare(functions: argparse._SubParsersAction) -> None:  # pyright: ignore[reportMissingTypeArgument]
    sub = functions.add_parser("compare", help="compare two files by name")
    sub.add_argument("target")
    sub.add_argument("ref")
    sub.add_argument("--tolerance", type=common.tolerance, default=(0.99, 0.99), help="cosine,euclid lower bounds (default 0.99,0.99)")
    sub.add_argument("-v", "--verbose", action="count", default=0, help="more detail, up to -vv")
    sub.add_argument("--excepts", type=common.comma_list, default=[], help="names to leave out")
    sub.add_argument("-k", "--key", type=common.comma_list, default=[], help="compare these names only")
    sub.add_argument("-s", "--save", default="", help="also write the table as CSV")
    sub.add_argument("--int8_tensor_close", type=int, default=1, help="0: judge differing int8 tensors by similarity")
    sub.add_argument("-a", "--forall", action="store_true", help="accepted: every tensor is always compared")
    sub.set_defaults(run=_run_compare)


def _run_compare(options: argparse.Namespace) -> int:
    from bmflow import artifacts
    from bmflow.driver import npz

    int8_close = options.int8_tensor_close == 0
    report, text = npz.compare(
        options.target, options.ref, options.tolerance, max(options.verbose, 1), options.excepts, options.key, int8_close
    )
    print(text)
    if options.save:
        artifacts.write_text(options.save, npz.comparison_csv(report))
    if not report.passed and report.tensors:
        print(report.diverging())
    return 0 if report.passed else 3


def _add_dump(functions: argparse._SubParsersAction) -> None:  # pyright: ignore[reportMissingTypeArgument]
    sub = functions.add_parser("dump", help="list the arrays, or print one (K > 0: its K largest values, K < 0: every element)")
    sub.add_argument("npz")
    sub.add_argument("name", nargs="?", default="")
    sub.add_argument("K", nargs="?", type=int, default=0)
    sub.add_argument("--list", action="store_true")
    sub.set_defaults(run=_run_dump)


def _run_dump(options: argparse.Namespace) -> int:
    from bmflow.driver import npz

    whole = options.list or not options.name
    print(npz.listing(options.npz) if whole else npz.dump(options.npz, options.name, options.K))
    return 0


def _simple(
    name: str, help_text: str, arguments: Sequence[tuple[str, dict[str, object]]], call: Callable[[argparse.Namespace], str | None]
) -> Callable[[argparse._SubParsersAction], None]:  # pyright: ignore[reportMissingTypeArgument]
    """Describe a function that takes positional arguments, does one thing and perhaps prints a text."""

    def run(options: argparse.Namespace) -> int:
        text = call(options)
        if text is not None:
            print(text)
        return 0

    def add(functions: argparse._SubParsersAction) -> None:  # pyright: ignore[reportMissingTypeArgument]
        sub = functions.add_parser(name, help=help_text)
        for argument, settings in arguments:
            sub.add_argument(argument, **settings)  # pyright: ignore[reportArgumentType]
        sub.set_defaults(run=run)

    return add


def _npz() -> Any:
    from bmflow.driver import npz

    return npz


def _run_check(options: argparse.Namespace) -> int:
    from bmflow.driver import npz

    found = npz.nan_or_inf(options.npz)
    print("\n".join(found) if found else "no NaN, no inf")
    return 3 if found else 0


def _add_check(functions: argparse._SubParsersAction) -> None:  # pyright: ignore[reportMissingTypeArgument]
    sub = functions.add_parser("check_nan_inf", help="list arrays that hold NaN or infinity; exit code 3 when there are any")
    sub.add_argument("npz")
    sub.set_defaults(run=_run_check)


_CONVERSIONS = ("fp32_to_fp16", "fp16_to_fp32", "fp32_to_bf16", "bf16_to_fp32")
_NAMES = ("names", {"type": common.comma_list, "help": "a,b,c"})
_FUNCTIONS = (
    _add_compare,
    _add_dump,
    _simple("extract", "keep some arrays", [("npz", {}), ("out", {}), _NAMES], lambda o: _npz().extract(o.npz, o.out, o.names)),
    _simple("remove", "drop arrays, in place", [("npz", {}), _NAMES], lambda o: _npz().remove(o.npz, o.names)),
    _simple("insert", "add the arrays of the first file to the second", [("npz", {}), ("out", {})], lambda o: _npz().insert(o.npz, o.out)),
    _simple("merge", "union of two files", [("a", {}), ("b", {}), ("out", {})], lambda o: _npz().merge(o.a, o.b, o.out)),
    _simple("rename", "rename an array, in place", [("npz", {}), ("old", {}), ("new", {})], lambda o: _npz().rename(o.npz, o.old, o.new)),
    _simple(
        "reshape", "give an array another shape, in place", [("npz", {}), ("name", {}), ("shape", {"type": _int_list})],
        lambda o: _npz().reshape(o.npz, o.name, o.shape),
    ),
    _simple(
        "permute", "transpose an array, in place", [("npz", {}), ("order", {"type": _int_list}), ("--name", {"default": ""})],
        lambda o: _npz().permute(o.npz, o.order, o.name),
    ),
    _simple(
        "get_shape", "print an array's shape", [("npz", {}), ("name", {})],
        lambda o: str(list(_npz().pick(_npz().artifacts.load_npz(o.npz), o.name, o.npz).shape)).replace(" ", ""),
    ),
    _simple(
        "to_bin", "write an array's raw bytes",
        [("npz", {}), ("name", {}), ("out", {}), ("kind", {"nargs": "?", "default": "", "choices": ["int8", "bf16", "float32", ""]})],
        lambda o: _npz().to_bin(o.npz, o.name, o.out, o.kind),
    ),
    _simple("to_dat", "write all arrays' raw bytes one after another", [("npz", {}), ("out", {})], lambda o: _npz().to_dat(o.npz, o.out)),
    _simple("to_npy", "write an array as <name>.npy", [("npz", {}), ("name", {})], lambda o: f"saved {_npz().to_npy(o.npz, o.name)}"),
    *(
        _simple(kind, "convert every array of that type", [("npz", {}), ("out", {})], lambda o, kind=kind: _npz().convert(kind, o.npz, o.out))
        for kind in _CONVERSIONS
    ),
    _simple(
        "statistic", "mean, variance, max, min and range per slice", [("npz", {}), ("name", {}), ("axis", {"nargs": "?", "type": int, "default": 1})],
        lambda o: _npz().statistic(o.npz, o.name, o.axis),
    ),
    _add_check,
)  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
