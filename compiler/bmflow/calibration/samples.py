"""Which samples calibrate a network, the same choice in every run, and the batches made of them."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bmflow import artifacts
from bmflow.errors import InputError
from bmflow.ir.module import Module
from bmflow.ir.types import shape_of
from bmflow.preprocess import Preprocess
from bmflow.preprocess.inputs import PICTURES, from_arrays, load_npy, picture_of

LOG = logging.getLogger("bmflow")
SEED = 1684
Arrays = dict[str, np.ndarray]
_KINDS = {".npz": "npz", ".npy": "npy"} | dict.fromkeys(PICTURES, "picture")


@dataclass(frozen=True)
class Entry:
    """One sample: one npz with every input, or one npy or picture per input (one picture may serve all inputs)."""

    files: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.files)


def from_folder(folder: str, count: int = 0) -> list[Entry]:
    """All samples below a folder, sorted by path, shuffled with a fixed seed; the first `count` (0: all).

    Raises:
        InputError: no such folder, no sample in it, or samples of several kinds.
    """
    if not Path(folder).is_dir():
        raise InputError(f"--dataset {folder}: no such folder")
    paths = sorted(
        os.path.join(where, name) for where, _, names in os.walk(folder) for name in names if Path(name).suffix.lower() in _KINDS
    )
    if not paths:
        raise InputError(f"--dataset {folder}: holds no sample; expected pictures ({', '.join(PICTURES)}), npz or npy files")
    random.Random(SEED).shuffle(paths)
    return _of_one_kind([Entry((path,)) for path in paths], f"--dataset {folder}")[: count or None]


def from_list(path: str, count: int = 0) -> list[Entry]:
    """Samples of a data list, one a line, several inputs separated by commas, in file order; the first `count` (0: all).

    Raises:
        InputError: unreadable, empty, a file that is missing or of unknown kind, or samples of several kinds.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of samples, one a line ({error})") from error
    entries = [Entry(tuple(part.strip() for part in line.split(",") if part.strip())) for line in lines if line]
    if not entries:
        raise InputError(f"{path}: lists no sample; expected one file a line, inputs separated by commas")
    for file in (file for entry in entries for file in entry.files):
        if not Path(file).is_file():
            raise InputError(f"{path}: {file}: no such file; paths are relative to the current folder")
    return _of_one_kind(entries, path)[: count or None]


def _of_one_kind(entries: list[Entry], where: str) -> list[Entry]:
    first: dict[str, str] = {}
    for file in (file for entry in entries for file in entry.files):
        kind = _KINDS.get(Path(file).suffix.lower())
        if kind is None:
            raise InputError(f"{where}: {file}: expected a picture ({', '.join(PICTURES)}), an npz or an npy file")
        first.setdefault(kind, file)
    if len(first) > 1:
        raise InputError(f"{where}: samples must be of one kind, found {', '.join(f'{kind} ({file})' for kind, file in first.items())}")
    return entries


@dataclass
class Loader:
    """Turns samples into batches of network inputs; says how many were used and which were broken.

    A batch joins as many samples as its leading dimension asks for; the last picture is repeated to fill it up, while npz and npy
    samples that do not fill one are left out, and one that is a whole batch stands alone.
    """

    module: Module
    entries: Sequence[Entry]
    broken: dict[str, str] = field(default_factory=dict)
    used: int = 0

    def __post_init__(self) -> None:
        """Read the preprocessing of the inputs when the samples are pictures.

        Raises:
            InputError: an input records none.
        """
        self._inputs = self.module.inputs
        self._shapes = {op.layer_name: shape_of(op.output) for op in self._inputs}
        is_picture = Path(self.entries[0].files[0]).suffix.lower() in PICTURES
        self._pictures: list[Preprocess] | None = [picture_of(op) for op in self._inputs] if is_picture else None

    @property
    def batch(self) -> int:
        """Samples in one batch: the leading dimension all inputs share, else 1."""
        leading = {shape[0] if len(shape) > 1 else 1 for shape in self._shapes.values()}
        if self._pictures:
            leading = {picture.batch for picture in self._pictures}
        return leading.pop() if len(leading) == 1 else 1

    def load(self, entry: Entry) -> Arrays | InputError:
        """One sample by input name, or why it cannot be used."""
        try:
            return self._load_pictures(entry) if self._pictures else self._load_arrays(entry)
        except InputError as error:
            return error

    def _load_pictures(self, entry: Entry) -> Arrays:
        assert self._pictures is not None
        files = [*entry.files, *([entry.files[-1]] * (len(self._pictures) - len(entry.files)))]
        if len(files) != len(self._pictures):
            raise InputError(f"{entry}: {len(files)} pictures for {len(self._pictures)} inputs; write one sample a line")
        made: Arrays = {}
        for picture, file in zip(self._pictures, files, strict=True):
            one = picture.load_one(file)
            made[picture.name] = one if self.batch > 1 else picture.stack([one])
        return made

    def _load_arrays(self, entry: Entry) -> Arrays:
        if entry.files[0].lower().endswith(".npz"):
            arrays = artifacts.load_npz(entry.files[0])
        elif len(entry.files) == len(self._inputs):
            arrays = {op.layer_name: load_npy(file) for op, file in zip(self._inputs, entry.files, strict=True)}
        else:
            names = ", ".join(self._shapes)
            raise InputError(f"{entry}: expected {len(self._inputs)} npy files, one per input ({names}), found {len(entry.files)}")
        singles = {op.layer_name: self._single(arrays, op.layer_name) for op in self._inputs}
        if self.batch > 1 and all(single is not None for single in singles.values()):
            return {name: single for name, single in singles.items() if single is not None}
        return from_arrays(self._inputs, arrays, str(entry))

    def _single(self, arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
        """An array that is one element of a batch; None when it is not."""
        array = next(iter(arrays.values())) if len(arrays) == len(self._inputs) == 1 else arrays.get(name)
        fits = array is not None and array.shape == (1, *self._shapes[name][1:]) and array.dtype.kind in "fiub"
        return np.asarray(array, np.float32) if fits else None

    def batches(self, loaded: Iterable[tuple[Entry, Arrays | InputError]]) -> Iterator[Arrays]:
        """Join samples to batches; broken ones are noted and warned about.

        Raises:
            InputError: more than half of the samples are broken, or one of arrays does not fit the network (all would fail alike).
        """
        waiting: list[Arrays] = []
        for entry, sample in loaded:
            if isinstance(sample, InputError):
                self._note(entry, sample)
                continue
            if self._is_whole(sample):
                self.used += 1
                yield sample
                continue
            waiting.append(sample)
            if len(waiting) == self.batch:
                yield self._join(waiting)
                waiting = []
        if waiting and self._pictures:
            yield self._join([*waiting, *([waiting[-1]] * (self.batch - len(waiting)))])
        elif waiting:
            LOG.warning("the last %d samples do not fill a batch of %d and are left out", len(waiting), self.batch)

    def _note(self, entry: Entry, error: InputError) -> None:
        if not self._pictures:
            raise error
        self.broken[str(entry)] = str(error)
        LOG.warning("skipped %s", error)
        if 2 * len(self.broken) > len(self.entries):
            counts = f"{len(self.broken)} of {len(self.entries)} samples are broken"
            raise InputError(f"{counts}, too few remain (at least half must be usable); the last one: {error}")

    def _is_whole(self, sample: Arrays) -> bool:
        return all(array.shape == self._shapes[name] for name, array in sample.items())

    def _join(self, samples: Sequence[Arrays]) -> Arrays:
        self.used += len({id(sample) for sample in samples})
        return {name: np.concatenate([sample[name] for sample in samples]).reshape(shape) for name, shape in self._shapes.items()}
