"""Slow calibration, written from the published rules alone with numpy and loops: what the fast one is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Op = tuple[str, list[str], Callable[..., np.ndarray]]
"""Name, names of what it reads, and its formula."""


def merged_histogram(samples: Sequence[np.ndarray], bins: int = 2048) -> tuple[np.ndarray, float]:
    """Counts and bin width after all samples."""
    counts, extent, largest = np.zeros(0, np.int64), 0.0, 0.0
    for sample in samples:
        magnitudes = np.abs(sample.astype(np.float32)).ravel()
        magnitudes = magnitudes[magnitudes > 0]
        largest = max(largest, float(magnitudes.max(initial=0.0)))
        if largest < 1e-8:
            continue
        if extent == 0:
            counts, extent = np.zeros(bins, np.int64), largest
        elif largest > extent:
            step = extent / len(counts)
            k = int((largest - extent) // step + 1)
            extent = k * step + extent
            counts = np.concatenate((counts, np.zeros(k, np.int64)))
        width = np.float32(extent / (len(counts) - 1))
        for index in np.floor(magnitudes / width + np.float32(0.5)).astype(int):
            if index < len(counts):
                counts[index] += 1
    return counts, extent / (len(counts) - 1)


def kl_losses(counts: Sequence[int], levels: int = 128) -> list[np.float32]:
    """One float32 sum a candidate, term by term."""
    h = np.asarray(counts, np.int64)
    h = np.append(h, np.zeros(-len(h) % levels, np.int64))
    losses = []
    for b in range(1, len(h) // levels + 1):
        kept = h[: b * levels]
        p = kept.astype(np.float32)
        p[-1] += np.float32(h[b * levels :].sum())
        p /= np.float32(h.sum())
        mass, loss = np.float32(kept.sum()), np.float32(0)
        for j, value in enumerate(kept):
            group = kept[j // b * b : j // b * b + b]
            q = group.sum() / max(1, np.count_nonzero(group)) / mass if value else 0.0
            loss = np.float32(loss + float(p[j]) * (np.log10(float(p[j]) + 1e-30) - np.log10(np.float32(q) + 1e-30)))
        losses.append(loss)
    return losses


def octav(x: np.ndarray, bits: int = 8) -> float:
    """The mse threshold of one sample."""
    a = np.abs(x.astype(np.float64)).ravel()
    u = 4 if abs(x.min()) < 1e-6 else 1
    s = a.sum() / np.count_nonzero(a)
    for _ in range(20):
        above = a > np.float32(s)
        following = a[above].sum() / (4.0**-bits / 3 / u * np.count_nonzero(~above) + np.count_nonzero(above))
        if abs(following - s) < 1e-6:
            break
        s = following
    return s


def percentile(values: np.ndarray, percent: float) -> tuple[float, float]:
    """(low, high) of all values together, by sorting them all."""
    ordered = np.sort(values.ravel())
    if int(ordered.size * (1 - percent / 100)) == 0:
        return float(ordered[0]), float(ordered[-1])
    keep = int(ordered.size * (1 - percent / 100)) + 1
    position = percent / 100 * (ordered.size - 1)
    fraction = position - int(position)
    top, bottom = ordered[-keep:], ordered[:keep][::-1]
    return float(bottom[0] + fraction * (bottom[1] - bottom[0])), float(top[0] + fraction * (top[1] - top[0]))


def tuned(ops: Sequence[Op], values: Sequence[Mapping[str, np.ndarray]], table: Mapping[str, float], steps: int = 21) -> dict[str, float]:
    """The walk over ops; `values` holds every float tensor of each sample, from which the largest |x| follow too."""
    largest = {name: max(float(np.abs(sample[name]).max()) for sample in values) for name in table}
    result, walked = dict(table), set[str]()
    for name, inputs, formula in ops:
        for t in [i for i in inputs if i not in walked] or inputs[:1]:
            walked.add(t)
            if largest[t] - table[t] <= 0.01:
                continue
            distances = []
            for k in range(steps + 1):
                th = table[t] + k * ((largest[t] - table[t]) / steps)
                distances.append(np.mean([_distance(formula, [s[i] for i in inputs], s[name], th) for s in values]))
            best = table[t] + int(np.argmin(distances)) * ((largest[t] - table[t]) / steps)
            result[t] = max(result[t], best)
    return result


def _distance(formula: Callable[..., np.ndarray], inputs: Sequence[np.ndarray], y: np.ndarray, th: float) -> float:
    rounded = [np.clip(np.rint(x.astype(np.float64) * 127 / th), -128, 127) * th / 127 for x in inputs]
    return float(np.linalg.norm((y - formula(*rounded)).ravel()) / np.abs(y).sum())
