"""Training of the example's detector: matching and loss by formula, learning, resuming, exporting, curves."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed; install the extra `train`")

from bmflow.errors import InputError  # noqa: E402  (after the skip)
from bmflow.evaluation import yolov5  # noqa: E402
from bmflow.evaluation.coco import CocoAccuracy  # noqa: E402
from bmflow.evaluation.detections import overlap  # noqa: E402
from bmflow.evaluation.spec import METADATA_KEY, DetectorSpec  # noqa: E402
from bmflow_components.example_data import Dataset, DatasetOptions, generate  # noqa: E402
from bmflow_components.training import loop  # noqa: E402
from bmflow_components.training import pictures as data  # noqa: E402
from bmflow_components.training.__main__ import main  # noqa: E402
from bmflow_components.training.anchors import fit_anchors  # noqa: E402
from bmflow_components.training.export import export_onnx  # noqa: E402
from bmflow_components.training.loop import TrainOptions, TrainResult, learning_rate, train  # noqa: E402
from bmflow_components.training.loss import complete_iou, loss, match  # noqa: E402
from bmflow_components.training.network import STRIDES, Detector, NetworkOptions, build, parameter_count, to_cells  # noqa: E402

pytestmark = pytest.mark.train
STILL = data.Augmentation(mosaic=0, flip_lr=0, flip_ud=0, zoom=0, shift=0, colour=0)
TINY = TrainOptions(epochs=3, batch=4, size=64, held_out=0.25, warm=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """PyTorch on one thread, for the same last bits everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Sixteen pictures of 64 x 64."""
    return generate(tmp_path_factory.mktemp("train") / "set", DatasetOptions(seed=1, train=16, calibration=0, evaluation=0, size=64))


def run(dataset: Dataset, folder: Path, options: TrainOptions = TINY, **kw: Any) -> TrainResult:
    return train(dataset.images("train"), dataset.annotations("train"), folder, options, **kw)


def test_the_network_has_at_most_300_000_parameters() -> None:
    assert 150_000 <= parameter_count(Detector(NetworkOptions(6))) <= 300_000


def test_the_heads_have_the_shapes_of_three_strides() -> None:
    outputs = Detector(NetworkOptions(6)).eval()(torch.zeros(1, 3, 96, 64))
    assert [tuple(out.shape) for out in outputs] == [(1, 33, 12, 8), (1, 33, 6, 4), (1, 33, 3, 2)]


def test_a_new_network_expects_eight_objects_a_picture() -> None:
    network = build(NetworkOptions(6), 320, 0)
    rates = [torch.sigmoid(head.bias.view(3, 11)[:, 4]) * (320 // stride) ** 2 for head, stride in zip(network.heads, STRIDES, strict=True)]
    np.testing.assert_allclose(torch.cat(rates).detach(), 8, rtol=0.1)


def test_cells_of_the_loss_are_those_of_the_decoder(rng: np.random.Generator) -> None:
    raw = rng.normal(size=(1, 33, 4, 6)).astype(np.float32)
    head = yolov5.as_head(raw, classes=6)
    assert head is not None
    np.testing.assert_array_equal(to_cells([torch.from_numpy(raw)])[0][0].numpy(), head)


def test_the_cell_of_the_centre_and_its_two_nearest_neighbours_answer() -> None:
    boxes = torch.tensor([[0, 2, 8 * 3.25, 8 * 5.75, 16.0, 16.0]])  # centre in cell (3, 5), nearer to columns left and rows below
    found = match(boxes, torch.tensor([[2.0, 2.0], [9.0, 2.0], [1.0, 3.0]]), 8, 10, 10)
    cells = {(int(a), int(c), int(r)) for a, c, r in zip(found.anchor, found.column, found.row, strict=True)}
    # the second anchor is 4.5 times wider, beyond the bound of 4
    assert cells == {(a, c, r) for a in (0, 2) for c, r in ((3, 5), (2, 5), (3, 6))}
    np.testing.assert_allclose(found.box[:, :2].numpy() + np.stack([found.column, found.row], 1), [[3.25, 5.75]] * 6, rtol=1e-6)
    assert set(found.kind.tolist()) == {2}


def test_neighbours_outside_the_map_do_not_answer() -> None:
    found = match(torch.tensor([[0, 0, 1.0, 1.0, 8.0, 8.0]]), torch.tensor([[1.0, 1.0]]), 8, 4, 4)
    assert [(int(r), int(c)) for r, c in zip(found.row, found.column, strict=True)] == [(0, 0)]


def test_complete_iou_is_iou_less_distance_and_shape(rng: np.random.Generator) -> None:
    a, b = rng.uniform(0.5, 3, (20, 4)), rng.uniform(0.5, 3, (20, 4))
    expected = []
    for p, q in zip(a, b, strict=True):
        (px1, py1, px2, py2), (qx1, qy1, qx2, qy2) = ((v[0] - v[2] / 2, v[1] - v[3] / 2, v[0] + v[2] / 2, v[1] + v[3] / 2) for v in (p, q))
        iou = overlap(np.array([px1, py1, px2, py2]), np.array([[qx1, qy1, qx2, qy2]]))[0]
        diagonal = (max(px2, qx2) - min(px1, qx1)) ** 2 + (max(py2, qy2) - min(py1, qy1)) ** 2
        v = 4 / math.pi**2 * (math.atan(q[2] / q[3]) - math.atan(p[2] / p[3])) ** 2
        expected.append(iou - ((p[:2] - q[:2]) ** 2).sum() / diagonal - v / (1 - iou + v) * v)
    np.testing.assert_allclose(complete_iou(torch.tensor(a), torch.tensor(b)), expected, atol=1e-5)
    np.testing.assert_allclose(complete_iou(torch.tensor(a), torch.tensor(a)), 1, atol=1e-5)


def test_a_perfect_answer_costs_almost_nothing_and_an_empty_picture_has_no_box_loss() -> None:
    far = [50.0, 50.0]
    sizes = [torch.tensor([[2.0, 2.0], far, far]), torch.tensor([far] * 3), torch.tensor([far] * 3)]
    cells = [torch.full((1, 3, 32 // stride, 32 // stride, 7), -20.0) for stride in STRIDES]
    boxes = torch.tensor([[0, 1, 12.0, 12.0, 16.0, 16.0]])  # centre of cell (1, 1); columns 2 and rows 2 answer too
    for row, column, x, y in ((1, 1, 0.5, 0.5), (1, 2, -0.5, 0.5), (2, 1, 0.5, -0.5)):
        xy = [(v + 0.5) / 2 for v in (x, y)]
        cells[0][0, 0, row, column] = torch.tensor([*(math.log(max(p, 1e-6) / (1 - p)) for p in xy), 0, 0, 20, -20, 20])
    assert float(loss(cells, boxes, sizes, STRIDES).total) < 1e-3
    assert float(loss(cells, torch.zeros(0, 6), sizes, STRIDES).box) == 0


def test_learning_rate_rises_and_then_falls_along_a_cosine() -> None:
    options = TrainOptions(epochs=12, warm=2, rate=1.0)
    assert [learning_rate(p, options) for p in (1, 2, 7, 12)] == pytest.approx([0.5, 1.0, 0.505, 0.01])


def test_anchors_sit_in_the_clusters_of_sizes(rng: np.random.Generator) -> None:
    centres = np.array([(10, 10), (12, 30), (40, 20), (40, 40), (60, 70), (90, 60), (80, 100), (200, 120), (180, 240)], float)
    sizes = np.repeat(centres, 40, axis=0) * rng.uniform(0.98, 1.02, (360, 2))
    found = fit_anchors(sizes, STRIDES)
    pixels = np.array([pair for stride in STRIDES for pair in np.array(found[stride]) * stride])
    assert np.abs(np.log(pixels[:, None] / centres[None])).sum(axis=2).min(axis=0).max() < 0.1


def test_boxes_follow_their_pixels_through_every_change(rng: np.random.Generator) -> None:
    pixels = np.zeros((1, 128, 128, 3), np.uint8)
    pixels[0, 40:72, 24:80] = 255
    pictures = data.Pictures((1,), pixels, (np.array([[3, 24, 40, 80, 72]], np.float32),), ())
    change = data.Augmentation(mosaic=0, colour=0)
    for _ in range(20):
        changed, boxes = data.look(pictures, 0, change, rng)
        rows, columns = np.nonzero((changed == 255).all(axis=2))
        seen = [3, columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(boxes[0], seen, atol=1.6)


def test_a_mosaic_keeps_boxes_inside_their_quarter(dataset: Dataset, rng: np.random.Generator) -> None:
    pictures = data.load(dataset.images("train"), dataset.annotations("train"), 64)
    for _ in range(20):
        _, boxes = data.look(pictures, 0, replace(STILL, mosaic=1.0), rng)
        assert boxes.shape[1] == 5
        assert (boxes[:, 1:] >= 0).all()
        assert (boxes[:, 1:] <= 64).all()
        assert (boxes[:, 3:] - boxes[:, 1:3] > data.LEAST_SIDE).all()


def test_pictures_of_another_shape_are_fitted_with_their_boxes(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 200, 3), np.uint8))
    truth = {
        "images": [{"id": 9, "file_name": "a.png", "width": 200, "height": 100}],
        "categories": [{"id": 4, "name": "x"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 4, "bbox": [100, 50, 20, 10]},
            {"id": 2, "image_id": 9, "category_id": 4, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(truth))
    found = data.load(tmp_path, tmp_path / "a.json", 64)
    np.testing.assert_allclose(found.boxes[0], [[0, 32, 32, 38.4, 35.2]], rtol=1e-5)  # ratio .32, 16 rows of padding above
    assert (found.pixels[0, 0, 0] == data.PAD_VALUE).all()


def test_a_detector_learns_two_pictures_by_heart(dataset: Dataset) -> None:
    pictures = data.load(dataset.images("train"), dataset.annotations("train"), 64).take([0, 1])
    network = build(NetworkOptions(6), 64, 0).train()
    sizes = [torch.tensor(pairs) for pairs in fit_anchors(pictures.sizes, STRIDES).values()]
    x = torch.from_numpy(pictures.pixels).permute(0, 3, 1, 2).float() / 255
    targets = torch.from_numpy(data.to_targets(pictures.boxes))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    totals = []
    for _ in range(60):
        total = loss(to_cells(network(x)), targets, sizes, STRIDES).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.4 * totals[0]


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, list[str]]:
    """Three tiny epochs, and the lines reported."""
    lines: list[str] = []
    return run(dataset, tmp_path_factory.mktemp("run"), report=lines.append), lines


def test_training_writes_network_description_curves_and_figures(trained: tuple[TrainResult, list[str]]) -> None:
    result, lines = trained
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    rows = list(csv.DictReader(io.StringIO(result.curves.read_text())))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert result.figure.read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((result.onnx.parent / "train.json").read_text())["metrics"]
    assert metrics == result.metrics()
    assert DetectorSpec.load(result.detector).names == ("circle", "square", "triangle", "cross", "star", "ring")


def test_the_onnx_file_carries_its_description(trained: tuple[TrainResult, list[str]]) -> None:
    result, _ = trained
    metadata = {item.key: item.value for item in onnx.load(result.onnx).metadata_props}
    assert metadata == {METADATA_KEY: result.detector.read_text()}


def test_the_exported_network_computes_what_pytorch_does(tmp_path: Path, rng: np.random.Generator) -> None:
    network = build(NetworkOptions(2), 64, 3)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(4, 3, 64, 64))  # statistics that are not the identity
    export_onnx(network, DetectorSpec(names=("a", "b"), category_ids=(1, 2)), 64, tmp_path / "net.onnx")
    picture = rng.random((1, 3, 64, 64), np.float32)
    found = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"]).run(None, {"images": picture})
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(picture))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-4)


def weights(result: TrainResult) -> bytes:
    return result.onnx.read_bytes()


def test_training_cut_short_after_any_epoch_ends_with_the_same_network(
    dataset: Dataset, trained: tuple[TrainResult, list[str]], tmp_path: Path
) -> None:
    class CutError(Exception):
        pass

    def cut_in(epoch: int) -> Any:
        def progress(work: Any, total: int, text: str) -> Any:
            yield next(iter(work))
            if text.startswith(f"epoch {epoch}/"):
                raise CutError
            yield from list(work)[1:]

        return progress

    for epoch in (1, 2, 3):
        with pytest.raises(CutError):
            run(dataset, tmp_path, progress=cut_in(epoch))
    again = run(dataset, tmp_path)
    assert weights(again) == weights(trained[0])
    assert [row.rsplit(",", 1)[0] for row in again.curves.read_text().splitlines()] == [
        row.rsplit(",", 1)[0] for row in trained[0].curves.read_text().splitlines()
    ]  # but for the seconds


@pytest.mark.slow
def test_training_killed_by_the_system_ends_with_the_same_network(
    dataset: Dataset, trained: tuple[TrainResult, list[str]], tmp_path: Path
) -> None:
    program = f"""
import sys; from pathlib import Path; from bmflow_components.training.loop import *
train(Path({str(dataset.images("train"))!r}), Path({str(dataset.annotations("train"))!r}), Path({str(tmp_path)!r}),
      TrainOptions(epochs=3, batch=4, size=64, held_out=0.25, warm=1))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "checkpoint.pt").exists()
    assert weights(run(dataset, tmp_path)) == weights(trained[0])


def test_finished_training_is_not_redone(dataset: Dataset, tmp_path: Path) -> None:
    first = run(dataset, tmp_path, replace(TINY, epochs=1))
    lines: list[str] = []
    assert run(dataset, tmp_path, replace(TINY, epochs=1), report=lines.append) == first
    assert not lines


def test_training_finished_early_can_go_on_to_the_same_network(
    dataset: Dataset, trained: tuple[TrainResult, list[str]], tmp_path: Path
) -> None:
    early = run(dataset, tmp_path, stop_after=1)
    assert (early.epochs, early.onnx.is_file()) == (1, True)
    assert weights(run(dataset, tmp_path)) == weights(trained[0])
    with pytest.raises(InputError, match="stop_after 0"):
        run(dataset, tmp_path, stop_after=0)


def test_training_stops_when_it_no_longer_gets_better(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    monkeypatch.setattr(loop, "score", lambda *_: CocoAccuracy(next(scores), 0.0, 0.0, {}, 4))
    result = run(dataset, tmp_path, replace(TINY, epochs=9, patience=2))
    assert (result.epochs, result.best_epoch, result.map) == (4, 2, 0.3)


def test_a_checkpoint_of_other_options_or_data_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    run(dataset, tmp_path, replace(TINY, epochs=1))
    with pytest.raises(InputError, match="other data or options"):
        run(dataset, tmp_path, replace(TINY, epochs=1, seed=1))
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        run(dataset, tmp_path, replace(TINY, epochs=1))


@pytest.mark.parametrize(
    ("options", "reason"),
    [(replace(TINY, size=100), "multiple of 32"), (replace(TINY, epochs=0), "1 or more"), (replace(TINY, held_out=1.0), "held_out")],
    ids=["size", "epochs", "held out"],
)
def test_options_that_cannot_train_are_refused(dataset: Dataset, tmp_path: Path, options: TrainOptions, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run(dataset, tmp_path, options)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [("missing", "no such picture"), ("broken", "not one OpenCV can read"), ("category", "unusable"), ("empty", "nothing to measure")],
)
def test_broken_data_is_refused(harm: str, reason: str, tmp_path: Path) -> None:
    made = generate(tmp_path / "set", DatasetOptions(seed=1, train=4, calibration=0, evaluation=0, size=64))
    path, truth = made.images("train") / "train_000001.jpg", json.loads(made.annotations("train").read_text())
    if harm == "missing":
        path.unlink()
    elif harm == "broken":
        path.write_bytes(b"not a picture")
    elif harm == "category":
        truth["annotations"][0]["category_id"] = 77
    else:
        truth["annotations"] = []
    made.annotations("train").write_text(json.dumps(truth))
    with pytest.raises(InputError, match=reason):
        run(made, tmp_path / "run", replace(TINY, epochs=1))


def test_the_command_trains_a_dataset(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", str(dataset.folder), "--output", str(tmp_path), "--epochs", "1", "--batch", "8", "--size", "64"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "epoch 1/1" in printed
    assert f"saved {tmp_path / 'model.onnx'}" in printed
    assert main([*arguments, "--seed", "4"]) == 2
