"""mAP of drawn pictures against pycocotools on a file in which the drawn pictures really stand several times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bmflow.evaluation.coco import Annotations, measure
from bmflow.evaluation.detections import Detections

from benchmarks.matches import Difference, Draws, Matches

PICTURES = 6


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) x1, y1, x2, y2."""
    corner = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(8, 30, (count, 2))], axis=1)


def scene(rng: np.random.Generator) -> tuple[dict[int, list[dict]], dict[int, Detections]]:
    """Annotations and detections by picture: most boxes found a little off, some missed, some made up; one crowd."""
    truth, found = {}, {}
    for picture in range(PICTURES):
        real, kinds = boxes(rng, 5), rng.integers(0, 3, 5)
        truth[picture] = [
            {"category_id": int(kind) + 1, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "area": float(np.prod(b[2:] - b[:2])),
             "iscrowd": int(picture == 2 and k == 0)}
            for k, (b, kind) in enumerate(zip(real.tolist(), kinds, strict=True))
            for b in [np.array(b)]
        ]  # fmt: skip
        near = real[:4] + rng.normal(0, 1.2, (4, 4))
        every, classes = np.concatenate([near, boxes(rng, 3)]), np.concatenate([kinds[:4], rng.integers(0, 3, 3)])
        found[picture] = Detections(every.astype(np.float32), rng.uniform(0.05, 1, 7).astype(np.float32), classes)
    return truth, found


def write(path: Path, truth: dict[int, list[dict]]) -> Annotations:
    rows = [{**row, "image_id": picture} for picture, items in truth.items() for row in items]
    rows = [{**row, "id": number, "bbox": [float(x) for x in row["bbox"]]} for number, row in enumerate(rows, 1)]
    pictures = [{"id": picture, "file_name": f"{picture}.jpg"} for picture in truth]
    names = [{"id": k, "name": name} for k, name in ((1, "person"), (2, "bicycle"), (3, "car"))]
    path.write_text(json.dumps({"images": pictures, "annotations": rows, "categories": names}))
    return Annotations.load(str(path))


@pytest.mark.parametrize("draw", [[0, 1, 2, 3, 4, 5], [1, 1, 4, 2, 2, 2], [3, 3, 3, 3, 3, 3]], ids=str)
def test_a_draw_scores_as_a_file_in_which_its_pictures_stand_as_often(draw: list[int], tmp_path: Path) -> None:
    truth, found = scene(np.random.default_rng(11))
    matches = Matches.of(write(tmp_path / "all.json", truth), found)
    copied = write(tmp_path / "draw.json", {place: truth[picture] for place, picture in enumerate(draw)})
    expected = measure(copied, {place: found[picture] for place, picture in enumerate(draw)}).map
    assert 0.1 < expected < 0.95
    assert matches.mean_ap(np.array(draw)) == pytest.approx(expected, abs=1e-12)


def test_a_network_differs_from_itself_by_nothing_and_the_seed_draws_the_same(tmp_path: Path) -> None:
    truth, found = scene(np.random.default_rng(12))
    matches = Matches.of(write(tmp_path / "all.json", truth), found)
    one, again = Draws.of([matches, matches], 5), Draws.of([matches, matches], 5)
    assert Difference.of(one, again) == Difference(0.0, 0.0, 0.0)
    assert len(set(one.values.tolist())) > 1
