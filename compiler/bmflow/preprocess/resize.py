"""Bring 8-bit pictures to a size: stretch, letterbox, or short side; and cut the centre out."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bmflow.errors import InputError


@dataclass(frozen=True)
class Resize:
    """Bilinear resize to `dims` (h, w); sizes are truncated, as the toolchain does.

    keep_ratio: `letterbox` fits the picture in and fills the rest with `pad_value`, around it (`center`) or right and below
    (`normal`); `short_side_scale` fills the frame and cuts the centre out.
    """

    dims: tuple[int, int]
    keep_ratio: bool = False
    mode: str = "letterbox"
    pad_value: int = 0
    pad_type: str = "center"

    def __call__(self, picture: np.ndarray, where: str) -> np.ndarray:
        """(h, w, c) uint8 to (dims[0], dims[1], c) uint8; `where` begins the messages."""
        if not self.keep_ratio:
            return _scale(picture, *self.dims)
        return self._letterbox(picture, where) if self.mode == "letterbox" else self._short_side(picture, where)

    def _letterbox(self, picture: np.ndarray, where: str) -> np.ndarray:
        if picture.shape[2] > 3:
            raise InputError(f"{where}: only pictures of 1 or 3 channels can be letterboxed; transform without --keep_aspect_ratio")
        height, width = self.dims
        ratio = min(width / picture.shape[1], height / picture.shape[0])
        new_h, new_w = max(1, int(picture.shape[0] * ratio)), max(1, int(picture.shape[1] * ratio))
        top, left = ((height - new_h) // 2, (width - new_w) // 2) if self.pad_type == "center" else (0, 0)
        canvas = np.full((height, width, picture.shape[2]), self.pad_value, np.uint8)
        canvas[top : top + new_h, left : left + new_w] = _scale(picture, new_h, new_w)
        return canvas

    def _short_side(self, picture: np.ndarray, where: str) -> np.ndarray:
        height, width = self.dims
        ratio = max(width / picture.shape[1], height / picture.shape[0])
        new_h, new_w = max(height, int(picture.shape[0] * ratio)), max(width, int(picture.shape[1] * ratio))
        top, left = (new_h - height) // 2, (new_w - width) // 2
        return _scale(picture, new_h, new_w)[top : top + height, left : left + width]


def _scale(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    scaled = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR))
    return scaled.reshape(height, width, picture.shape[2])  # OpenCV drops the axis of a single channel


def centre_crop(picture: np.ndarray, dims: tuple[int, int], where: str) -> np.ndarray:
    """Cut (dims[0], dims[1]) out of the middle, starting at `h // 2 - crop_h // 2`.

    Raises:
        InputError: the picture is smaller.
    """
    height, width = picture.shape[:2]
    if (height, width) == tuple(dims):
        return picture
    if height < dims[0] or width < dims[1]:
        found = f"resized to {height}x{width}"
        raise InputError(f"{where}: {found}, smaller than the network input {dims[0]}x{dims[1]}; raise --resize_dims of model_transform")
    top, left = height // 2 - dims[0] // 2, width // 2 - dims[1] // 2
    return picture[top : top + dims[0], left : left + dims[1]]
