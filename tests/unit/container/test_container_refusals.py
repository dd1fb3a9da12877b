"""Files that are foreign, cut short, damaged or beyond this version, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import smallest
from bmflow.container import bmodel, image, pack
from bmflow.errors import InputError

TIME = "Thu Jan  1 00:00:00 2026\n"
DATA = bmodel.write(smallest.program(), TIME)
SEAL_BYTES = len(b"bmflow-sha256 ") + 65
BODY = DATA[:-SEAL_BYTES]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def edited(change: Callable[[Any], None], version: str = "2.2") -> bytes:
    """The file of the smallest model after a change of its only stage; checksums are right."""
    model = pack.model_table(bmodel.read(DATA))
    model["version"] = version
    change(model["net"][0]["parameter"][0])
    return image.store(model)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes, a bmodel has at least 64"),
        (DATA[:63], "63 bytes, a bmodel has at least 64"),
        (b"\x89PNG" + DATA[4:], "not a bmodel .it begins with 89 50 4e 47."),
        (b"CviModel" + DATA[8:], "a cvimodel"),
        (b"\xff\xaa\x55\xff" + DATA[4:], "format before version 2"),
        (DATA[:4] + b"\x41" + DATA[5:], "the header gives its own size as 65, expected 64"),
        (DATA[:5000], r"cut short or damaged: the header speaks of \d+ bytes, the file has 5000"),
        (BODY[:-10], "cut short or damaged"),
        (DATA[:-1], "does not match the SHA-256 checksum at its end"),
        (DATA + b"x", "does not match the SHA-256 checksum at its end"),
        (DATA[:64] + b"\xff\xff\xff\x7f" + DATA[68:], "description of the model is damaged at byte 0"),
    ],
)
def test_files_that_are_no_whole_bmodel_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"net.bmodel: .*{message}"):
        bmodel.read(data, "net.bmodel")


def test_flipped_weight_byte_is_caught_by_the_checksum_of_the_weights() -> None:
    place = DATA.index(smallest.program().coeff) + 5000
    for data in (flipped(DATA, place), flipped(BODY, place)):
        with pytest.raises(InputError, match="weights of net smallest, stage 0 do not match their SHA-256"):
            bmodel.read(data)


def test_flipped_byte_anywhere_is_refused() -> None:
    for place in range(0, len(DATA), 37):
        with pytest.raises(InputError):
            bmodel.read(flipped(DATA, place))


def test_files_without_our_checksum_line_are_read() -> None:
    assert bmodel.read(BODY) == bmodel.read(DATA)


def test_what_follows_the_file_of_another_writer_is_ignored() -> None:
    foreign = edited(lambda stage: None)[:-SEAL_BYTES]
    assert bmodel.read(foreign + b"something else").nets == bmodel.read(DATA).nets


def test_files_for_other_processors_are_read() -> None:
    model = pack.model_table(bmodel.read(DATA))
    assert bmodel.read(image.store({**model, "chip": "BM1690"})).chip == "BM1690"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(is_dynamic=1), "compiled for dynamic shapes"),
        (lambda s: s["sub_net"][0].update(subnet_mode=1), "run on the host"),
        (lambda s: s.update(core_num=2), "compiled for 2 cores"),
        (lambda s: s["coeff_mem"].update(encrypt_mode=1), "weights are encrypted"),
        (lambda s: s.update(cmd_group=[]), "has no commands"),
        (lambda s: s["cmd_group"][0].update(bdc_cmd_byte=255), "TIU stream has 256 bytes, 255 are announced"),
        (lambda s: s.update(ctx_sizes=[1 << 60]), "no processor has that"),
        (lambda s: s["input_tensor"][0].update(scale=0.0), "tensor x: scale 0.0, expected a positive number"),
        (lambda s: s["input_tensor"][0].update(scale=float("nan")), "scale nan"),
        (lambda s: s["input_tensor"][0].update(data_type=9), "tensor x: type code 9, this version knows F32"),
        (lambda s: s["input_tensor"][0].update(gmem_stmode=2), "interleaved batches"),
        (lambda s: s["output_tensor"][0].update(size=4), "4 bytes, its shape and type need 12800"),
        (lambda s: s["output_tensor"][0].update(shape=[{"dim": [0]}]), r"shape \[0\]"),
        (lambda s: s["output_tensor"][0].update(shape=[{"dim": [1] * 9}]), "expected up to 8 positive sizes"),
        (lambda s: s["output_tensor"][0].update(device_addr=0), "tensor y: lies at 0x0, outside of the activation memory"),
        (lambda s: s["coeff_mem"]["location"][0].update(size=1 << 40), "weight y ends after the weight image"),
        (lambda s: s.update(tensor_loc=b'{"format":"bmflow-layers-1","layers":[{}]}'), "table of layers is damaged"),
    ],
)
def test_stages_that_cannot_be_run_are_refused_by_name(change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(InputError, match=f"net smallest, stage 0.*{message}"):
        bmodel.read(edited(change))


@pytest.mark.parametrize("blob", [b"", b"{}", b"[]", b"not json", b"[" * 100_000, b'{"format": "other"}', b"\xff"])
def test_debug_blobs_of_other_writers_are_left_alone(blob: bytes) -> None:
    assert bmodel.read(edited(lambda s: s.update(tensor_loc=blob))).nets[0].stages[0].layers == ()


def test_commands_are_taken_from_the_core_of_the_subnet_first() -> None:
    def move(stage: Any) -> None:
        stage["sub_net"][0]["core_commands"] = [{"gdma_tiu_commands": stage["cmd_group"]}]
        del stage["cmd_group"]

    assert bmodel.read(edited(move)).nets[0].stages[0].groups == bmodel.read(DATA).nets[0].stages[0].groups


def test_overlapping_blobs_are_refused() -> None:
    model = image.load_description(DATA)
    model["net"][0]["parameter"][0]["net_stat"] = {"start": 1, "size": 24000}
    model["net"][0]["parameter"][0]["net_profile"] = {"start": 2, "size": 24000}
    model["net"][0]["parameter"][0]["binary_ir"] = {"start": 3, "size": 24000}
    _, pool = image.sections(DATA, "")
    description = image.flat.build("Model", model, lambda blob: (0, 0) if blob == b"" else (blob["start"], blob["size"]))
    header = image._HEADER.pack(image.MAGIC, 64, len(description), len(pool)).ljust(64, b"\0")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(InputError, match="its blobs overlap"):
        bmodel.read(header + description + bytes(pool))


def test_scales_keep_their_full_precision() -> None:
    read = bmodel.read(bmodel.write(smallest.program(input_scale=0.0123456789), TIME)).nets[0].stages[0]
    assert (read.inputs[0].scale, read.outputs[0].scale) == (0.0123456789, 0.3)
    foreign = bmodel.read(edited(lambda s: s.update(tensor_loc=None))).nets[0].stages[0]
    assert foreign.inputs[0].scale == pytest.approx(0.1, rel=1e-7)
