"""The file around the flatbuffer: header, description, blobs, and our checksum line at the end.

    64 bytes header | flatbuffer, zeros to 4096 | blobs, each filled up to 4096 | "bmflow-sha256 <64 hex digits>\\n"

The last line is our own addition: the vendor's format has no checksum of the whole file, and its readers ignore what follows the
blobs. Files without that line are read as well; then only the weights are protected, by their own SHA-256.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Any

from bmflow.container import flat
from bmflow.container.flat import Table
from bmflow.errors import InputError

MAGIC = 0xFF55AAEE
_OLD_MAGIC = 0xFF55AAFF
HEADER_BYTES = 64
BLOB_ALIGNMENT = 4096
_HEADER = struct.Struct("<IIIQ")
_SEAL = b"bmflow-sha256 "
_SEAL_BYTES = len(_SEAL) + 64 + 1


def store(model: Table) -> bytes:
    """The file of a `Model` table whose `Binary` values are bytes; equal blobs are stored once."""
    pool = bytearray()
    places: dict[bytes, tuple[int, int]] = {b"": (0, 0)}

    def place(blob: bytes) -> tuple[int, int]:
        if blob not in places:
            places[blob] = (len(pool), len(blob))
            pool.extend(blob)
            pool.extend(bytes(-len(blob) % BLOB_ALIGNMENT))
        return places[blob]

    description = flat.build("Model", model, place)
    description += bytes(-(HEADER_BYTES + len(description)) % BLOB_ALIGNMENT)
    header = _HEADER.pack(MAGIC, HEADER_BYTES, len(description), len(pool)).ljust(HEADER_BYTES, b"\0")
    data = header + description + bytes(pool)
    return data + _seal(data)


def load(data: bytes, path: str = "") -> Table:
    """The `Model` table of a file, its `Binary` values as bytes.

    Raises:
        InputError: not a bmodel, cut short, damaged, or changed after it was written.
    """
    where = path or "bmodel"
    description, pool = sections(data, where)
    model = flat.parse(description, "Model", _Blobs(pool, where), where)
    check_weights(model, where)
    _check_seal(data, HEADER_BYTES + len(description) + len(pool), model, where)
    return model


def load_description(data: bytes, path: str = "") -> Table:
    """The `Model` table of a file with start and size in place of each blob; no checksum is looked at."""
    where = path or "bmodel"
    return flat.parse(sections(data, where)[0], "Model", lambda start, size: {"start": start, "size": size}, where)


def sections(data: bytes, where: str) -> tuple[bytes, memoryview]:
    """The flatbuffer and the blobs.

    Raises:
        InputError: not a bmodel, or cut short.
    """
    if len(data) < HEADER_BYTES:
        raise InputError(f"{where}: {len(data)} bytes, a bmodel has at least {HEADER_BYTES}; is it a bmodel, and was it copied whole?")
    magic, header_size, description_size, pool_size = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise InputError(f"{where}: {_what_it_is(data)}; expected a bmodel, which begins with ee aa 55 ff")
    if header_size != HEADER_BYTES:
        raise InputError(
            f"{where}: the header gives its own size as {header_size}, expected {HEADER_BYTES}; the file is damaged, get it again"
        )
    end = HEADER_BYTES + description_size + pool_size
    if len(data) < end:
        raise InputError(f"{where}: cut short or damaged: the header speaks of {end} bytes, the file has {len(data)}; get the file again")
    start = HEADER_BYTES + description_size
    return data[HEADER_BYTES:start], memoryview(data)[start:end]


def _what_it_is(data: bytes) -> str:
    if data.startswith(b"CviModel"):
        return "a cvimodel, the file of CV18xx processors, which this tool does not read"
    if int.from_bytes(data[:4], "little") == _OLD_MAGIC:
        return "a bmodel of the format before version 2, which this tool does not read"
    return f"not a bmodel (it begins with {data[:4].hex(' ')})"


class _Blobs:
    """Takes blobs out of the binary section; the same range gives the same bytes object."""

    def __init__(self, pool: memoryview, where: str) -> None:
        self._pool = pool
        self._where = where
        self._known: dict[tuple[int, int], bytes] = {}
        self._budget = 2 * len(pool) + BLOB_ALIGNMENT

    def __call__(self, start: int, size: int) -> bytes:
        if (start, size) not in self._known:
            self._known[start, size] = self._cut(start, size)
        return self._known[start, size]

    def _cut(self, start: int, size: int) -> bytes:
        end = start + size
        if end > len(self._pool):
            raise InputError(
                f"{self._where}: damaged: a blob ends at byte {end} of the binary section, which has {len(self._pool)} bytes; get the file again"
            )
        self._budget -= size
        if self._budget < 0:
            raise InputError(f"{self._where}: damaged: its blobs overlap; get the file again")
        return bytes(self._pool[start:end])


def check_weights(model: Table, where: str) -> None:
    """Compare every weight image with its SHA-256, where the file has one.

    Raises:
        InputError: naming net and stage.
    """
    checked: set[tuple[bytes, int]] = set()
    for net in model["net"]:
        for index, stage in enumerate(net.get("parameter", [])):
            coeff: dict[str, Any] = stage.get("coeff_mem", {})
            image, expected = coeff.get("binary_coeff", b""), coeff.get("check_code", b"")
            key = (expected, id(image))
            if not expected or key in checked:
                continue
            if sha256(image).digest() != expected:
                raise InputError(
                    f"{where}: the weights of net {net['name']}, stage {index} do not match their SHA-256 checksum; "
                    "the file was damaged or changed after it was written, get it again"
                )
            checked.add(key)


def _seal(data: bytes) -> bytes:
    return _SEAL + sha256(data).hexdigest().encode() + b"\n"


def _check_seal(data: bytes, end: int, model: Table, where: str) -> None:
    """Compare the whole file with the checksum line at its end, where it has one."""
    rest = data[end : end + _SEAL_BYTES + 1]
    ours = rest.startswith(_SEAL) or (rest and "bmflow" in model["version"])
    if ours and rest != _seal(data[:end]):
        raise InputError(
            f"{where}: the file does not match the SHA-256 checksum at its end; it was damaged or changed after it was written, get it again"
        )
