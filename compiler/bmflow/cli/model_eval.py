"""model_eval: accuracy of a network (.onnx, .mlir, .bmodel): COCO mAP of detectors, top-1 and top-5 of classifiers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bmflow.cli import common

_EXAMPLES = """examples:
  model_eval --model_file yolov5n_1684x_int8_sym.bmodel --dataset coco2017-val --postprocess_type coco_mAP \\
             --coco_annotation instances_coco2017-val.json
  model_eval --model_file shapes_int8.bmodel --detector detector.json --dataset images/evaluation --postprocess_type coco_mAP \\
             --coco_annotation annotations/evaluation.json
  model_eval --model_file squeezenet.bmodel --mlir squeezenet.mlir --dataset imagenet --postprocess_type topx

The detector's family (YOLOv5 heads, YOLOX output) is recognised by its outputs and decides the preprocessing:
YOLOv5 letterbox centred, RGB, divided by 255; YOLOX letterbox top-left, BGR, 0..255; padding 114 in both.
Classes and anchors are COCO's and YOLOv5's own unless the ONNX file carries others or --detector gives them:
  {"schema": 1, "family": "yolov5", "pad_value": 114, "classes": [{"id": 1, "name": "circle"}, ...],
   "anchors": {"8": [[17, 16], [24, 25], [33, 32]], "16": [...], "32": [...]}}    width, height in pixels by stride
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parse = common.parser("model_eval", __doc__ or "", _EXAMPLES)
    parse.add_argument("--model_file", required=True, help="the network: .onnx, .mlir or .bmodel")
    parse.add_argument("--dataset", required=True, help="folder of pictures")
    parse.add_argument("--postprocess_type", required=True, choices=["topx", "coco_mAP"], help="what to measure")
    parse.add_argument("--dataset_type", default="", help="accepted: the layout is recognised")
    parse.add_argument("--coco_annotation", default="", help="COCO annotation file (coco_mAP)")
    parse.add_argument("--detector", default="", help="detector.json with classes and anchors (default: the ONNX metadata, else COCO)")
    parse.add_argument("--label_file", default="", help="one class number a line, from 1, for a flat folder (topx)")
    parse.add_argument("--mlir", default="", help="module that records the preprocessing, for .onnx and .bmodel (topx)")
    parse.add_argument("--count", type=int, default=0, help="measure only the first pictures (default 0: all)")
    parse.add_argument("--score_floor", type=float, default=0.001, help="least score of a box (default 0.001)")
    parse.add_argument("--iou_thres", type=float, default=0.6, help="overlap above which the weaker box goes (default 0.6)")
    parse.add_argument("--max_boxes", type=int, default=300, help="most boxes a picture (default 300)")
    return common.main(parse, _run, argv)


def _run(options: argparse.Namespace) -> int:
    return _run_topk(options) if options.postprocess_type == "topx" else _run_coco(options)


def _run_coco(options: argparse.Namespace) -> int:
    from bmflow.driver.evaluate import CocoOptions, evaluate_coco
    from bmflow.errors import InputError
    from bmflow.evaluation.detector import Settings

    if not options.coco_annotation:
        raise InputError("--postprocess_type coco_mAP needs --coco_annotation, a COCO annotation file")
    settings = Settings(options.score_floor, options.iou_thres, options.max_boxes)
    request = CocoOptions(options.model_file, options.dataset, options.coco_annotation, options.count, settings, options.detector)
    result = evaluate_coco(request, lambda work, total: common.progress(work, total, "evaluate"))
    accuracy = result.accuracy
    print(
        f"{options.model_file}: {result.family.value}, {accuracy.pictures} pictures; {result.settings}, letterbox padding {result.spec.pad_value}"
    )
    for name, value in sorted(accuracy.per_class.items(), key=lambda item: -item[1]):
        print(f"  {name:<16} {value:.3f}")
    print(f"mAP50-95 {accuracy.map:.4f}  mAP50 {accuracy.map50:.4f}  mAP75 {accuracy.map75:.4f}")
    return 0


def _run_topk(options: argparse.Namespace) -> int:
    from bmflow.driver.evaluate import TopkOptions, evaluate_topk

    request = TopkOptions(options.model_file, options.dataset, options.label_file, options.mlir, options.count)
    evaluate_topk(request, lambda r: print(f"idx:{r.pictures}, top1:{r.top1:.3f}, top5:{r.top5:.3f}"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
