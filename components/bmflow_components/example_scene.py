"""One picture of the example data: shapes to find, on a cluttered background, under uneven light and noise.

Everything is drawn with integers (OpenCV's fixed-point filling and resizing, numpy integers), so that the same random numbers give the
same pixels on every machine. Colours are BGR, coordinates pixels, x to the right and y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

FRACTION_BITS = 4  # OpenCV takes corner points in sixteenths of a pixel
LEAST_VISIBLE = 0.55  # share of a shape that stays in sight, occluders and the picture's border included
LARGEST = 0.36  # size of a shape (diameter of its circumscribed circle) as a share of the picture's side
Contours = list[np.ndarray]


@dataclass(frozen=True)
class Shape:
    """One labelled shape: class number from 0; box x, y, width, height of its outline inside the picture; visible pixels."""

    kind: int
    box: tuple[int, int, int, int]
    visible: int


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """Corners (k, 2) of a regular polygon of radius 1; with `inner` below 1 every second corner is drawn in to make a star."""
    angle = np.arange(corners) * (2 * math.pi / corners) - math.pi / 2
    radius = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _cross() -> np.ndarray:
    arm, tip = 0.32, 0.95
    quarter = [(arm, -tip), (arm, -arm), (tip, -arm)]
    turns = [[(x, y), (-y, x), (-x, -y), (y, -x)] for x, y in quarter]
    return np.array([turns[k][turn] for turn in range(4) for k in range(3)])


SHAPES: dict[str, Contours] = {
    "circle": [_regular(48)],
    "square": [_regular(4)],
    "triangle": [_regular(3)],
    "cross": [_cross()],
    "star": [_regular(10, 0.42)],
    "ring": [_regular(48), 0.55 * _regular(48)],
}
"""Outlines in a circle of radius 1; a second contour is a hole. The order is the class number."""


def render(rng: np.random.Generator, size: int, smallest: float) -> tuple[np.ndarray, list[Shape]]:
    """Draw one picture.

    Args:
        size: side of the picture in pixels.
        smallest: least size of a shape as a share of the side; the largest is LARGEST.
    Returns:
        BGR pixels (size, size, 3) uint8 and its shapes; one picture in about twenty has none.
    """
    scene = _Scene(rng, _background(rng, size), smallest)
    for _ in range(int(rng.integers(4, 16))):
        scene.draw_clutter()
    wanted = 0 if rng.random() < 0.05 else int(rng.integers(1, 9))
    for _ in range(wanted):
        scene.draw_shape()
    for _ in range(int(rng.integers(0, 5))):
        scene.draw_occluder()
    return _photograph(rng, scene.pixels), scene.shapes()


class _Scene:
    """A picture in the making, and for every pixel which shape is seen there (-1: none)."""

    def __init__(self, rng: np.random.Generator, pixels: np.ndarray, smallest: float):
        self.rng = rng
        self.smallest = smallest
        self.pixels = pixels
        self.size = len(pixels)
        self.owner = np.full(pixels.shape[:2], -1, np.int8)
        self.kinds: list[int] = []
        self.boxes: list[tuple[int, int, int, int]] = []
        self.areas: list[float] = []

    def shapes(self) -> list[Shape]:
        """The labelled shapes in the order they were drawn."""
        seen = self._seen(self.owner)
        return [Shape(kind, box, int(seen[k])) for k, (kind, box) in enumerate(zip(self.kinds, self.boxes, strict=True))]

    def draw_clutter(self) -> None:
        """Something that is no class: a line, a long bar, a flat ellipse, an irregular splinter."""
        self._paint(_mask(self._distractor(), self.size), self._colour())

    def draw_shape(self) -> None:
        """A random shape where it hides no other one too much; a few places are tried, then it is left out."""
        kind = int(self.rng.integers(len(SHAPES)))
        for _ in range(12):
            contours = self._placed(list(SHAPES.values())[kind])
            if self._add(kind, contours):
                return

    def draw_occluder(self) -> None:
        """A distractor in front of the shapes; left out where it would hide too much of one."""
        mask = _mask(self._distractor(), self.size)
        hidden = mask > 127
        if self._all_in_sight(hidden):
            self._paint(mask, self._colour())
            self.owner[hidden] = -1

    def _add(self, kind: int, contours: Contours) -> bool:
        mask = _mask(contours, self.size)
        inside = mask > 127
        area = _area(contours)
        if np.count_nonzero(inside) < LEAST_VISIBLE * area or not self._all_in_sight(inside):
            return False
        self._paint(mask, self._contrasting(inside))
        if self.rng.random() < 0.3:
            self._outline(contours)
        self.owner[inside] = len(self.kinds)
        self.kinds.append(kind)
        self.boxes.append(_bounds(inside))
        self.areas.append(area)
        return True

    def _seen(self, owner: np.ndarray) -> np.ndarray:
        """Visible pixels of each shape."""
        return np.bincount(owner[owner >= 0], minlength=len(self.kinds))

    def _all_in_sight(self, hidden: np.ndarray) -> bool:
        """Would every shape still show enough with these pixels covered?"""
        left = self._seen(self.owner) - self._seen(self.owner[hidden])
        return bool((left >= LEAST_VISIBLE * np.array(self.areas)).all())

    def _placed(self, contours: Contours) -> Contours:
        """Scale (log-uniform), stretch along one direction, turn and move an outline."""
        rng, size = self.rng, self.size
        radius = size * self.smallest * (LARGEST / self.smallest) ** rng.random() / 2
        stretch, lean, turn = rng.uniform(0.75, 1.0), rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
        matrix = _turn(lean) @ np.diag([1.0, stretch]) @ _turn(turn) * radius
        centre = rng.uniform(0, size, 2)
        return [contour @ matrix.T + centre for contour in contours]

    def _distractor(self) -> Contours:
        rng, size = self.rng, self.size
        centre, turn = rng.uniform(0, size, 2), _turn(rng.uniform(0, 2 * math.pi))
        length = size * rng.uniform(0.05, 0.35)
        match int(rng.integers(4)):
            case 0:  # line
                flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [2 * length, rng.uniform(0.6, 2)]
            case 1:  # bar
                flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length, length * rng.uniform(0.08, 0.25)]
            case 2:  # flat ellipse
                flat = _regular(32) * [length, length * rng.uniform(0.15, 0.45)]
            case _:  # splinter: a thin quadrilateral without right angles
                corners = [[-1, 0], [rng.uniform(-0.4, 0), -0.3], [1, rng.uniform(-0.2, 0.2)], [rng.uniform(0, 0.5), 0.35]]
                flat = np.array(corners) * length / 1.5
        return [flat @ turn.T + centre]

    def _colour(self) -> np.ndarray:
        return self.rng.integers(0, 256, 3)

    def _contrasting(self, inside: np.ndarray) -> np.ndarray:
        """A colour that differs from what it will cover by at least 50 summed over the channels (often much more)."""
        under = self.pixels[inside].mean(axis=0)
        while True:
            colour = self._colour()
            if np.abs(colour - under).sum() >= 50:
                return colour

    def _paint(self, mask: np.ndarray, colour: np.ndarray) -> None:
        """Fill where the mask (h, w) 0..255 says, half of the time with a shade that runs across."""
        shaded = self.rng.random() < 0.5
        shade = self.rng.integers(86, 171, (3, 3), dtype=np.uint8) if shaded else np.full((2, 2), 128, np.uint8)
        if not mask.any():
            return
        x, y, width, height = _bounds(mask > 0)
        part = slice(y, y + height), slice(x, x + width)
        fill = np.clip(colour - 128 + cv2.resize(shade, (width, height)).astype(np.int32)[..., None], 0, 255)
        self.pixels[part] = _blend(self.pixels[part], fill, mask[part])

    def _outline(self, contours: Contours) -> None:
        thickness = int(self.rng.integers(1, 4))
        colour = [int(v) for v in self._colour()]
        cv2.polylines(self.pixels, [_fixed(contour) for contour in contours], True, colour, thickness, cv2.LINE_AA, FRACTION_BITS)


def _turn(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _fixed(contour: np.ndarray) -> np.ndarray:
    return np.round(contour * (1 << FRACTION_BITS)).astype(np.int32)


def _mask(contours: Contours, size: int) -> np.ndarray:
    """Cover 0..255 of each pixel (size, size) uint8; contours inside others are holes."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [_fixed(contour) for contour in contours], [255], cv2.LINE_AA, FRACTION_BITS)
    return mask


def _area(contours: Contours) -> float:
    """Pixels of the whole outline, in and out of the picture: the first contour less its holes (shoelace formula)."""
    sizes = [_polygon_area(contour) for contour in contours]
    return sizes[0] - sum(sizes[1:])


def _polygon_area(contour: np.ndarray) -> float:
    x, y = contour.T
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


def _bounds(inside: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def _blend(under: np.ndarray, over: np.ndarray, cover: np.ndarray) -> np.ndarray:
    weight = cover.astype(np.int32)[..., None]
    return ((under * (255 - weight) + over * weight + 127) // 255).astype(np.uint8)


def _field(rng: np.random.Generator, size: int, knots: int, channels: int) -> np.ndarray:
    """Smooth random values (size, size, channels) uint8 through a grid of random knots."""
    grid = rng.integers(0, 256, (knots, knots, channels), dtype=np.uint8)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR).reshape(size, size, channels)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Soft colours, sometimes with a grain or with stripes."""
    ground = _field(rng, size, int(rng.integers(2, 6)), 3).astype(np.int16)
    grain = _field(rng, size, int(rng.integers(12, 80)), 1).astype(np.int16) - 128
    strength = int(rng.integers(0, 5))
    stripes = _stripes(rng, size) * int(rng.integers(10, 50)) if rng.random() < 0.3 else 0
    return np.clip(ground + grain * strength // 8 + stripes, 0, 255).astype(np.uint8)


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """-1 or 1 in slanted stripes (size, size, 1)."""
    y, x = np.mgrid[0:size, 0:size].astype(np.int16)
    along, down, width = (int(rng.integers(low, high)) for low, high in ((-3, 4), (1, 4), (8, 60)))
    return ((x * along + y * down) // width % 2 * 2 - 1)[..., None]


def _photograph(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Uneven light, now and then a blur, and sensor noise."""
    return _noise(rng, _blur(rng, _light(rng, pixels)))


def _light(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    dark = int(rng.integers(70, 230))  # light at the darkest place, in 1/256
    light = dark + ((_field(rng, len(pixels), 3, 1).astype(np.uint16) * (256 - dark)) >> 8)
    return (pixels * light >> 8).astype(np.uint8)


def _blur(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    kind = rng.random()
    if kind < 0.5:
        return pixels
    return np.asarray(cv2.blur(pixels, (3, 3) if kind < 0.85 else (5, 5)))


def _noise(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    reach = int(rng.integers(1, 16))  # triangular noise: the difference of two even ones
    more, less = rng.integers(0, reach + 1, (2, *pixels.shape), dtype=np.uint8)
    return cv2.subtract(cv2.add(pixels, more), less)
