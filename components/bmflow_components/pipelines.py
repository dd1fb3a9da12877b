"""The pipelines as graphs of stages, and their expansion into tasks. The standard library alone, like the list of stages.

A node runs once, once a processor, or once a candidate (processor and number type). A link from a node with more axes gathers what
belongs together, and needs an input of many; a link from a node with fewer axes is shared. An optional input whose node has no task
for a candidate is left out: so only MIXED candidates wait for the search of number types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from bmflow_components.ports import Kind, Param, Port, Stage, Value
from bmflow_components.stages import PRECISIONS, PROCESSORS, STAGES

_STAGES = {stage.name: stage for stage in STAGES}
OUTSIDE = "inputs"
"""Links to `inputs.NAME` are what the user gives to the pipeline."""


class Runs(Enum):
    """When a task may start."""

    ALL = "all"
    """Everything before it succeeded."""
    SOME = "some"
    """Inputs of one file are there, and at least one file of each needed input of many."""
    ALWAYS = "always"
    """Everything before it ended, however."""


@dataclass(frozen=True)
class Node:
    """A stage in a pipeline.

    Attributes:
        inputs: `node.port`, `node.result` or `inputs.name` by input port; `a.x b.y` joins several for an input of many.
        params: parameters fixed here; the others are the pipeline's.
        over: `processor`, and `quantize` with it; a parameter of that name takes the axis's value.
        only: number types that it runs for.
        needs: inputs that the stage can do without, but this node cannot.
    """

    name: str
    stage: str
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    params: Mapping[str, Value] = field(default_factory=dict[str, Value])
    over: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    runs: Runs = Runs.ALL
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """A parameter of a pipeline: that of a stage, which every node of the stage takes that does not fix it."""

    name: str
    stages: tuple[str, ...]
    param: Param


@dataclass(frozen=True)
class Pipeline:
    """A graph.

    Attributes:
        inputs: files and folders that the user gives (paths or URIs).
        defaults: other defaults of settings than the stages have.
        cron: when it runs by itself (UTC); `on_data`: also when the dataset changes.
    """

    name: str
    summary: str
    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...] = ()
    defaults: Mapping[str, Value] = field(default_factory=dict[str, Value])
    cron: str = ""
    on_data: bool = False

    def node(self, name: str) -> Node:
        """The node of a name; KeyError when there is none."""
        return {node.name: node for node in self.nodes}[name]

    @property
    def maps(self) -> bool:
        """Whether it runs over processors and number types."""
        return any(node.over for node in self.nodes)

    def settings(self) -> tuple[Setting, ...]:
        """What can be set: shared parameters by their own name, others as `stage_param`; fixed ones are left out."""
        found: dict[str, Setting] = {}
        for stage, param in self._free_params():
            name = param.name if param.shared else f"{stage.name}_{param.name}"
            known = found.get(name)
            default = Param(**{**vars(param), "default": self.defaults.get(name, param.default)})
            stages = (*known.stages, stage.name) if known else (stage.name,)
            found[name] = Setting(name, tuple(dict.fromkeys(stages)), known.param if known else default)
        return tuple(found.values())

    def _free_params(self) -> Iterator[tuple[Stage, Param]]:
        for node in self.nodes:
            stage = _STAGES[node.stage]
            for param in stage.params:
                if param.name not in node.params and param.name not in node.over:
                    yield stage, param


@dataclass(frozen=True)
class Item:
    """Where a task stands on the axes; empty texts for axes that its node does not have."""

    processor: str = ""
    quantize: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.processor, self.quantize) if part)

    def agrees(self, other: Item) -> bool:
        """Whether the two are the same on the axes that both have."""
        return (not self.processor or not other.processor or self.processor == other.processor) and (
            not self.quantize or not other.quantize or self.quantize == other.quantize
        )


@dataclass(frozen=True)
class Task:
    """A node at one place of the axes, or a node without axes.

    Attributes:
        inputs: (task name, output port) by input port, or ("", name) for what the user gives.
        params: those that the graph and the axes fix.
    """

    node: Node
    item: Item
    inputs: Mapping[str, tuple[tuple[str, str], ...]]
    params: Mapping[str, Value]

    @property
    def name(self) -> str:
        """Readable and unique: `deploy[bm1684x/INT8]`."""
        return task_name(self.node, self.item)

    @property
    def folder(self) -> str:
        """Its folder inside a run's folder: `deploy/bm1684x-INT8`."""
        return f"{self.node.name}/{str(self.item).replace('/', '-')}" if str(self.item) else self.node.name

    @property
    def stage(self) -> Stage:
        """The stage it runs."""
        return _STAGES[self.node.stage]

    @property
    def is_candidate(self) -> bool:
        """Whether it belongs to one candidate, whose failure does not end the others."""
        return "quantize" in self.node.over


def task_name(node: Node, item: Item) -> str:
    """`node`, or `node[processor/quantize]`."""
    return f"{node.name}[{item}]" if str(item) else node.name


def items(node: Node, processors: Sequence[str], precisions: Sequence[str]) -> tuple[Item, ...]:
    """The places a node runs at."""
    if not node.over:
        return (Item(),) if not node.only or set(node.only) & set(precisions) else ()
    if "quantize" not in node.over:
        return tuple(Item(processor) for processor in processors)
    return tuple(Item(p, q) for p in processors for q in precisions if not node.only or q in node.only)


def links(node: Node) -> tuple[tuple[str, str, str], ...]:
    """(input port, node or `inputs`, output port) of every link."""
    return tuple((port, *_split(link)) for port, text in node.inputs.items() for link in text.split())


def _split(link: str) -> tuple[str, str]:
    source, _, port = link.partition(".")
    return source, port


def expand(pipeline: Pipeline, processors: Sequence[str], precisions: Sequence[str], given: Sequence[str] = ()) -> tuple[Task, ...]:
    """The tasks of a run in an order that respects the links.

    Args:
        given: names of the pipeline's inputs that the user gave.
    """
    return tuple(
        Task(node, item, _inputs(pipeline, node, item, processors, precisions, given), {**node.params, **_axis_params(node, item)})
        for node in pipeline.nodes
        for item in items(node, processors, precisions)
    )


def _axis_params(node: Node, item: Item) -> dict[str, Value]:
    known = {param.name for param in _STAGES[node.stage].params}
    return {axis: getattr(item, axis) for axis in node.over if axis in known}


def _inputs(
    pipeline: Pipeline, node: Node, item: Item, processors: Sequence[str], precisions: Sequence[str], given: Sequence[str]
) -> dict[str, tuple[tuple[str, str], ...]]:  # fmt: skip
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for port, source, output in links(node):
        if source == OUTSIDE:
            sources = [("", output)] if output in given else []
        else:
            before = pipeline.node(source)
            sources = [(task_name(before, i), output) for i in items(before, processors, precisions) if i.agrees(item)]
        if sources:
            found[port] = (*found.get(port, ()), *sources)
    return found


def without(pipeline: Pipeline, names: Sequence[str]) -> Pipeline:
    """The pipeline less some nodes, and less those that cannot do without them.

    Raises:
        KeyError: no node is called so.
    """
    gone = {pipeline.node(name).name for name in names}
    left: list[Node] = []
    for node in pipeline.nodes:
        kept = {port: " ".join(link for link in text.split() if _split(link)[0] not in gone) for port, text in node.inputs.items()}
        stage = _STAGES[node.stage]
        if node.name in gone or any(not link and (port in node.needs or not stage.input(port).optional) for port, link in kept.items()):
            gone.add(node.name)
        else:
            left.append(replace(node, inputs={port: link for port, link in kept.items() if link}))
    return replace(pipeline, nodes=tuple(left))


_ONNX = Port("model", Kind.MODEL, "model.onnx", "the network as an ONNX file")
_GIVEN_MODEL = Port("model", Kind.MODEL, "model.onnx", "a trained network; without it one is trained", optional=True)
_DETECTOR = Port("detector", Kind.DETECTOR, "detector.json", "classes and anchors (default: those in the ONNX file)", optional=True)
_SOURCE = Port("source", Kind.DATASET, "source", "pictures and annotations; otherwise DVC, or the example", folder=True, optional=True)
_BARS = Port("bars", Kind.RECORD, "gate.toml", "bars of the gate (default: those of this distribution)", optional=True)
_CANDIDATE, _EACH = ("processor", "quantize"), ("processor",)
_YOLOV5: Mapping[str, Value] = {
    "transform_pixel_format": "rgb", "transform_scale": "0.0039216,0.0039216,0.0039216", "transform_keep_aspect_ratio": True,
    "transform_pad_value": 114, "deploy_tolerance": "0.80,0.40",
}  # fmt: skip


def _compile(model: str, detector: str, before: tuple[Node, ...]) -> tuple[Node, ...]:
    """From a network to its report; `model` and `detector` are the links to it, `before` what makes them."""
    made = " ".join(f"{node.name}.result" for node in before)
    results = f"{made} transform.result calibrate.result qtable.result deploy.result evaluate_float.result evaluate.result gate.result"
    training = {"curves": "train.curves"} if model.startswith("train.") else {}
    return (
        *before,
        Node("transform", "transform", {"model": model, "dataset": "dataset.dataset", "given_detector": detector}),
        Node("calibrate", "calibrate", {"mlir": "transform.mlir", "dataset": "dataset.dataset"}),
        Node("qtable", "qtable", {
            "mlir": "transform.mlir", "corrected": "calibrate.corrected", "table": "calibrate.table", "dataset": "dataset.dataset",
            "detector": "transform.detector",
        }, {}, _CANDIDATE, ("MIXED",)),
        Node("deploy", "deploy", {
            "mlir": "transform.mlir", "corrected": "calibrate.corrected", "reference": "transform.reference", "table": "calibrate.table",
            "qtable": "qtable.qtable",
        }, {}, _CANDIDATE),
        Node("evaluate_float", "evaluate", {
            "dataset": "dataset.dataset", "model": model, "detector": "transform.detector",
        }, {"label": "float", "processor": "", "quantize": "F32"}, needs=("model",)),
        Node("evaluate", "evaluate", {
            "dataset": "dataset.dataset", "bmodel": "deploy.bmodel", "detector": "transform.detector", "estimate": "deploy.estimate",
            "reference": "evaluate_float.detections",
        }, {"label": ""}, _CANDIDATE, needs=("bmodel",)),
        Node("fetch", "fetch", {}, {"which": "champion", "required": False}, _EACH),
        Node("evaluate_champion", "evaluate", {
            "dataset": "dataset.dataset", "champion": "fetch.champion", "reference": "evaluate_float.detections",
        }, {"label": "champion", "quantize": ""}, _EACH, needs=("champion",)),
        Node("gate", "gate", {
            "candidates": "evaluate.metrics", "float": "evaluate_float.metrics", "champion": "evaluate_champion.metrics", "bars": "inputs.bars",
        }, {"require_float": True}, _EACH, (), Runs.SOME),
        Node("report", "report", {
            "decisions": "gate.decision", "candidates": "evaluate.metrics", "float": "evaluate_float.metrics",
            "champions": "evaluate_champion.metrics", "estimates": "deploy.estimate", "similarities": "deploy.similarity",
            "worst": "evaluate.worst", "histograms": "calibrate.histograms", "split": "dataset.split", "results": results, **training,
        }, {}, (), (), Runs.ALWAYS),
        Node("register", "register", {
            "decision": "gate.decision", "bmodels": "deploy.bmodel", "candidates": "evaluate.metrics", "float": "evaluate_float.metrics",
            "estimates": "deploy.estimate", "similarities": "deploy.similarity", "worst": "evaluate.worst", "table": "calibrate.table",
            "qtables": "qtable.qtable", "detector": "transform.detector", "split": "dataset.split", "report": "report.report", "results": results,
            **({"training": "train.metrics", **training} if training else {}),
        }, {}, _EACH, (), Runs.SOME),
    )  # fmt: skip


_DATASET_NODE = Node("dataset", "dataset", {"source": "inputs.source", "detector": "inputs.detector"})
_TRAIN_NODE = Node("train", "train", {"dataset": "dataset.dataset", "given_model": "inputs.model", "given_detector": "inputs.detector"})

COMPILE_AND_DEPLOY = Pipeline(
    "compile_and_deploy",
    "Compile a network for every processor and number type, measure, choose, register.",
    _compile("inputs.model", "inputs.detector", (_DATASET_NODE,)),
    (_ONNX, _DETECTOR, _SOURCE, _BARS),
    {**_YOLOV5, "dataset_train": 0},
)

RETRAIN_AND_DEPLOY = Pipeline(
    "retrain_and_deploy",
    "Train on the present data, compile, measure, choose, register.",
    _compile("train.model", "train.detector", (_DATASET_NODE, _TRAIN_NODE)),
    (_GIVEN_MODEL, _DETECTOR, _SOURCE, _BARS),
    _YOLOV5,
    cron="0 3 * * 1",
    on_data=True,
)

EVALUATE_CHAMPION = Pipeline(
    "evaluate_champion",
    "Measure the registered champion on the present data and judge it by the bars.",
    (
        Node("dataset", "dataset", {"source": "inputs.source"}),
        Node("fetch", "fetch", {}, {"which": "champion", "required": True}, _EACH),
        Node("evaluate", "evaluate", {
            "dataset": "dataset.dataset", "champion": "fetch.champion",
        }, {"label": "champion", "quantize": ""}, _EACH, needs=("champion",)),
        Node("gate", "gate", {"candidates": "evaluate.metrics", "bars": "inputs.bars"}, {"require_float": False}, _EACH),
        Node("report", "report", {
            "decisions": "gate.decision", "candidates": "evaluate.metrics", "worst": "evaluate.worst", "split": "dataset.split",
            "results": "dataset.result fetch.result evaluate.result gate.result",
        }, {}, (), (), Runs.ALWAYS),
    ),
    (_SOURCE, _BARS),
    {"dataset_train": 0},
    cron="30 2 * * *",
)  # fmt: skip

PROMOTE_PIPELINE = Pipeline("promote", "Make a registered version the champion.", (Node("promote", "promote"),))
ROLLBACK_PIPELINE = Pipeline("rollback", "Make an earlier champion the champion again.", (Node("rollback", "rollback"),))

PIPELINES = (COMPILE_AND_DEPLOY, RETRAIN_AND_DEPLOY, EVALUATE_CHAMPION, PROMOTE_PIPELINE, ROLLBACK_PIPELINE)
DEFAULT_PROCESSORS: tuple[str, ...] = (PROCESSORS[0],)
DEFAULT_PRECISIONS: tuple[str, ...] = ("F16", "INT8")
KNOWN_PRECISIONS = PRECISIONS
