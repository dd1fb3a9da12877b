"""One streaming pass over the samples: decode ahead, infer, and gather statistics while the next batches are under way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from typing import Any, NoReturn

import numpy as np

from bmflow.calibration.collect import Statistics
from bmflow.calibration.methods import Method
from bmflow.calibration.ordered import in_order
from bmflow.calibration.samples import Loader
from bmflow.errors import InputError
from bmflow.ir.module import Module
from bmflow.kernels import Executable

Arrays = dict[str, np.ndarray]
Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def collect(
    module: Module,
    loader: Loader,
    method: Method,
    bins: int = 2048,
    threads: int = 2,
    progress: Progress | None = None,
    with_kurtosis: bool = False,
    with_histograms: bool = False,
) -> Statistics:
    """Gather the statistics of every tensor; memory depends on the network and `threads`, not on the number of samples.

    Raises:
        InputError: no sample, or too few of them, can be used; a tensor holds NaN or infinity.
    """
    return collect_all(module, loader, [method], bins, threads, progress, with_kurtosis, with_histograms)[method]


def collect_all(
    module: Module,
    loader: Loader,
    methods: Sequence[Method],
    bins: int = 2048,
    threads: int = 2,
    progress: Progress | None = None,
    with_kurtosis: bool = False,
    with_histograms: bool = False,
) -> dict[Method, Statistics]:
    """`collect` for several methods in one pass."""
    planned = -(-len(loader.entries) // loader.batch)
    statistics = {method: Statistics(module, method, planned, bins, with_kurtosis, with_histograms) for method in methods}
    exposed = next(iter(statistics.values())).exposed
    executable = Executable(module, exposed, threads=1)  # whole batches run side by side: less waiting than threads inside one
    with ThreadPoolExecutor(threads) as pool:
        outputs = in_order(pool, executable.run, _batches(loader, pool, threads), threads)
        for values in progress(outputs, planned) if progress else outputs:
            for one in statistics.values():
                one.add(values)
    if not loader.used:
        _refuse(loader)
    return statistics


def first_batches(loader: Loader, count: int, threads: int = 2) -> list[Arrays]:
    """The first batches of network inputs.

    Raises:
        InputError: there is none.
    """
    with ThreadPoolExecutor(threads) as pool:
        batches = list(islice(_batches(loader, pool, threads), count))
    return batches or _refuse(loader)


def _batches(loader: Loader, pool: Executor, threads: int) -> Iterator[Arrays]:
    return loader.batches(in_order(pool, lambda entry: (entry, loader.load(entry)), loader.entries, threads + 1))


def _refuse(loader: Loader) -> NoReturn:
    entries = loader.entries
    raise InputError(f"the {len(entries)} samples do not make one batch of {loader.batch}; the first is {entries[0]}")
