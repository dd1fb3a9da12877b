"""detect_yolov5: find objects in a picture with a YOLOv5 network (.onnx, .mlir or .bmodel) and draw them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bmflow.cli import common

_EXAMPLES = """examples:
  detect_yolov5 --input dog.jpg --model yolov5n.onnx --output dog_onnx.jpg
  detect_yolov5 --input dog.jpg --model yolov5n_1684x_int8_sym.bmodel --output dog_int8_sym.jpg
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parse = common.parser("detect_yolov5", __doc__ or "", _EXAMPLES)
    parse.add_argument("--model", required=True, help="the network: .onnx, .mlir or .bmodel with three YOLOv5 heads of raw logits")
    parse.add_argument("--input", required=True, help="picture to look at")
    parse.add_argument("--output", required=True, help="picture to write, with boxes")
    parse.add_argument("--net_input_dims", type=common.int_list, default=[640, 640], help="network height,width (default 640,640)")
    parse.add_argument("--conf_thres", type=float, default=0.001, help="least score kept (default 0.001)")
    parse.add_argument("--iou_thres", type=float, default=0.6, help="overlap above which the weaker box goes (default 0.6)")
    parse.add_argument("--score_thres", type=float, default=0.5, help="least score drawn (default 0.5)")
    parse.add_argument("--detector", default="", help="detector.json with classes and anchors (default: the ONNX metadata, else COCO)")
    return common.main(parse, _run, argv)


def _run(options: argparse.Namespace) -> int:
    from bmflow.driver.detect import DetectOptions, detect
    from bmflow.errors import InputError

    if len(options.net_input_dims) != 2:
        raise InputError(f"--net_input_dims {options.net_input_dims}: expected height,width such as 640,640")
    result = detect(
        DetectOptions(
            options.model, options.input, options.output, tuple(options.net_input_dims),
            options.conf_thres, options.iou_thres, options.score_thres, options.detector,
        )
    )  # fmt: skip
    found = result.found
    for box, score, kind in zip(found.boxes, found.scores, found.classes, strict=True):
        if score >= options.score_thres:
            print(f"{result.names[int(kind)]:<16} {score:6.1%}  x {box[0]:.0f}..{box[2]:.0f}  y {box[1]:.0f}..{box[3]:.0f}")
    print(f"saved {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
