"""The list of stages. Command lines, tasks of every backend, components, dvc.yaml, READMEs and the chart all follow from it."""

from __future__ import annotations

from dataclasses import replace

from bmflow_components.ports import Image, Kind, Param, Port, Resources, Stage

PROCESSORS = ("bm1684x", "bm1688", "cv186x", "bm1690", "bm1684", "cv183x", "cv182x", "cv181x", "cv180x")
PRECISIONS = ("F32", "F16", "BF16", "INT8", "MIXED")
METHODS = ("kl", "mse", "max", "percentile9999", "aciq_laplace", "aciq_gauss")

_S3 = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_S3_ENV = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
_MLFLOW = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

_DATASET = Port(
    "dataset", Kind.DATASET, "dataset", "images/SPLIT, annotations/SPLIT.json, split.json: what the stage dataset gives", folder=True
)
_DETECTOR = Port("detector", Kind.DETECTOR, "detector.json", "classes and anchors of a detector", optional=True)
_GIVEN_DETECTOR = Port(
    "given_detector", Kind.DETECTOR, "detector.json", "classes and anchors (default: those in the ONNX file)", optional=True
)
_MODEL = Port("model", Kind.MODEL, "model.onnx", "the network as an ONNX file")
_MLIR = Port("mlir", Kind.MLIR, "mlir", "model.mlir (top dialect) with its weights", folder=True)
_CORRECTED = Port(
    "corrected",
    Kind.MLIR,
    "corrected",
    "the module as the calibration table is for it, from calibrate (default: mlir)",
    folder=True,
    optional=True,
)
_TABLE = Port("table", Kind.TABLE, "calibration_table", "range of every tensor", optional=True)
_CANDIDATES = Port("candidates", Kind.METRICS, "metrics.json", "accuracy and cost of each bmodel, from evaluate", many=True)
_FLOAT = Port("float", Kind.METRICS, "metrics.json", "accuracy of the float network, from evaluate", optional=True)
_CHAMPION = Port("champion", Kind.METRICS, "metrics.json", "accuracy of the present champion, from evaluate", optional=True)
_PROCESSOR = Param("processor", "bm1684x", "processor to compile for", PROCESSORS)
_NAME = Param("model_name", "model", "stem of files, and of the names of registered models", shared=True, basic=True)
_STORE = Param("tracking_uri", "", "MLflow store: sqlite:///FILE or http(s)://... (default: MLFLOW_TRACKING_URI)", shared=True)
_THREADS = Param("threads", 2, "threads of the float network", least=1)
_REASON = Param("reason", "", "why, for the record", shared=True, basic=True)
_WHO = Param("who", "", "who decides, for the record (default: BMFLOW_USER, else the login name)", shared=True)

DATASET = Stage(
    "dataset",
    "Take pictures and annotations from DVC, from a folder, or from the example's generator; record a split into disjoint sets.",
    inputs=(
        Port("source", Kind.DATASET, "source", "images/ and annotations/ (COCO); otherwise DVC, or the example", folder=True, optional=True),
        _DETECTOR,
    ),
    outputs=(
        _DATASET,
        Port("split", Kind.RECORD, "split.json", "source, revision, digest, and the pictures of each set with their digests"),
    ),
    params=(
        Param("repo", "", "DVC repository: a folder or a Git URL", basic=True),
        Param("rev", "", "revision of the repository: tag, branch or commit (default: its working tree, or the main branch)", basic=True),
        Param("path", "", "folder of the dataset inside the repository", basic=True),
        Param("train", 2000, "most pictures to train on; 0 leaves the set out", least=0),
        Param("calibration", 100, "most pictures to calibrate with", least=0, basic=True),
        Param("evaluation", 200, "most pictures to evaluate on", least=0, basic=True),
        Param("search", 0, "most labelled pictures on which mAP chooses number types, beside calibration and evaluation", least=0),
        Param("seed", 0, "of the split, and of the example's generator", least=0),
        Param("size", 320, "side of the example's pictures in pixels", least=64),
    ),
    resources=Resources("1", "2Gi", 3600), retries=2, network=True, secrets=_S3, env=_S3_ENV, outside=True,
)  # fmt: skip

TRAIN = Stage(
    "train",
    "Train the example's detector and export it to ONNX; a network that is given is passed on untrained.",
    inputs=(
        _DATASET,
        Port("given_model", Kind.MODEL, "model.onnx", "a trained network to pass on instead of training one", optional=True),
        _GIVEN_DETECTOR,
    ),
    outputs=(
        _MODEL,
        Port("detector", Kind.DETECTOR, "detector.json", "classes and anchors"),
        Port("metrics", Kind.METRICS, "metrics.json", "figures of the epoch that was kept; empty when nothing was trained"),
        Port("curves", Kind.RECORD, "curves.csv", "losses and accuracy by epoch; its heading alone when nothing was trained"),
    ),
    params=(
        Param("epochs", 60, "most epochs", least=1, basic=True),
        Param("batch", 16, "pictures a step", least=1),
        Param("size", 320, "side of the network input in pixels, a multiple of 32", least=64),
        Param("rate", 0.004, "highest learning rate", least=1e-9),
        Param("patience", 20, "stop after so many epochs without a better score", least=1),
        Param("seed", 0, "of first weights, order and changes to pictures", least=0),
        Param("threads", 1, "threads of PyTorch", least=1),
    ),
    image=Image.TRAIN, resources=Resources("2", "4Gi", 24 * 3600), resumes=True,
)  # fmt: skip

TRANSFORM = Stage(
    "transform",
    "Turn an ONNX file into a top module and compare every layer with the original.",
    inputs=(_MODEL, _DATASET, _GIVEN_DETECTOR),
    outputs=(
        _MLIR,
        Port("reference", Kind.RECORD, "reference", "inputs.npz and outputs.npz: one picture, and the float network's layers", folder=True),
        Port("similarity", Kind.METRICS, "similarity.json", "each layer against the original"),
        Port("detector", Kind.DETECTOR, "detector.json", "classes and anchors: as given, else as the ONNX file says, else COCO's"),
    ),
    params=(
        _NAME,
        Param("input_shapes", "", "such as [[1,3,320,320]] (default: those of the file)"),
        Param("output_names", "", "layers to end at, separated by commas (default: those of the file)"),
        Param("pixel_format", "bgr", "order of the colours", ("rgb", "bgr", "gray", "rgba", "rgbd")),
        Param("channel_format", "nchw", "layout of the input", ("nchw", "nhwc", "none")),
        Param("mean", "0,0,0", "taken from each colour, y = (x - mean) * scale"),
        Param("scale", "1,1,1", "then multiplied with each colour"),
        Param("resize_dims", "", "height,width that pictures are resized to (default: those of the network)"),
        Param("keep_aspect_ratio", False, "fit the picture in and fill the rest with pad_value"),
        Param("pad_value", 0, "grey around the picture", least=0),
        Param("pad_type", "center", "where the picture lies", ("center", "normal")),
        Param("tolerance", "0.99,0.99", "least cosine and Euclidean similarity of every layer"),
        Param("excepts", "", "layers left out of the comparison, separated by commas"),
    ),
    resources=Resources("2", "2Gi", 1800),
)  # fmt: skip

CALIBRATE = Stage(
    "calibrate",
    "Find the range of every tensor from the calibration pictures; correct the module for 8 bits when asked to.",
    inputs=(_MLIR, _DATASET),
    outputs=(
        Port("table", Kind.TABLE, "calibration_table", "range of every tensor"),
        Port("corrected", Kind.MLIR, "corrected", "the module that the table is for: as the corrections made it, else as given", folder=True),
        Port("histograms", Kind.RECORD, "histograms.json", "absolute values of every tensor, counted, beside its threshold"),
        Port("patterns", Kind.TABLE, "shape_pattern_qtable", "layers that patterns of the network keep in float; for use in quantize_table"),
    ),
    params=(
        Param("method", "kl", "how a range is chosen", METHODS, basic=True),
        Param("input_num", 0, "pictures used, 0 for all of the calibration set", least=0),
        Param("tune_num", 5, "batches that ranges are tuned on, 0 for none", least=0),
        Param("bins", 2048, "bins of a histogram", least=128),
        Param("sq", False, "SmoothQuant: weights of matrix products take over what outlier channels spread", basic=True),
        Param("smc", False, "softmax correction: probabilities of attention use all of their 8 bits", basic=True),
        Param("we", False, "weight equalization: every channel gets a scale of its own, through SiLU too", basic=True),
        Param("gptq", False, "filters are rounded so that errors of weights cancel on the pictures (GPTQ)", basic=True),
        Param("bc", False, "bias correction: mean 8-bit errors are taken out of the biases", basic=True),
        Param("bc_inference_num", 30, "pictures that bias correction averages over", least=1),
        Param("part_asymmetric", False, "give SiLUs that only convolutions read a zero point"),
        Param("processor", "bm1684x", "processor whose float type the pattern table names", PROCESSORS),
        _THREADS,
    ),
    resources=Resources("2", "2Gi", 2 * 3600),
)  # fmt: skip

QTABLE = Stage(
    "qtable",
    "Search the number type of every layer: as fast as the accuracy bar allows.",
    inputs=(
        _MLIR,
        _CORRECTED,
        Port("table", Kind.TABLE, "calibration_table", "range of every tensor"),
        _DATASET,
        _DETECTOR,
    ),
    outputs=(
        Port("qtable", Kind.TABLE, "quantize_table", "number type of each layer that is not INT8"),
        Port("sensitivity", Kind.METRICS, "sensitivity.json", "each layer that is kept in float, and why"),
        Port("pareto", Kind.METRICS, "pareto.json", "accuracy and estimated time of the tables that were tried"),
    ),
    params=(
        _PROCESSOR,
        Param("target", 0.99, "least cosine similarity of the outputs", least=0.0, basic=True),
        Param("max_cycles", 0.0, "in place of target: the best within so many times the estimated cycles of INT8; 0 for no limit", least=0.0),
        Param("max_float_cycles", 0.0, "the same, of all in the float type", least=0.0),
        Param("map_drop", 0.01, "most mAP that a table may lose, where the dataset has a set search: mAP on it then decides", least=0.0),
        Param("patterns", "yolo,softmax", "known shapes whose layers stay in float: yolo, softmax, first, last; none for none"),
        Param("asymmetric", False, "search for what is deployed with zero points"),
        Param("input_num", 10, "pictures of the calibration set used", least=1),
        Param("float_type", "auto", "type of the layers that are kept in float", ("auto", "F16", "BF16", "F32")),
        Param("time_budget", 0.0, "seconds of scoring after which nothing more is tried, 0 for no limit", least=0),
    ),
    resources=Resources("2", "4Gi", 6 * 3600), resumes=True,
)  # fmt: skip

DEPLOY = Stage(
    "deploy",
    "Lower a top module, generate code for one processor in one number type, and compare every step.",
    inputs=(
        _MLIR,
        replace(_CORRECTED, help=f"{_CORRECTED.help}; compiled for INT8 and MIXED"),
        Port("reference", Kind.RECORD, "reference", "from transform; without it nothing is compared", folder=True, optional=True),
        _TABLE,
        Port("qtable", Kind.TABLE, "quantize_table", "number types of single layers; needed for MIXED", optional=True),
    ),
    outputs=(
        Port("bmodel", Kind.BMODEL, "model.bmodel", "the compiled network"),
        Port("similarity", Kind.METRICS, "similarity.json", "lowered against float module, and bmodel against lowered module"),
        Port("estimate", Kind.METRICS, "estimate.json", "size, and estimated cycles and milliseconds, whole and by layer"),
    ),
    params=(
        _PROCESSOR,
        Param("quantize", "INT8", "number type; MIXED is INT8 with a quantization table", PRECISIONS),
        Param("asymmetric", False, "INT8 with zero points"),
        Param("quant_input", False, "the model takes inputs in its own type"),
        Param("quant_output", False, "the model gives outputs in its own type"),
        Param("high_precision", False, "average pools and softmax in F32"),
        Param("tolerance", "", "least cosine,euclid of the lowered against the float module (default: by number type)"),
        Param("correctness", "", "least cosine,euclid of the bmodel against the lowered module (default: by number type)"),
        Param("excepts", "", "layers left out of the comparisons, separated by commas"),
    ),
    resources=Resources("2", "3Gi", 2 * 3600),
)  # fmt: skip

EVALUATE = Stage(
    "evaluate",
    "Measure the accuracy of one network on the evaluation set.",
    inputs=(
        _DATASET,
        Port("model", Kind.MODEL, "model.onnx", "the network: an ONNX file, or", optional=True),
        Port("bmodel", Kind.BMODEL, "model.bmodel", "a bmodel, or", optional=True),
        Port("champion", Kind.BMODEL, "champion", "what the stage fetch gave (one of the three)", folder=True, optional=True),
        _DETECTOR,
        Port("estimate", Kind.METRICS, "estimate.json", "cost of the bmodel, from deploy", optional=True),
        Port("reference", Kind.RECORD, "detections.json", "detections of the float network, to find the worst pictures", optional=True),
    ),
    outputs=(
        Port("metrics", Kind.METRICS, "metrics.json", "mAP overall and per class, cost, digests of the network and of the evaluation set"),
        Port("detections", Kind.RECORD, "detections.json", "boxes of every picture"),
        Port("worst", Kind.PICTURES, "worst", "pictures that differ most, drawn for both networks, and worst.json", folder=True),
    ),
    params=(
        Param("label", "", "name of the network in tables (default: processor and number type, or float)"),
        Param("processor", "", "processor of the bmodel, for the label"),
        Param("quantize", "", "number type of the bmodel, for the label"),
        Param("count", 0, "measure the first pictures only, 0 for all", least=0),
        Param("score_floor", 0.001, "least score of a box", least=0.0),
        Param("iou", 0.6, "overlap above which the weaker box goes", least=0.0),
        Param("max_boxes", 300, "most boxes a picture", least=1),
        Param("pictures", 6, "most pictures drawn", least=0),
    ),
    resources=Resources("2", "2Gi", 4 * 3600),
)  # fmt: skip

GATE = Stage(
    "gate",
    "Judge candidates by the bars, against the float network and the champion; choose the fastest that passes.",
    inputs=(
        _CANDIDATES,
        _FLOAT,
        _CHAMPION,
        Port("bars", Kind.RECORD, "gate.toml", "the bars (default: those of this distribution)", optional=True),
    ),
    outputs=(
        Port("decision", Kind.RECORD, "decision.json", "verdict, the chosen candidate, and the reasons for each"),
        Port("note", Kind.REPORT, "decision.md", "the same for people"),
    ),
    params=(
        Param("processor", "", "judge candidates of this processor only (default: all)"),
        Param("require_float", True, "refuse when no float measurement is given; without it drops are not judged"),
    ),
    resources=Resources("1", "512Mi", 300),
)  # fmt: skip

FETCH = Stage(
    "fetch",
    "Take a registered bmodel, usually the champion, from MLflow and check its digest.",
    inputs=(),
    outputs=(Port("champion", Kind.BMODEL, "champion", "champion.json, and when there is one model.bmodel and detector.json", folder=True),),
    params=(
        _NAME,
        _STORE,
        Param("processor", "bm1684x", "processor; the registered model is called MODEL_NAME-PROCESSOR", PROCESSORS),
        Param("which", "champion", "number or alias of the version"),
        Param("required", False, "it is an error when there is none"),
    ),
    resources=Resources("1", "1Gi", 900), retries=3, network=True, volatile=True, secrets=_MLFLOW + _S3, env=("MLFLOW_TRACKING_URI", *_S3_ENV),
)  # fmt: skip

REGISTER = Stage(
    "register",
    "Record the run in MLflow and register the chosen bmodel; make it champion when asked to.",
    inputs=(
        Port("decision", Kind.RECORD, "decision.json", "the gate's decision"),
        Port("bmodels", Kind.BMODEL, "model.bmodel", "all candidates; the chosen one is known by its digest", many=True),
        _CANDIDATES,
        _FLOAT,
        Port("estimates", Kind.METRICS, "estimate.json", "cost of each candidate", many=True, optional=True),
        Port("similarities", Kind.METRICS, "similarity.json", "per-layer comparison of each candidate", many=True, optional=True),
        Port("worst", Kind.PICTURES, "worst", "worst pictures of each candidate", folder=True, many=True, optional=True),
        _TABLE,
        Port("qtables", Kind.TABLE, "quantize_table", "quantization tables of mixed candidates", many=True, optional=True),
        _DETECTOR,
        Port("split", Kind.RECORD, "split.json", "the dataset's record", optional=True),
        Port("training", Kind.METRICS, "metrics.json", "figures of the training", optional=True),
        Port("curves", Kind.RECORD, "curves.csv", "losses and accuracy by epoch", optional=True),
        Port("report", Kind.REPORT, "report.html", "the run's report", optional=True),
        Port("results", Kind.RECORD, "result.json", "results of the stages before", many=True, optional=True),
    ),
    outputs=(Port("record", Kind.RECORD, "register.json", "run, version, aliases, address"),),
    params=(
        _NAME,
        _STORE,
        Param("processor", "bm1684x", "processor; the registered model is called MODEL_NAME-PROCESSOR", PROCESSORS),
        Param("experiment", "bmflow", "MLflow experiment", shared=True),
        Param("run_name", "", "name of the run in MLflow (default: model, processor, number type)", shared=True),
        Param("promote", True, "make the chosen bmodel champion; otherwise it waits as challenger", basic=True),
        _REASON,
        _WHO,
    ),
    resources=Resources("1", "2Gi", 1800), retries=3, network=True, volatile=True, secrets=_MLFLOW + _S3,
    env=("MLFLOW_TRACKING_URI", "BMFLOW_USER", *_S3_ENV),
)  # fmt: skip

REPORT = Stage(
    "report",
    "Show a run on one self-contained HTML page.",
    inputs=(
        Port("decisions", Kind.RECORD, "decision.json", "the gate's decisions, one a processor", many=True, optional=True),
        Port("candidates", Kind.METRICS, "metrics.json", "accuracy and cost of each bmodel, from evaluate", many=True, optional=True),
        _FLOAT,
        Port("champions", Kind.METRICS, "metrics.json", "accuracy of the champions, one a processor", many=True, optional=True),
        Port("estimates", Kind.METRICS, "estimate.json", "cost of each candidate", many=True, optional=True),
        Port("similarities", Kind.METRICS, "similarity.json", "per-layer comparison of each candidate", many=True, optional=True),
        Port("worst", Kind.PICTURES, "worst", "worst pictures of each candidate", folder=True, many=True, optional=True),
        Port("curves", Kind.RECORD, "curves.csv", "losses and accuracy by epoch", optional=True),
        Port("histograms", Kind.RECORD, "histograms.json", "what the thresholds of calibrate cut off", optional=True),
        Port("split", Kind.RECORD, "split.json", "the dataset's record", optional=True),
        Port("results", Kind.RECORD, "result.json", "results of the stages before", many=True, optional=True),
    ),
    outputs=(Port("report", Kind.REPORT, "report.html", "the page"),),
    params=(
        Param("title", "", "heading (default: the model's name)"),
        _NAME,
        Param("links", "", "label=address pairs shown under the heading, separated by spaces"),
    ),
    resources=Resources("1", "1Gi", 600),
)  # fmt: skip

PROMOTE = Stage(
    "promote",
    "Make a registered version the champion.",
    inputs=(),
    outputs=(Port("record", Kind.RECORD, "event.json", "the entry of the audit record"),),
    params=(
        _NAME,
        _STORE,
        Param("processor", "bm1684x", "processor; the registered model is called MODEL_NAME-PROCESSOR", PROCESSORS, basic=True),
        Param("which", "challenger", "number or alias of the version", basic=True),
        _REASON,
        _WHO,
    ),
    resources=Resources("1", "1Gi", 600), retries=3, network=True, volatile=True, secrets=_MLFLOW, env=("MLFLOW_TRACKING_URI", "BMFLOW_USER"),
)  # fmt: skip

ROLLBACK = Stage(
    "rollback",
    "Make an earlier champion the champion again.",
    inputs=(),
    outputs=(Port("record", Kind.RECORD, "event.json", "the entry of the audit record"),),
    params=(
        _NAME,
        _STORE,
        Param("processor", "bm1684x", "processor; the registered model is called MODEL_NAME-PROCESSOR", PROCESSORS, basic=True),
        Param("to", "", "number of an earlier champion (default: the one before the present)", basic=True),
        _REASON,
        _WHO,
    ),
    resources=Resources("1", "1Gi", 600), retries=3, network=True, volatile=True, secrets=_MLFLOW, env=("MLFLOW_TRACKING_URI", "BMFLOW_USER"),
)  # fmt: skip

STAGES = (DATASET, TRAIN, TRANSFORM, CALIBRATE, QTABLE, DEPLOY, EVALUATE, GATE, FETCH, REGISTER, REPORT, PROMOTE, ROLLBACK)
