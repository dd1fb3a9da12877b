"""The list of rewrites as a whole: order, names, trace."""

from __future__ import annotations

from bmflow.passes import TOP_REWRITES
from bmflow.passes.rewrite import Trace


def test_every_rewrite_is_named_after_its_file_once() -> None:
    names = [rewrite.name for rewrite in TOP_REWRITES]
    assert len(set(names)) == len(names)
    for rewrite in TOP_REWRITES:
        assert rewrite.name.replace("-", "") == type(rewrite).__name__.lower()


def test_linear_ops_fold_before_activations_fuse() -> None:
    names = [rewrite.name for rewrite in TOP_REWRITES]
    assert names.index("fuse-batch-norm-into-conv") < names.index("turn-batch-norm-into-conv") < names.index("fuse-relu-into-producer")


def test_a_reason_is_forgotten_when_the_rewrite_applies_later() -> None:
    trace = Trace()
    trace.record("merge", "a", "b is read twice")
    trace.record("merge", "c", "d is no slice")
    trace.record("merge", "a")
    assert trace.why_not("a") == []
    assert trace.counts() == {"merge": 1}
    assert trace.text() == "merge: a\nmerge: c: not applied, d is no slice"
