"""Decode picture files to 8-bit arrays (h, w, c)."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from bmflow.errors import InputError
from bmflow.preprocess.resize import Resize

CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1, "rgba": 4, "rgbd": 4}
_FLAGS = {
    "rgb": cv2.IMREAD_COLOR, "bgr": cv2.IMREAD_COLOR, "gray": cv2.IMREAD_GRAYSCALE,
    "rgba": cv2.IMREAD_UNCHANGED, "rgbd": cv2.IMREAD_UNCHANGED,
}  # fmt: skip
_YUV = {
    ("YUV420_PLANAR", "bgr"): cv2.COLOR_YUV2BGR_I420, ("YUV420_PLANAR", "rgb"): cv2.COLOR_YUV2RGB_I420,
    ("YUV_NV12", "bgr"): cv2.COLOR_YUV2BGR_NV12, ("YUV_NV12", "rgb"): cv2.COLOR_YUV2RGB_NV12,
    ("YUV_NV21", "bgr"): cv2.COLOR_YUV2BGR_NV21, ("YUV_NV21", "rgb"): cv2.COLOR_YUV2RGB_NV21,
}  # fmt: skip


def read(path: str, pixel_format: str) -> np.ndarray:
    """Decode a picture: BGR for rgb and bgr (the swap comes later), one channel for gray, RGBA for rgba, four stored channels for rgbd.

    A file without alpha becomes opaque for rgba; for rgbd the fourth channel is data, so it must be there, and the order is kept
    but for blue and red, which OpenCV reads swapped.
    Raises:
        InputError: missing, not a picture, not 8 bits, or three channels where rgbd needs four.
    """
    picture = _decode(path, _FLAGS[pixel_format])
    if picture.dtype != np.uint8:
        raise InputError(f"{path}: has {8 * picture.itemsize} bits a channel; expected 8")
    picture = picture[:, :, None] if picture.ndim == 2 else picture
    if pixel_format not in ("rgba", "rgbd"):
        return picture
    if picture.shape[2] == 4:
        return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)
    if pixel_format == "rgbd":
        raise InputError(f"{path}: expected four channels (rgbd) in one file such as a png with alpha, found {picture.shape[2]}")
    return cv2.cvtColor(picture, cv2.COLOR_GRAY2RGBA if picture.shape[2] == 1 else cv2.COLOR_BGR2RGBA)


def _decode(path: str, flags: int) -> np.ndarray:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a picture") from error
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        picture = None
    if picture is None or _cut_short(data):
        raise InputError(f"{path}: not a picture OpenCV can read (jpg, png, bmp), or a broken one; replace or remove it")
    return np.asarray(picture)


def _cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; decoders fill the missing part with grey instead of failing."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if not data.startswith(b"\xff\xd8"):
        return False
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":  # segments before the scan
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.find(b"\xff\xd9", position) < 0  # within the scan, 0xff is only followed by 0 or a restart mark


def read_yuv(path: str, yuv_type: str, pixel_format: str, resize: Resize) -> np.ndarray:
    """Read raw 4:2:0 bytes of exactly resize_h x resize_w pixels as BGR (for rgb too: the swap comes later).

    Raises:
        InputError: no yuv type recorded, a pixel format without colour, a ratio to keep, odd sizes or another number of bytes.
    """
    height, width = resize.dims
    code = _YUV.get((yuv_type, "bgr" if pixel_format in ("rgb", "bgr") else pixel_format))
    if code is None:
        raise InputError(f"{path}: a yuv file needs --yuv_type and pixel format rgb or bgr; recorded are '{yuv_type}' and {pixel_format}")
    if resize.keep_ratio or height % 2 or width % 2:
        raise InputError(
            f"{path}: a yuv file holds exactly the resized picture: even sizes, no --keep_aspect_ratio; recorded is {height}x{width}"
        )
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected raw yuv bytes") from error
    expected = math.ceil(height * 3 / 2) * width
    if len(data) != expected:
        raise InputError(f"{path}: expected {expected} bytes ({height}x{width} pixels, 4:2:0), found {len(data)}")
    return np.asarray(cv2.cvtColor(np.frombuffer(data, np.uint8).reshape(-1, width), code))
