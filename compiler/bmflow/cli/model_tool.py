"""model_tool: look into bmodel files, cut them into their nets and stages, join them, list their commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bmflow.cli import common
from bmflow.errors import InputError

_EXAMPLES = """examples:
  model_tool --info yolov5n_1684x_int8_sym.bmodel
  model_tool --disassemble yolov5n_1684x_int8_sym.bmodel | less
  model_tool --combine yolov5n_640.bmodel yolov5n_320.bmodel -o yolov5n.bmodel
  model_tool --extract yolov5n.bmodel
  model_tool --dump yolov5n.bmodel 0 4096 first_weights.bin
"""

_TEXTS = {"info": "info", "print": "describe", "chip": "chip", "weight": "weights", "disassemble": "listing"}
"""Options that print something about one file, and the function of the driver that makes the text."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    return common.main(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parse = common.parser("model_tool", __doc__ or "", _EXAMPLES)
    verb = parse.add_mutually_exclusive_group(required=True)
    verb.add_argument("--info", metavar="FILE", help="nets, stages, inputs, outputs and memory in short")
    verb.add_argument("--print", metavar="FILE", help="everything the file says of itself, as json")
    verb.add_argument("--chip", metavar="FILE", help="the name of the processor, alone")
    verb.add_argument("--weight", metavar="FILE", help="where each weight lies in the weight image")
    verb.add_argument("--disassemble", metavar="FILE", help="every command as text, layer by layer")
    verb.add_argument(
        "--extract", metavar="FILE", help="write bm_net<i>_stage<j>.bmodel per net and stage into the folder -o (default: here)"
    )
    verb.add_argument("--combine", metavar="FILE", nargs="+", help="join files into -o; nets of one name become stages of one net")
    verb.add_argument("--combine_dir", metavar="DIR", nargs="+", help="join folders (bmodel and reference data) into the folder -o")
    verb.add_argument("--dump", metavar=("FILE", "START", "SIZE", "OUT"), nargs=4, help="copy bytes of the binary section to a file")
    verb.add_argument("--encrypt", action="store_true", help="not available: needs a cipher library of the vendor's customer")
    verb.add_argument("--decrypt", action="store_true", help="not available, likewise")
    parse.add_argument("-o", "--output", default="", help="file or folder to write")
    for unused in ("-model", "-net", "-lib"):
        parse.add_argument(unused, help=argparse.SUPPRESS)
    return parse


def _run(options: argparse.Namespace) -> int:
    from bmflow.driver import bmodel_tool

    if options.encrypt or options.decrypt:
        raise InputError(
            "--encrypt and --decrypt load a cipher library made by the owner of the model, which bmflow does not do; use the vendor's tool"
        )
    for verb, function in _TEXTS.items():
        path = getattr(options, verb)
        if path is not None:
            print(getattr(bmodel_tool, function)(path))
    if options.extract is not None:
        print("\n".join(f"saved {path}" for path in bmodel_tool.extract(options.extract, options.output or ".")))
    if options.combine:
        print(bmodel_tool.combine(options.combine, _output(options)))
    if options.combine_dir:
        print(bmodel_tool.combine_folders(options.combine_dir, _output(options)))
    if options.dump:
        path, start, size, out = options.dump
        bmodel_tool.dump(path, _number(start), _number(size), out)
    return 0


def _output(options: argparse.Namespace) -> str:
    if not options.output:
        raise InputError("say where to write the result: add -o NAME")
    return str(options.output)


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise InputError(f"--dump: expected a number of bytes such as 4096 or 0x1000, found {text}") from error


if __name__ == "__main__":
    raise SystemExit(main())
