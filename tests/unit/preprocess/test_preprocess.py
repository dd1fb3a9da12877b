"""Pictures as network inputs: every step checked on pixels whose values follow from the rule."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow.ir.module import ModuleBuilder
from bmflow.preprocess import Preprocess

BASE = {
    "pixel_format": "bgr", "channel_format": "nchw", "keep_aspect_ratio": False, "keep_ratio_mode": "letterbox", "pad_value": 0,
    "pad_type": "center", "mean": [0.0, 0.0, 0.0], "scale": [1.0, 1.0, 1.0],
}  # fmt: skip


def preprocess(shape: tuple[int, ...] = (1, 3, 4, 6), **settings: object) -> Preprocess:
    builder = ModuleBuilder("net", "ONNX")
    value = builder.input("x", shape, BASE | settings)  # pyright: ignore[reportArgumentType]
    result = Preprocess.of(builder.finish([value]).inputs[0])
    assert result is not None
    return result


@pytest.fixture
def picture(tmp_path: Path, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A lossless file and its BGR pixels, (4, 6, 3)."""
    pixels = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    path = str(tmp_path / "p.png")
    cv2.imwrite(path, pixels)
    return path, pixels


def write(folder: Path, pixels: np.ndarray, name: str = "q.png") -> str:
    cv2.imwrite(str(folder / name), pixels)
    return str(folder / name)


def test_bgr_keeps_the_decoded_order_and_normalizes_per_channel(picture: tuple[str, np.ndarray]) -> None:
    path, pixels = picture
    result = preprocess(mean=[1.0, 2.0, 3.0], scale=[0.5, 0.25, 2.0]).load(path)
    expected = (pixels.astype(np.float32) - np.float32([1, 2, 3])) * np.float32([0.5, 0.25, 2])
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected.transpose(2, 0, 1)[None])


def test_rgb_swaps_before_mean_and_scale(picture: tuple[str, np.ndarray]) -> None:
    path, pixels = picture
    result = preprocess(pixel_format="rgb", mean=[1.0, 0.0, 0.0], scale=[0.0039216] * 3).load(path)
    expected = (pixels[:, :, ::-1].astype(np.float32) - np.float32([1, 0, 0])) * np.float32(0.0039216)
    np.testing.assert_array_equal(result[0].transpose(1, 2, 0), expected)


def test_nhwc_and_batch_repeat(picture: tuple[str, np.ndarray]) -> None:
    path, pixels = picture
    result = preprocess((2, 4, 6, 3), channel_format="nhwc").load(path)
    np.testing.assert_array_equal(result, np.stack([pixels, pixels]).astype(np.float32))


def test_one_file_per_batch_element(picture: tuple[str, np.ndarray], tmp_path: Path) -> None:
    other = write(tmp_path, np.full((4, 6, 3), 9, np.uint8))
    result = preprocess((2, 3, 4, 6)).load(f"{picture[0]},{other}")
    np.testing.assert_array_equal(result[0], picture[1].transpose(2, 0, 1))
    assert (result[1] == 9).all()


def test_stretch_averages_neighbours_where_the_size_halves(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 64, (8, 12, 3)).astype(np.uint8) * 4
    result = preprocess().load(write(tmp_path, pixels))
    means = pixels.reshape(4, 2, 6, 2, 3).mean((1, 3))  # half-pixel centres: the middle of each 2x2 block
    assert np.abs(result[0].transpose(1, 2, 0) - means).max() <= 0.5


@pytest.mark.parametrize(("pad_type", "top"), [("center", 1), ("normal", 0)])
def test_letterbox_truncates_sizes_and_pads_before_normalizing(tmp_path: Path, pad_type: str, top: int) -> None:
    path = write(tmp_path, np.full((5, 17, 3), 200, np.uint8))  # ratio 6/17, size int(1.76) x 6 = 1 x 6
    result = preprocess(keep_aspect_ratio=True, pad_value=114, pad_type=pad_type, mean=[14.0] * 3).load(path)
    rows = result[0, 0, :, 0]
    expected = np.full(4, 100.0)
    expected[top] = 186.0
    np.testing.assert_array_equal(rows, expected)


def test_short_side_scale_fills_the_frame_and_cuts_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:] = np.arange(12, dtype=np.uint8)[None, :, None] * 10
    result = preprocess(keep_aspect_ratio=True, keep_ratio_mode="short_side_scale").load(write(tmp_path, pixels))
    np.testing.assert_array_equal(result[0, 0, 0], np.arange(3, 9) * 10.0)


def test_resize_dims_larger_than_the_network_are_cropped_from_the_middle(tmp_path: Path) -> None:
    pixels = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9)
    result = preprocess((1, 1, 4, 6), pixel_format="gray", resize_dims=[7, 9]).load(write(tmp_path, pixels))
    np.testing.assert_array_equal(result[0, 0], pixels[1:5, 1:7])  # 7 // 2 - 4 // 2 = 1, 9 // 2 - 6 // 2 = 1


def test_gray_takes_the_first_mean_and_scale(tmp_path: Path) -> None:
    path = write(tmp_path, np.full((4, 6), 50, np.uint8))
    result = preprocess((1, 1, 4, 6), pixel_format="gray", mean=[10.0, 99.0, 99.0], scale=[0.5, 9.0, 9.0]).load(path)
    assert result.shape == (1, 1, 4, 6)
    assert (result == 20).all()


def test_three_dimensions_hold_one_picture_without_batch_axis(picture: tuple[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(preprocess((3, 4, 6)).load(picture[0]), picture[1].transpose(2, 0, 1))


@pytest.mark.parametrize("pixel_format", ["rgba", "rgbd"])
def test_four_channels_come_as_red_green_blue_and_the_fourth(tmp_path: Path, pixel_format: str) -> None:
    path = write(tmp_path, np.tile(np.uint8([3, 2, 1, 4]), (4, 6, 1)))  # OpenCV writes BGRA
    result = preprocess((1, 4, 4, 6), pixel_format=pixel_format, mean=[0.0] * 4, scale=[1.0] * 4).load(path)
    np.testing.assert_array_equal(result[0, :, 0, 0], [1, 2, 3, 4])


def test_rgba_of_a_file_without_alpha_is_opaque(picture: tuple[str, np.ndarray]) -> None:
    result = preprocess((1, 4, 4, 6), pixel_format="rgba", mean=[0.0] * 4, scale=[1.0] * 4).load(picture[0])
    np.testing.assert_array_equal(result[0, :3].transpose(1, 2, 0), picture[1][:, :, ::-1])
    assert (result[0, 3] == 255).all()


@pytest.mark.parametrize(
    ("yuv_type", "chroma"), [("YUV420_PLANAR", [90] * 6 + [240] * 6), ("YUV_NV12", [90, 240] * 6), ("YUV_NV21", [240, 90] * 6)]
)
def test_yuv_bytes_become_colours(tmp_path: Path, yuv_type: str, chroma: list[int]) -> None:
    (tmp_path / "p.yuv").write_bytes(bytes([82] * 24 + chroma))  # BT.601 red: Y 82, U 90, V 240
    result = preprocess(pixel_format="rgb", yuv_type=yuv_type).load(str(tmp_path / "p.yuv"))
    assert np.abs(result[0, :, 0, 0] - [255, 0, 0]).max() <= 3


def test_an_input_of_no_picture_has_no_preprocessing() -> None:
    builder = ModuleBuilder("net", "ONNX")
    assert Preprocess.of(builder.finish([builder.input("x", (1, 16))]).inputs[0]) is None


REFUSED = {
    "missing": ({}, "absent.png", "cannot be read"),
    "text": ({}, "text.jpg", "text.jpg: not a picture OpenCV can read"),
    "empty": ({}, "empty.png", "empty.png: not a picture"),
    "cut jpeg": ({}, "cut.jpg", "or a broken one"),
    "cut png": ({}, "cut.png", "or a broken one"),
    "deep": ({"pixel_format": "rgba", "shape": (1, 4, 4, 6), "mean": [0.0] * 4, "scale": [1.0] * 4}, "deep.png", "16 bits a channel"),
    "no depth": ({"pixel_format": "rgbd", "shape": (1, 4, 4, 6), "mean": [0.0] * 4, "scale": [1.0] * 4}, "p.png", "expected four channels"),
    "crop": ({"resize_dims": [2, 2]}, "p.png", "resized to 2x2, smaller than the network input 4x6"),
    "batch": ({"shape": (3, 3, 4, 6)}, "p.png,q.png", "expected 1 or 3 pictures"),
    "yuv type": ({}, "p.yuv", "needs --yuv_type"),
    "yuv size": ({"yuv_type": "YUV_NV12"}, "p.yuv", "expected 36 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_named(picture: tuple[str, np.ndarray], tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, name, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    Path("text.jpg").write_text("not a picture")
    Path("empty.png").touch()
    Path("p.yuv").write_bytes(b"12")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for cut in ("cut.jpg", "cut.png"):
        cv2.imwrite(cut, noise)
        Path(cut).write_bytes(Path(cut).read_bytes()[:-900])
    cv2.imwrite("deep.png", np.zeros((4, 6, 4), np.uint16))
    with pytest.raises(InputError) as caught:
        preprocess(**settings).load(name)  # pyright: ignore[reportArgumentType]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (1, 1, 4, 6)}, "has 3 channels, but the input is 1x1x4x6"),
        ({"mean": [0.0]}, "needs 3 means and scales"),
        ({"pixel_format": "gbrg"}, "pixel format gbrg is not supported"),
        ({"resize_dims": [4]}, "expected resize_dims h,w"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        preprocess(**settings)  # pyright: ignore[reportArgumentType]
