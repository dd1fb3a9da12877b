"""model_explain: why a network loses in 8 bits, layer by layer, and what to do first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bmflow.cli import common

if TYPE_CHECKING:
    from bmflow.explain.report import LayerReport, Report
    from bmflow.search.scores import Score

_EXAMPLES = """examples:
  bmflow explain yolov5n.mlir --calibration_table yolov5n_cali_table --dataset coco2017-val --input_num 8 -o report.html
  model_explain yolov5n.mlir --calibration_table yolov5n_cali_table --dataset coco2017-val --input_num 8 -o report.html \\
      --csv layers.csv --qtable yolov5n_qtable --worst 5

Prints the worst layers and what to do first, and writes everything to one HTML page. What it advises was tried on the samples.
SQNR is signal over error, mean over channels, in dB:
stored (the layer's values on its 8-bit grid), alone (the layer in INT8, all else in float), accumulated (in the 8-bit network); outputs
are those of the network with the layer alone in INT8, and of the 8-bit network with the layer alone lifted to float,
or with its readers, too, since these otherwise get its values in 8 bits. The outputs are
measured for the --effects layers whose own INT8 form is worst. --qtable takes the --worst layers into a table for model_deploy
--quantize_table, each with its reason. Memory does not grow with the number of samples.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    return common.main(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parse = common.parser("model_explain", __doc__ or "", _EXAMPLES)
    parse.add_argument("mlir_file", help="the top .mlir that model_transform wrote")
    parse.add_argument("--calibration_table", required=True, help="the table that run_calibration wrote for it")
    parse.add_argument("--quantize_table", default="", help="float layers of the deployment, a file or layer:F16,layer:INT8")
    parse.add_argument("--asymmetric", action="store_true", help="integers with zero points, as model_deploy --asymmetric")
    parse.add_argument("--processor", "--chip", type=str.lower, default="bm1684x", help="processor (default bm1684x)")
    data = parse.add_argument_group("samples (one of the two)")
    data.add_argument("--dataset", default="", help="folder of pictures, npz or npy files, searched recursively")
    data.add_argument("--data_list", default="", help="text file with one sample a line; wins over --dataset")
    data.add_argument("--input_num", type=int, default=8, help="samples to use (default 8; 0: all)")
    data.add_argument("--effects", type=int, default=20, help="layers whose effect on the outputs is measured (default 20)")
    write = parse.add_argument_group("files to write")
    write.add_argument("-o", "--output", default="", help="the report, one HTML page")
    write.add_argument("--csv", default="", help="every figure, one layer a line")
    write.add_argument("--qtable", default="", help="quantize table with the worst layers in float; needs --worst")
    write.add_argument("--worst", type=int, default=0, help="how many layers go into --qtable")
    return parse


def _run(options: argparse.Namespace) -> int:
    from bmflow.driver.explain import ExplainOptions, explain

    request = ExplainOptions(
        options.mlir_file, options.calibration_table, options.quantize_table, options.asymmetric, options.dataset, options.data_list,
        options.input_num, options.effects, options.processor, options.output, options.csv, options.qtable, options.worst,
    )  # fmt: skip
    _print(explain(request, common.progress))
    for path in filter(None, (options.output, options.csv, options.qtable)):
        print(f"wrote {path}")
    return 0


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    worst = [layer for layer in report.layers if layer.output_noise is not None] or list(report.layers[:20])
    table = Table(
        title=f"{report.name}: worst layers in 8 bits, SQNR in dB over {report.samples} samples", title_justify="left", show_lines=False
    )
    table.add_column("layer", overflow="fold", min_width=16)
    for name in ("type", "clipped", "to 0", "spread", "stored", "alone", "accum.", "outputs", "lifted", "+readers"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("diagnosis", ratio=1, min_width=24)
    for layer in worst:
        table.add_row(*_cells(layer, report))
    console = Console(width=None if Console().is_terminal else 180, highlight=False, markup=False)
    console.print(table)
    console.print(report.advice.text)
    for step in report.advice.steps[:1]:
        print("\n".join(f"  {command}" for command in step.commands))
    for note in report.notes:
        console.print(note)


def _cells(layer: LayerReport, report: Report) -> tuple[str, ...]:
    from bmflow.explain.tally import Error
    from bmflow.explain.texts import percent, times, to_decibels

    def db(noise: float | None) -> str:
        return "–" if noise is None else "exact" if not noise else f"{to_decibels(noise):.1f}"

    def gain(score: Score | None) -> str:
        return f"{to_decibels(score.noise) - to_decibels(report.network.noise):+.2f}" if score else "–"

    gains = (gain(layer.effect.lifted), gain(layer.effect.freed)) if layer.effect else ("–", "–")
    return (
        layer.name, layer.mode, percent(layer.tally.clipped_share), percent(layer.tally.vanished_share), times(layer.tally.spread),
        db(layer.noise(Error.STORED)), db(layer.noise(Error.ALONE)), db(layer.noise(Error.ACCUMULATED)), db(layer.output_noise), *gains,
        layer.diagnosis.text if layer.diagnosis else "",
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
