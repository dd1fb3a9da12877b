"""Rewrites that remove what changes nothing and give one form to what can be written in several."""

from bmflow.passes.canonical.merge_permutes import MergePermutes
from bmflow.passes.canonical.merge_reshapes import MergeReshapes
from bmflow.passes.canonical.merge_slices import MergeSlices
from bmflow.passes.canonical.remove_dead_ops import RemoveDeadOps
from bmflow.passes.canonical.remove_full_slice import RemoveFullSlice
from bmflow.passes.canonical.remove_identity_permute import RemoveIdentityPermute
from bmflow.passes.canonical.remove_identity_reshape import RemoveIdentityReshape
from bmflow.passes.canonical.remove_single_concat import RemoveSingleConcat
from bmflow.passes.canonical.remove_unit_pool import RemoveUnitPool
from bmflow.passes.rewrite import Rewrite

CANONICAL: tuple[Rewrite, ...] = (
    RemoveDeadOps(),
    RemoveIdentityReshape(),
    RemoveIdentityPermute(),
    RemoveFullSlice(),
    RemoveSingleConcat(),
    RemoveUnitPool(),
    MergeReshapes(),
    MergePermutes(),
    MergeSlices(),
)
